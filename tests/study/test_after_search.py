"""What runs once the search is over: the front with further seeds, and the controls, end to end on Ray."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study import run
from tests.conftest import TINY

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SETTINGS = [
    *TINY,
    "study.trials=4",
    "study.confirm_seeds=2",
    "study.controls=[dense, scratch]",
    "space.granularity=channel",
    "space.criterion=magnitude_l1",
    "space.sparsity={low: 0.2, high: 0.6}",
]


@pytest.fixture(scope="module")
def rows(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All rows of a small study of channels."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "study.run", "--space", "quickstart", "--out", str(out)]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert done.returncode == 0, done.stdout
    with open(out / "quickstart" / "trials.csv") as file:
        found = list(csv.DictReader(file))
    with open(out / "quickstart" / "pareto.csv") as file:
        return out / "quickstart", found, list(csv.DictReader(file))


def of(rows: Any, kind: Any, **columns: Any) -> Any:
    return [row for row in rows[1] if row["kind"] == kind and all(row[c] == v for c, v in columns.items())]


def test_every_point_of_the_front_runs_with_two_more_seeds(rows: Any) -> None:
    front = [row["trial_id"] for row in rows[2]]
    assert front
    assert len(of(rows, "search")) == 4
    assert len(of(rows, "confirm")) == 2 * len(front)
    by_id = {row["trial_id"]: row for row in rows[1]}
    for trial_id in front:
        again = of(rows, "confirm", confirms=trial_id)
        assert len({row["seed"] for row in [*again, by_id[trial_id]]}) == 3
        for row in again:
            assert row["state"] == "complete"
            same = ("criterion", "scope", "schedule", "requested_sparsity", "finetune_lr", "steps")
            assert [row[key] for key in same] == [by_id[trial_id][key] for key in same]


def test_cut_networks_of_the_front_are_trained_anew(rows: Any) -> None:
    anew = of(rows, "control", schedule="scratch")
    by_id = {row["trial_id"]: row for row in rows[1]}
    assert sorted(row["confirms"] for row in anew) == sorted(row["trial_id"] for row in rows[2])
    for row in anew:
        assert row["state"] == "complete"
        assert row["params"] == by_id[row["confirms"]]["params"]
    assert len(of(rows, "control", schedule="dense")) == 1


def test_a_resumed_study_has_nothing_left_to_do(rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--resume", str(rows[0])]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("trial ")]
