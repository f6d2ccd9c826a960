"""Decode image files to RGB of one size."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from study.data.cache import Write
from study.data.damage import damaged

Resize = Literal["squeeze", "crop"]
BYTES_PER_TASK = 4 * 2**20  # of decoded images, which are written together


def decode(path: str, size: int, resize: Resize = "squeeze") -> np.ndarray:
    """The image at `path` as RGB, uint8 (size, size, 3); see `fitted`. Raises what Pillow raises."""
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
        return fitted(image, size, resize)


def fitted(image: Image.Image, size: int, resize: Resize = "squeeze") -> np.ndarray:
    """An image as RGB, uint8 (size, size, 3).

    Applies the EXIF orientation; converts 16 bits to 8; drops transparency.

    Args:
      image: of any size and mode.
      size: pixels of a side.
      resize: `squeeze` gives both sides this size, whatever their proportions; `crop` gives it to the shorter side and
        cuts equal parts off both ends of the longer one.
    """
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # Pillow would clip 16-bit values to 255
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    colour = upright.convert("RGB")
    if resize == "crop":
        return np.asarray(ImageOps.fit(colour, (size, size), Image.Resampling.BILINEAR))
    return np.asarray(colour.resize((size, size), Image.Resampling.BILINEAR))


def decode_files(paths: Sequence[str], size: int, resize: Resize, write: Write) -> None:
    """Decode the files at `paths` and write them as images of the rows from 0 on; see `decode_all`.

    Prints one line if some are damaged but can be decoded.
    """

    def image(row: int) -> np.ndarray:
        if not os.path.isfile(paths[row]):  # to open a named pipe waits for its writer
            raise _NotAFileError
        return decode(paths[row], size, resize)

    decode_all(len(paths), size, image, paths.__getitem__, write)
    with ThreadPoolExecutor(_threads()) as pool:
        spoiled = damaged(paths, pool.map)
    if spoiled:
        count = f"{len(spoiled):,} of {len(paths):,} images"
        print(f"warning: {count} are damaged and used as they decode; the first is {spoiled[0]!r}")


def decode_all(
    count: int, size: int, image: Callable[[int], np.ndarray], name: Callable[[int], str], write: Write
) -> None:
    """Decode and write images, with a progress bar if stderr is a terminal.

    Uses threads: Pillow releases the GIL while decoding and resizing.

    Args:
      count: number of images.
      size: pixels of a side.
      image: gives the image of a row, uint8 (size, size, 3).
      name: of a row's image, for messages.
      write: called with blocks of images, from several threads.

    Raises:
      ValueError: images cannot be decoded; with their number and the first five of them.
    """
    at_once = max(1, min(128, BYTES_PER_TASK // (3 * size * size)))

    def task(start: int) -> list[str]:
        block = np.empty((min(at_once, count - start), size, size, 3), np.uint8)
        errors = [error for offset, out in enumerate(block) if (error := decode_row(start + offset, out))]
        if not errors:
            write(start, block)
        return errors

    def decode_row(row: int, out: np.ndarray) -> str:
        try:
            out[...] = image(row)
        except Exception as error:  # Pillow's decoders raise many types on damaged files
            reason = "not a file" if isinstance(error, _NotAFileError) else type(error).__name__
            return f"{name(row)} ({reason})"
        return ""

    pool = ThreadPoolExecutor(_threads())
    try:
        tasks = range(0, count, at_once)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata
            bad = [error for errors in _with_progress(pool.map(task, tasks), len(tasks)) for error in errors]
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the queue
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {count} images cannot be decoded: {', '.join(bad[:5])}{more}; replace or remove them"
        )


class _NotAFileError(Exception):
    """What is to be decoded is no file."""


def _threads() -> int:
    return min(16, os.cpu_count() or 1)


def _with_progress(results: Iterator[list[str]], total: int) -> Iterator[list[str]]:
    visible = sys.stderr.isatty()
    yield from track(results, "decoding images", total, console=Console(stderr=True), disable=not visible)
