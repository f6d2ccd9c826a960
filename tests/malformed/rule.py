"""The rule: a command is right and ends with 0, or prints one message and ends with 2 and has changed no file.

Either within 20 seconds of computing, whatever else the machine does meanwhile. The commands run in the tests' process,
so that thousands can be tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import stat
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LIMIT, HANGING = 20, 180  # seconds of computing, and of waiting
LONGEST = 2000  # characters of a message


class Ending(NamedTuple):
    """How a command ended: its exit code, what it printed, and what is wrong with that (None: nothing)."""

    code: int | None
    out: str
    err: str
    broken: str | None


def end_of(main: Callable[[list[str]], int], arguments: list[str], *folders: Path) -> Ending:
    """Run a command in this process; if it refuses its input, nothing in `folders` may have changed."""
    before = [digest(folder) for folder in folders]
    out, err = io.StringIO(), io.StringIO()
    started = time.process_time()
    try:
        with _limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    except SystemExit as error:  # argparse
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        return Ending(None, out.getvalue(), err.getvalue(), traceback.format_exc(limit=-6))
    seconds, message = time.process_time() - started, err.getvalue()
    broken = None
    if seconds > LIMIT:
        broken = f"took {seconds:.0f} seconds"
    elif code == 2:
        broken = _wrong_message(message)
        changed = [str(f) for f, was in zip(folders, before, strict=True) if digest(f) != was]
        broken = broken or (f"refused, but changed {changed}" if changed else None)
    elif code != 0:
        broken = f"ended with {code}: {message}"
    return Ending(code, out.getvalue(), message, broken)


def _wrong_message(message: str) -> str | None:
    said = [line for line in message.splitlines() if "error: " in line]
    others = [line for line in message.splitlines() if line.strip() and "error: " not in line]
    if len(said) != 1 or "Traceback" in message or any(not line.startswith(("usage:", " ")) for line in others):
        return f"not one message: {message!r}"
    if len(message) > LONGEST:
        return f"a message of {len(message)} characters: {message[:300]!r}"
    return None


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Raise TimeoutError where the work takes longer than the limit, also while it waits for a file."""

    def late(*_: Any) -> None:
        raise _TooLateError(f"still running after {HANGING} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANGING)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _TooLateError(BaseException):
    """Not caught by any command."""


def digest(folder: Path) -> str:
    """A hash of the names, kinds and contents of all that is in a folder (or of one file)."""
    found = hashlib.sha256()
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        found.update(f"{os.fsencode(path)!r} {stat.S_IFMT(status.st_mode)}\n".encode())
        if stat.S_ISREG(status.st_mode) and path.name != ".lock":
            found.update(path.read_bytes())
    return found.hexdigest()
