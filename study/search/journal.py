"""The journal's file: one process writes it, whole lines only, and what a killed one left half-written is mended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages.journal import BaseJournalBackend


def hold(folder: Path) -> FileLock:
    """Hold the folder for this process until the lock is released; the system releases it however the process dies.

    Raises ValueError where another process holds it.
    """
    path = folder / ".lock"
    # Any thread may release it. A file system without locks is refused: a mere file would outlive its process.
    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text().strip()
        raise ValueError(f"{folder}: another run (process {holder}) is writing to this results folder") from None
    with suppress(OSError):  # on a full disk the lock holds without a name in it
        path.write_text(str(os.getpid()))
    return lock


class Journal(BaseJournalBackend):
    """A backend for Optuna's `JournalStorage`: the same file as its own, for the one process that holds the folder.

    Optuna's takes a lock, opens the file twice and waits for the disk at every line, ten times in a trial; and a line
    cut off by a full disk spoils the file. Here a line is written whole or not at all, what was just written is not
    read again, and `sync` waits for the disk when it matters: a process that is killed loses nothing without it.
    """

    def __init__(self, path: Path) -> None:
        lines = _mended(path)
        self._path, self._file = path, path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._from, self._new = lines, list[str]()  # the lines that may still be asked for, from this number on

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from this number on."""
        if log_number_from < self._from:  # of an earlier process
            with self._path.open("rb") as file:
                yield from (json.loads(line) for number, line in enumerate(file) if number >= log_number_from)
            return
        del self._new[: log_number_from - self._from]
        self._from = log_number_from
        yield from map(json.loads, tuple(self._new))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines. Raises OSError (a full disk), and the file is then as it was before."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        content = memoryview("".join(line + "\n" for line in lines).encode())
        end = self._size + len(content)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size = end
        self._new += lines

    def sync(self) -> None:
        """Wait until all lines are on the disk: from here on they outlive a power failure, too."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _mended(path: Path) -> int:
    """Cut off what a killed process left half-written, and a lock that Optuna's own backend may have left.

    Returns the number of lines.
    """
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    content = path.read_bytes() if path.exists() else b""
    end = len(content)
    while end and not _is_line(content[(start := content.rfind(b"\n", 0, end - 1) + 1) : end]):
        end = start
    if end < len(content):
        os.truncate(path, end)
    return content.count(b"\n", 0, end)


def _is_line(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
