"""Notice JPEGs that are damaged but can be decoded: libjpeg guesses what is missing, and warns on stderr at most."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

SUFFIXES = (".jpg", ".jpeg")


def damaged(paths: Sequence[str], map_: Callable[[Callable[[str], None], Iterable[str]], Iterable[None]]) -> list[str]:
    """The JPEGs among `paths`, files that can be decoded, of which libjpeg says that their data are corrupt.

    map_: as the built-in `map`, perhaps with threads. What other threads write to stderr meanwhile is lost.
    """
    paths = [path for path in paths if path.lower().endswith(SUFFIXES)]
    with _stderr_size() as written:
        for _ in map_(_decode, paths):
            pass
        if not written():
            return []
    # Only now one after the other, to know of which image it speaks.
    found = []
    with _stderr_size() as written:
        for path in paths:
            before = written()
            _decode(path)
            found += [path] * (written() > before)
    return found


def _decode(path: str) -> None:
    """Decode with torchvision, since Pillow drops libjpeg's warnings."""
    import torch  # takes seconds to import; only for images that are not cached
    from torchvision.io import ImageReadMode, decode_jpeg

    with open(path, "rb") as file, suppress(RuntimeError, ValueError):  # it knows fewer kinds than Pillow
        decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8), ImageReadMode.UNCHANGED)


@contextmanager
def _stderr_size() -> Iterator[Callable[[], int]]:
    """Send this process's stderr, also that of C code, into a file; gives a function for the bytes written so far."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: os.fstat(file.fileno()).st_size
        finally:
            os.dup2(kept, 2)
            os.close(kept)
