"""Files read whole, and written atomically: a killed process or a full disk never leaves a partial file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}


def read_whole(path: Path) -> bytes:
    """The content of a file. Raises ValueError, naming it, if it cannot be read or is no regular file."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind != stat.S_IFREG:  # to open a pipe waits for its writer, and a device may have no end
            raise ValueError(f"{path}: is {_KINDS.get(kind, 'a device')}, not a file")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError:
        raise ValueError(f"{path}: cannot be read: it is larger than the memory") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically (temporary file in the same folder, then rename); creates its folder."""
    # `analysis` has its own version, because importing `models` imports torch.
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix; it replaces `path` unless an error is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
