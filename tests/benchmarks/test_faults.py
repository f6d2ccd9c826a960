"""Drivers killed repeatedly: a short run of benchmarks/faults.py."""

from pathlib import Path

from benchmarks.faults import kill_drivers


def test_no_finished_trial_is_lost_and_none_runs_twice(tmp_path: Path) -> None:
    found = kill_drivers(tmp_path, kills=12, trials=40, seed=1)
    assert found.pop("kills") >= 6  # of 12; a driver that comes to its end sooner is killed less often
    assert found.pop("finished") + found.pop("given_up") == 80
    assert set(found.values()) == {0}, found
