"""Replay: the nearest recorded recipe by hand, and simulated time where it can be worked out."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from study import replay
from study.config import parse
from study.config.columns import COLUMNS, HISTORY
from study.results.files import write_rows, write_study
from study.selection.early_stopping import Promoter, Stopper
from study.simulation import simulator
from study.simulation.recorded import Recorded, _axis_position

SPACE = {
    "criterion": ["magnitude_l1", "random"],
    "granularity": "weight",
    "scope": "global",
    "schedule": ["one_shot", "iterative"],
    "steps": {"choices": [2, 4], "when": {"schedule": ["iterative"]}},
    "sparsity": {"low": 0.0, "high": 0.8},
    "finetune_epochs": 2,
    "finetune_lr": {"low": 0.001, "high": 0.1, "log": True},
}
RUNS = [  # criterion, schedule, steps, sparsity, lr; accuracy, epochs
    ("magnitude_l1", "one_shot", 1, 0.2, 0.01, 0.9, (0.8, 0.9)),
    ("magnitude_l1", "iterative", 4, 0.6, 0.01, 0.7, (0.6, 0.7)),
    ("random", "one_shot", 1, 0.2, 0.01, 0.3, (0.2, 0.3)),
]


@pytest.fixture
def recorded(tmp_path: Path) -> Any:
    """Three recorded trials of 10 s: 2 s before the epochs, two epochs of 4 s."""
    file = parse({"study": {"name": "x"}, "space": SPACE}, "x")
    write_study(tmp_path, file.resolved(), {"schema_version": 1})
    rows, lines = [], []
    for number, (criterion, schedule, steps, sparsity, lr, accuracy, epochs) in enumerate(RUNS):
        row = {"trial_id": f"{number:04d}", "kind": "search", "state": "complete", "criterion": criterion}
        row |= {"granularity": "weight", "scope": "global", "schedule": schedule, "steps": steps, "finetune_lr": lr}
        row |= {"requested_sparsity": sparsity, "sparsity": sparsity, "accuracy": accuracy, "finetune_epochs": 2}
        rows.append(row | {"test_accuracy": 0.5, "accuracy_drop": 0.1, "wall_seconds": 10.0, "train_seconds": 8.0})
        for epoch, value in enumerate(epochs, start=1):
            lines.append({"trial_id": row["trial_id"], "epoch": epoch, "accuracy": value, "seconds": 4.0})
    rows.append(rows[0] | {"trial_id": "0003", "state": "failed"})
    write_rows(tmp_path / "trials.csv", COLUMNS, rows)
    write_rows(tmp_path / "history.csv", HISTORY, lines)
    return Recorded(tmp_path)


def recipe(
    criterion: Any = "magnitude_l1",
    schedule: Any = "one_shot",
    sparsity: Any = 0.2,
    finetune_lr: Any = 0.01,
    **more: Any,
) -> Any:
    return {"criterion": criterion, "schedule": schedule, "sparsity": sparsity, "finetune_lr": finetune_lr, **more}


def test_only_complete_trials_stand_in(recorded: Any) -> None:
    assert [run.values for run in recorded.runs] == [(0.9, 0.2), (0.7, 0.6), (0.3, 0.2)]
    assert recorded.runs[0].epochs == [(6.0, 0.8), (10.0, 0.9)]
    assert recorded.volume({0, 1}) == pytest.approx(0.9 * 0.2 + 0.7 * 0.4)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        (recipe(), 0),
        (recipe("random"), 2),
        (recipe("random", sparsity=0.8, finetune_lr=0.1), 2),  # 0.75 + 0.5 from it, 1 more from the first
        (recipe(schedule="iterative", steps=4, sparsity=0.6), 1),
        (recipe(schedule="iterative", steps=2, sparsity=0.2), 1),  # 1 + 0.5, against 1 + 1 (steps has only one)
        (recipe(sparsity=0.79), 0),  # 0.7375, against 2 + 0.2375
    ],
)
def test_the_nearest_recipe_by_hand(recorded: Any, asked: Any, nearest: Any) -> None:
    assert recorded.nearest(asked) == nearest


def test_values_of_a_log_axis_are_near_by_their_ratio(recorded: Any) -> None:
    assert _axis_position(recorded.axes["finetune_lr"], 0.01) == pytest.approx(0.5)
    assert _axis_position(recorded.axes["sparsity"], 0.2) == pytest.approx(0.25)


@pytest.mark.parametrize("searcher", ["random", "grid", "tpe", "nsga2"])
def test_one_worker_spends_what_the_trials_take_and_ends_at_what_is_there(recorded: Any, searcher: Any) -> None:
    course = simulator.replay(recorded, searcher, 0, trials=30)
    assert course.compute[-1] == pytest.approx(300)
    assert course.volume[-1] <= recorded.volume({0, 1, 2}) + 1e-12
    assert (course.volume[1:] >= course.volume[:-1]).all()
    assert 300 <= course.makespan < 310
    assert course.at(0) == 0
    assert course.at(math.inf) == course.volume[-1]


def test_workers_train_side_by_side_and_wait_for_one_driver(recorded: Any) -> None:
    course = simulator.replay(recorded, "random", 0, trials=40, workers=10, overhead=2.0)
    # The driver hands out a trial every 2 s and a trial takes 10 s: five of ten workers have work.
    assert course.makespan == pytest.approx(40 * 2.0 + 10, abs=1)
    assert course.idle == pytest.approx(0.5, abs=0.1)
    free = simulator.replay(recorded, "random", 0, trials=40, workers=10)
    assert free.makespan == pytest.approx(40, abs=1)


def test_stopped_trials_cost_less_and_count_for_nothing(recorded: Any) -> None:
    whole = simulator.replay(recorded, "random", 3, trials=50)
    course = simulator.replay(recorded, "random", 3, trials=50, stopper=Stopper(1, 2))
    assert 0 < course.stopped < 50
    assert course.compute[-1] == pytest.approx(500 - 4 * course.stopped)
    assert course.volume[-1] <= whole.volume[-1] + 1e-12


def test_paused_trials_that_go_on_cost_their_rest_where_they_were_and_all_of_it_elsewhere(recorded: Any) -> None:
    alone, beside = (
        simulator.replay(recorded, "random", 3, trials=50, stopper=Promoter(1, 2), workers=workers)
        for workers in (1, 2)
    )
    for course in (alone, beside):
        assert 0 < course.stopped < 25
        assert len(course.compute) > 50  # of a trial that goes on, one time more
        assert (course.compute[1:] > course.compute[:-1]).all()
    assert alone.compute[-1] == pytest.approx(500 - 4 * alone.stopped)
    again = (beside.compute[-1] - (500 - 4 * beside.stopped)) / 6
    assert again == pytest.approx(round(again))
    assert 0 < round(again) <= len(beside.compute) - 50


def test_a_budget_of_compute_ends_the_search(recorded: Any) -> None:
    course = simulator.replay(recorded, "random", 0, compute=95)
    assert len(course.compute) == 10


def test_the_command_says_what_it_found_and_what_is_wrong(
    recorded: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay.main([str(tmp_path), "--sampler", "random", "--trials", "20", "--stop-early", "1,2"]) == 0
    assert "random on 3 recorded trials" in capsys.readouterr().out
    for arguments, message in (
        (["--sampler", "nothing"], "unknown sampler 'nothing'; choices: tpe"),
        (["--stop-early", "1"], "expected MIN_EPOCHS,REDUCTION"),
        (["--stop-early", "0,3"], "min_epochs 0"),
        (["--promote"], "--promote: goes with --stop-early"),
    ):
        assert replay.main([str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err
    trials = pd.read_csv(tmp_path / "trials.csv", dtype=str)
    trials.assign(state="failed").to_csv(tmp_path / "trials.csv", index=False)
    assert replay.main([str(tmp_path)]) == 2
    assert "no complete trial" in capsys.readouterr().err
