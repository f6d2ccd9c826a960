"""The journal's file: whole lines, whatever happens to the process or the disk; the same that Optuna's own reads."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from study.search.journal import Journal, lock_folder


def lines(journal: Any, first: Any = 0) -> Any:
    return list(journal.read_logs(first))


def test_what_is_written_is_read_once_by_this_process_and_whole_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.append_logs([{"a": 1}, {"b": [1, 2]}])
    assert lines(journal) == [{"a": 1}, {"b": [1, 2]}]
    journal.append_logs([{"c": None}])
    assert lines(journal, 2) == [{"c": None}]
    assert lines(journal, 3) == []
    journal.close()
    again = Journal(path)
    assert lines(again) == [{"a": 1}, {"b": [1, 2]}, {"c": None}]
    again.append_logs([{"d": 0.1}])
    assert lines(again, 3) == [{"d": 0.1}]
    assert lines(again, 1) == [{"b": [1, 2]}, {"c": None}, {"d": 0.1}]


def test_optunas_own_backend_reads_the_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    logs = [{"op_code": 0, "worker_id": "w", "text": "ä\n"}, {"op_code": 1, "nested": {"x": [1.5, None]}}]
    journal.append_logs(logs)
    assert list(JournalFileBackend(str(tmp_path / "j")).read_logs(0)) == logs


@pytest.mark.parametrize("torn", [b'{"c": ', b'{"c": 3}', b"\x00\x00\x00\n", b'[1]\n{"d"', b"\n"])
def test_a_torn_end_is_cut_off_and_what_comes_after_it_is_sound(tmp_path: Path, torn: Any) -> None:
    whole = b'{"a":1}\n{"b":2}\n'
    (tmp_path / "j").write_bytes(whole + torn)
    journal = Journal(tmp_path / "j")
    assert lines(journal) == [{"a": 1}, {"b": 2}]
    assert (tmp_path / "j").read_bytes() == whole + torn  # until something is written
    journal.append_logs([{"e": 5}])
    assert (tmp_path / "j").read_bytes() == whole + b'{"e":5}\n'
    assert lines(journal) == [{"a": 1}, {"b": 2}, {"e": 5}]


def test_a_full_disk_leaves_the_file_as_it_was_and_is_survived(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append_logs([{"a": 1}])
    before = (tmp_path / "j").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # ten bytes fit, the line does not
    try:
        with pytest.raises(OSError, match="large"):
            journal.append_logs([{"long": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "j").read_bytes() == before
    journal.append_logs([{"b": 2}])
    assert lines(journal) == [{"a": 1}, {"b": 2}]
    assert [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()] == [{"a": 1}, {"b": 2}]


def test_a_folder_is_held_by_one_and_free_once_its_holder_is_dead(tmp_path: Path) -> None:
    lock = lock_folder(tmp_path)
    for _ in range(2):  # being refused leaves the holder's name where it is
        with pytest.raises(ValueError, match=f"process {os.getpid()}\\)"):
            lock_folder(tmp_path)
    lock.release()
    if not (child := os.fork()):
        held = lock_folder(tmp_path)
        os.kill(os.getpid(), signal.SIGKILL)
        held.release()
    os.waitpid(child, 0)
    lock_folder(tmp_path).release()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_forked_child_neither_holds_the_folder_nor_lets_it_go(tmp_path: Path) -> None:
    ready, says = os.pipe()
    if not (holder := os.fork()):
        held = lock_folder(tmp_path)
        if not (child := os.fork()):
            signal.pause()
        os.write(says, b"%d" % child)
        signal.pause()
        held.release()
    child = int(os.read(ready, 20))
    try:
        with pytest.raises(ValueError, match=f"process {holder}"):
            lock_folder(tmp_path)
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        lock = lock_folder(tmp_path)  # although the child lives
    finally:
        os.kill(child, signal.SIGKILL)
    if not (other := os.fork()):
        os._exit(0)
    os.waitpid(other, 0)
    with pytest.raises(ValueError, match=f"process {os.getpid()}"):
        lock_folder(tmp_path)
    lock.release()
