"""The journal file: one process writes it, in whole lines; a line left partial by a killed process is removed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from optuna.storages.journal import BaseJournalBackend

BEAT = 5  # seconds


def lock_folder(folder: Path) -> FileLock:
    """Lock the results folder for this process; the operating system releases the lock when the process ends.

    Raises ValueError if another process has the lock.
    """
    path = folder / ".lock"
    # Any thread may release it. File systems without locks are refused: a plain lock file would outlive its process.
    lock = FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        holder = path.read_text().strip()
        raise ValueError(f"{folder}: another run (process {holder}) is writing to this results folder") from None
    with suppress(OSError):  # on a full disk the lock works without the process id
        path.write_text(str(os.getpid()))
    return lock


class Journal(BaseJournalBackend):
    """A backend for Optuna's `JournalStorage`, in its file format, for the one process that locked the folder.

    Optuna's own backend takes a lock, opens the file twice and calls fsync for every line, ten times per trial; and a
    line cut off by a full disk corrupts the file. Here a line is written completely or not at all, lines just written
    are not read again, and `sync` calls fsync. A killed process loses nothing even without `sync`. While the process
    lives, the file's time of change is at most BEAT seconds ago.
    """

    def __init__(self, path: Path) -> None:
        lines = _repair(path)
        self._path, self._file = path, path.open("ab", buffering=0)
        self._size = path.stat().st_size
        self._from, self._new = lines, list[str]()  # recent lines kept in memory, starting at line number _from
        self._closed = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            with suppress(OSError):
                os.utime(self._path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines starting at this number."""
        if log_number_from < self._from:  # no longer in memory
            with self._path.open("rb") as file:
                yield from (json.loads(line) for number, line in enumerate(file) if number >= log_number_from)
            return
        del self._new[: log_number_from - self._from]
        self._from = log_number_from
        yield from map(json.loads, tuple(self._new))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines. Raises OSError (a full disk) and leaves the file as it was."""
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
        """Wait until all lines are on disk, where they survive a power failure."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        self._file.close()


def _repair(path: Path) -> int:
    """Remove a partial last line, and a lock file that Optuna's own backend may have left; returns the line count."""
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
