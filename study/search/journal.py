"""The journal file: one process writes it, in whole lines; a line left partial by a killed process is removed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from itertools import islice
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

    A partial last line is not read, and removed by the first line that is written: reading alone changes nothing.

    Args:
      path: of the file.
      check: called with each line that is read from the file; raises if the line is wrong.

    Attributes:
      line: the number of the line read last, from 1.

    Raises:
      ValueError: the file has lines, but none of a journal.
    """

    def __init__(self, path: Path, check: Callable[[Any], None] = lambda log: None) -> None:
        content = path.read_bytes() if path.exists() else b""
        self._path, self._check, self.line = path, check, 0
        self._size = _whole(content)
        if b"\n" in content and not self._size:
            raise ValueError(f"{path}: line 1: is no line of a journal")
        self._file: FileIO | None = None  # once a line was written
        # Recent lines are kept in memory, starting at line number _from.
        self._from, self._new = content.count(b"\n", 0, self._size), list[str]()
        self._closed = threading.Event()

    def _open(self) -> FileIO:
        """The file, open for writing, without a partial last line and a lock that Optuna's backend may have left."""
        if self._file is None:
            self._path.with_name(self._path.name + ".lock").unlink(missing_ok=True)
            self._file = self._path.open("ab", buffering=0)
            self._file.truncate(self._size)
            threading.Thread(target=self._beat, daemon=True).start()
        return self._file

    def _beat(self) -> None:
        while not self._closed.wait(BEAT):
            with suppress(OSError):
                os.utime(self._path)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines starting at this number."""
        if log_number_from < self._from:  # no longer in memory
            with self._path.open("rb") as file:
                for number, line in enumerate(islice(file, log_number_from, self._from), start=log_number_from + 1):
                    self.line = number
                    self._check(log := json.loads(line))
                    yield log
        del self._new[: max(0, log_number_from - self._from)]
        self._from = max(self._from, log_number_from)
        yield from map(json.loads, tuple(self._new))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines. Raises OSError (a full disk) and leaves the file as it was."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        content = memoryview("".join(line + "\n" for line in lines).encode())
        end, file = self._size + len(content), self._open()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:
            os.ftruncate(file.fileno(), self._size)
            raise
        self._size = end
        self._new += lines

    def sync(self) -> None:
        """Wait until all lines are on disk, where they survive a power failure."""
        os.fsync(self._open().fileno())

    def close(self) -> None:
        """Close the file."""
        self._closed.set()
        if self._file is not None:
            self._file.close()


def _whole(content: bytes) -> int:
    """Where the last whole line ends."""
    end = len(content)
    while end and not _is_line(content[(start := content.rfind(b"\n", 0, end - 1) + 1) : end]):
        end = start
    return end


def _is_line(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
