"""A run's folder for temporary files; what killed runs left is removed by later ones."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "pruning-study-"
YOUNG = 60  # seconds in which a folder without a lock may belong to a run that is just starting


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in the system's temporary folder, removed at the end; first removes those of runs that were killed."""
    _sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with FileLock(folder / ".lock", blocking=False):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the scratch folders that no process holds locked; other users' stay, as removing them is not allowed."""
    for folder in parent.glob(PREFIX + "*"):
        try:
            if time.time() - folder.stat().st_mtime < YOUNG:
                continue
            with FileLock(folder / ".lock", blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, Timeout):
            continue
