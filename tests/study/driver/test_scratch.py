"""A run's temporary files: removed at its end, and those of killed runs by the next."""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from study.driver.scratch import PREFIX, YOUNG, scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def old(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    age = time.time() - 2 * YOUNG
    os.utime(folder, (age, age))
    return folder


def test_nothing_is_left() -> None:
    with scratch() as folder:
        (folder / "part").mkdir()
    assert not folder.exists()


def test_what_a_killed_run_left_is_removed_and_nothing_else(temporary: Any) -> None:
    left, other = old(temporary / f"{PREFIX}abc"), old(temporary / "other")
    young = temporary / f"{PREFIX}young"
    young.mkdir()
    with scratch():
        assert not left.exists()
        assert other.exists()
        assert young.exists()


def test_the_folder_of_a_running_study_stays() -> None:
    with scratch() as first:
        old(first)
        with scratch():
            assert (first / "file").exists()
