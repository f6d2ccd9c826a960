"""Images kept in files: written block by block as they are decoded, read as they are needed."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

IN_MEMORY = 2**30  # bytes of decoded images up to which processes share one copy in memory; larger sets are read
JPEG_QUALITY = 95
_NAMES = {False: "images.npy", True: "images.jpegs"}


@dataclass(frozen=True, eq=False)
class DiskImages:
    """Images in a file. Processes read only what they need, so a set may be larger than the memory.

    path: of the file, which every process that reads must see.
    shape: (N, H, W, C).
    spans: int64 (N, 2): where each image starts in the file, and its bytes.
    jpeg: whether the bytes are a JPEG; else they are pixels, uint8 (H, W, C).
    """

    path: str
    shape: tuple[int, int, int, int]
    spans: np.ndarray
    jpeg: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all images when they are decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The images of `rows`, (B,): uint8 (B, H, W, C). Threads may read at the same time."""
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        with open(self.path, "rb", buffering=0) as file:
            for image, (start, size) in zip(images, self.spans[rows].tolist(), strict=True):
                file.seek(start)
                if self.jpeg:
                    image[...] = _from_jpeg(file.read(size), image.shape[2])
                elif file.readinto(image.data.cast("B")) != size:
                    raise OSError(f"{self.path}: ends early; delete its folder, which is then made again")
        return images


class ImageWriter:
    """Writes the images of a data set to a folder, in any order and from several threads, with their moments.

    Nothing is mapped into memory: a process that decodes a large set does not grow, and a full disk is an OSError.

    Args:
      folder: an existing folder.
      shape: (N, H, W, C).
      jpeg: keep images as JPEG instead of pixels.
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], jpeg: bool) -> None:
        self._shape, self._jpeg, self._folder = shape, jpeg, folder
        self._lock = threading.Lock()
        self._file = open(folder / _NAMES[jpeg], "wb")  # noqa: SIM115 - closed by `close`
        if not jpeg:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._spans = np.zeros((shape[0], 2), np.int64)
        self._moments = np.empty((shape[0], 2, shape[3]), np.int64)

    def write(self, first: int, images: np.ndarray) -> None:
        """Write images uint8 (B, H, W, C) as those of the rows from `first` on."""
        rows = slice(first, first + len(images))
        self._moments[rows] = _moments(images)
        if not self._jpeg:
            with self._lock:
                self._file.seek(self._start + first * images[0].size)
                self._file.write(np.ascontiguousarray(images).data)
            return
        encoded = [_as_jpeg(image) for image in images]
        with self._lock:
            ends = self._file.tell() + np.cumsum([len(image) for image in encoded])
            self._file.write(b"".join(encoded))
        self._spans[rows] = np.stack([ends - [len(image) for image in encoded], [len(i) for i in encoded]], axis=1)

    def close(self) -> None:
        """Complete the files."""
        self._file.close()
        np.save(self._folder / "moments.npy", self._moments)
        if self._jpeg:
            np.save(self._folder / "spans.npy", self._spans)


def open_images(folder: Path, shape: tuple[int, int, int, int], jpeg: bool) -> np.ndarray | DiskImages:
    """The images that an `ImageWriter` wrote: an array mapped into memory, of large sets and JPEGs `DiskImages`.

    Raises OSError or ValueError for files that are missing or of another size.
    """
    path = folder / _NAMES[jpeg]
    if jpeg:
        spans = np.load(folder / "spans.npy")
        if spans.shape != (shape[0], 2) or path.stat().st_size != spans[:, 1].sum():
            raise ValueError(f"{path}: of another size than its data set")
        return DiskImages(str(path), shape, spans, jpeg)
    # asarray: a plain ndarray view of the memory map, which Ray shares without a copy.
    mapped: Any = np.load(path, mmap_mode="r")  # which raises ValueError for a file that ends early
    if mapped.shape != shape:
        raise ValueError(f"{path}: {mapped.shape} images instead of {shape}")
    if mapped.nbytes <= IN_MEMORY:
        return np.asarray(mapped)
    size = mapped[0].nbytes
    spans = np.stack([mapped.offset + size * np.arange(shape[0]), np.full(shape[0], size)], axis=1)
    return DiskImages(str(path), shape, spans, jpeg)


def _as_jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
        file, "JPEG", quality=JPEG_QUALITY, subsampling=0
    )
    return file.getvalue()


def _from_jpeg(content: bytes, channels: int) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image)
    return pixels[..., None] if channels == 1 else pixels


def _moments(images: np.ndarray) -> np.ndarray:
    """int64 (N, 2, C): per image, sums of pixel values and of their squares, for exact mean and std of any split."""
    count, height, width, channels = images.shape
    result = np.empty((count, 2, channels), np.int64)
    for start in range(0, count, 64):  # in chunks: squares take four times the memory
        pixels = images[start : start + 64].reshape(-1, height * width, channels)
        planes = pixels.transpose(0, 2, 1).copy()  # summing contiguous pixels is ten times as fast
        result[start : start + 64, 0] = planes.sum(2, dtype=np.int64)
        result[start : start + 64, 1] = np.square(planes, dtype=np.uint32).sum(2, dtype=np.int64)
    return result


def bytes_on_disk(shape: tuple[int, int, int, int], jpeg: bool) -> int:
    """About how many bytes the files of a data set take; a JPEG of this quality a fifth of its pixels at most."""
    return int(np.prod(shape, dtype=np.int64)) // (5 if jpeg else 1)
