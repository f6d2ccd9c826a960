"""A folder of images: which files it holds, and their pixels as one array."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
IMAGES_PER_TASK = 128


class File(NamedTuple):
    """An image file, with what tells that it has changed."""

    path: str
    size: int
    mtime_ns: int


def list_classes(folder: Path) -> dict[str, list[File]]:
    """The image files below each class of `folder` (its sub-folders), known by extension; both are sorted.

    Hidden files and folders are left out. Raises ValueError naming `folder` if it is missing or has not two
    classes, and naming the classes that hold no image.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; images are expected as {folder}/<class>/<name>.jpg")
    classes = {entry.name: list(_files(entry.path)) for entry in _entries(folder) if entry.is_dir()}
    if len(classes) < 2:
        found = f"one class only ({', '.join(classes)})" if classes else "no class (a sub-folder of images each)"
        raise ValueError(f"{folder}: holds {found}; at least two are needed to tell apart")
    if empty := [name for name, files in classes.items() if not files]:
        raise ValueError(f"{folder}: no image in {', '.join(empty)}; known are {' '.join(sorted(EXTENSIONS))}")
    return classes


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _files(folder: str) -> Iterator[File]:
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _files(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
            # A link to nowhere is listed too, so that decoding names it among the images that cannot be read.
            stat = entry.stat(follow_symlinks=entry.is_file())
            yield File(entry.path, stat.st_size, stat.st_mtime_ns)


def decode(path: str, size: int) -> np.ndarray:
    """The image at `path` as RGB, uint8 (size, size, 3); all of it, so that an oblong one is squeezed.

    Turned upright as its EXIF data say; 16 bits become 8; transparency is dropped. Raises what Pillow raises.
    """
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # a large JPEG is scaled down (by 2, 4 or 8) as it is decoded
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # Pillow would clip 16 bits to 255: all white
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.asarray(upright.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def decode_all(paths: Sequence[str], out: np.ndarray) -> None:
    """Decode `paths` into `out`, uint8 (N, size, size, 3); a progress bar on stderr where that is a terminal.

    In threads: Pillow lets go of the interpreter as it decodes and resizes, most of the time for all but tiny
    images. Raises one ValueError with the number, and the first five, of all images that cannot be decoded.
    """

    def task(start: int) -> list[str]:
        return [bad for row in range(start, min(start + IMAGES_PER_TASK, len(paths))) if (bad := _try(row))]

    def _try(row: int) -> str:
        try:
            out[row] = decode(paths[row], out.shape[1])
        except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
            return f"{paths[row]} ({type(error).__name__})"
        return ""

    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))
    try:
        tasks = range(0, len(paths), IMAGES_PER_TASK)
        bad = [one for some in _shown(pool.map(task, tasks), len(tasks)) for one in some]
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C must not wait for all that is queued
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ValueError(
            f"{len(bad)} of {len(paths)} images cannot be decoded: {', '.join(bad[:5])}{more}; replace or remove them"
        )


def _shown(results: Iterator[list[str]], total: int) -> Iterator[list[str]]:
    shown = sys.stderr.isatty()
    yield from track(results, "decoding images", total, console=Console(stderr=True), disable=not shown)
