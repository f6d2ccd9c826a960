"""Image folders: list the files by class and decode them into one array."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from study.data.damage import damaged

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
IMAGES_PER_TASK = 128


class File(NamedTuple):
    """An image file with size and mtime, to detect changes."""

    path: str
    size: int
    mtime_ns: int


def list_classes(folder: Path) -> dict[str, list[File]]:
    """Class name (sub-folder of `folder`) -> its image files, by extension and recursively; both are sorted.

    Hidden files and folders are skipped. Raises ValueError if `folder` is missing or has fewer than two classes, or
    if a class has no image.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; images are expected as {folder}/<class>/<name>.jpg")
    classes = {entry.name: list(_files(entry.path)) for entry in _entries(folder) if entry.is_dir()}
    if len(classes) < 2:
        found = f"one class only ({', '.join(classes)})" if classes else "no class (a sub-folder of images each)"
        raise ValueError(f"{folder}: holds {found}; at least two classes are needed")
    if wrong := [name for name in classes if not name.isprintable()]:
        raise ValueError(f"{folder}: the class {wrong[0]!r} has a name that is no text; rename the folder")
    if empty := [name for name, files in classes.items() if not files]:
        raise ValueError(f"{folder}: no image in {', '.join(empty)}; known extensions: {' '.join(sorted(EXTENSIONS))}")
    return classes


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _files(folder: str) -> Iterator[File]:
    around = {_identity(os.stat(path)) for path in (Path(folder), *Path(folder).parents)}
    pending = [(entry, around) for entry in reversed(_entries(folder))]
    while pending:  # not recursive: folders may lie in each other a thousand deep
        entry, above = pending.pop()
        if entry.is_dir():
            if (own := _identity(entry.stat())) in above:
                raise ValueError(f"{entry.path}: links to a folder that it lies in; remove the link")
            pending += [(inner, above | {own}) for inner in reversed(_entries(entry.path))]
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            # Broken links are listed too, so that decoding reports them as unreadable.
            stat = entry.stat(follow_symlinks=entry.is_file())
            yield File(entry.path, stat.st_size, stat.st_mtime_ns)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def decode(path: str, size: int) -> np.ndarray:
    """The image at `path` as RGB, uint8 (size, size, 3), resized without cropping or keeping its aspect ratio.

    Applies the EXIF orientation; converts 16 bits to 8; drops transparency. Raises what Pillow raises.
    """
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # decodes a large JPEG at 1/2, 1/4 or 1/8 of its size
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # Pillow would clip 16-bit values to 255
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def decode_all(paths: Sequence[str], out: np.ndarray) -> None:
    """Decode `paths` into `out`, uint8 (N, size, size, 3), with a progress bar if stderr is a terminal.

    Uses threads: Pillow releases the GIL while decoding and resizing. Prints one line if some are damaged but can be
    decoded. Raises one ValueError with the number of images that cannot be decoded and the first five of them.
    """

    def task(start: int) -> list[str]:
        return [error for row in range(start, min(start + IMAGES_PER_TASK, len(paths))) if (error := decode_row(row))]

    def decode_row(row: int) -> str:
        if not os.path.isfile(paths[row]):  # to open a named pipe waits for its writer
            return f"{paths[row]} (not a file)"
        try:
            out[row] = decode(paths[row], out.shape[1])
        except Exception as error:  # Pillow's decoders raise many types on damaged files
            return f"{paths[row]} ({type(error).__name__})"
        return ""

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        tasks = range(0, len(paths), IMAGES_PER_TASK)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata
            bad = [error for errors in _with_progress(pool.map(task, tasks), len(tasks)) for error in errors]
        spoiled = [] if bad else damaged(paths, pool.map)
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for the queue
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {len(paths)} images cannot be decoded: {', '.join(bad[:5])}{more}; replace or remove them"
        )
    if spoiled:
        count = f"{len(spoiled):,} of {len(paths):,} images"
        print(f"warning: {count} are damaged and used as they decode; the first is {spoiled[0]!r}")


def _with_progress(results: Iterator[list[str]], total: int) -> Iterator[list[str]]:
    visible = sys.stderr.isatty()
    yield from track(results, "decoding images", total, console=Console(stderr=True), disable=not visible)
