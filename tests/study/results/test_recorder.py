"""The recorder's front: row by row what it would be over all rows at once, and only its networks stay."""

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from analysis.statistics.pareto import is_nondominated
from study.config import parse
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.results.recorder import TrialRecorder
from study.search.trial_queue import TrialQueue


def recorder_of(folder: Any, **study: Any) -> Any:
    space = {"criterion": "magnitude_l1", "granularity": "weight", "schedule": "one_shot"}
    queue = TrialQueue(folder, parse({"study": {"name": "x", "trials": 60, **study}, "space": space}, "x.yaml"))
    return queue, TrialRecorder(folder, queue.store, LiveView("x", 60, ""), {}, {})


def run(queue: Any, recorder: Any, count: Any) -> None:
    dice = random.Random(count)
    for _ in range(count):
        ticket = queue.ask()
        values = {name: round(dice.random(), 1) for name in ("accuracy", "sparsity")}  # coarse: with ties
        row = {"state": dice.choice(["complete", "complete", "failed"]), "error": "why", **values}
        row |= {"criterion": "c", "granularity": "g", "scope": "s", "schedule": "o", "wall_seconds": 1.0}
        (recorder._folder / "models" / ticket.trial_id).mkdir(parents=True)
        with contextlib.redirect_stdout(None):
            recorder.record(TrialReport(ticket, row | {"accuracy_drop": 0.0}, []))


def expected(queue: Any) -> Any:
    rows = [row for row in queue.store.rows() if row["feasible"]]
    best = is_nondominated([[row["accuracy"], row["sparsity"]] for row in rows], ["max", "max"])
    return {row["trial_id"] for row, stays in zip(rows, best, strict=True) if stays}


def test_the_front_grows_row_by_row_and_is_the_same_after_a_restart(tmp_path: Path) -> None:
    queue, recorder = recorder_of(tmp_path)
    run(queue, recorder, 50)
    front = {row["trial_id"] for row in recorder.front}
    assert front == expected(queue)
    assert front
    queue.store.close()
    _, again = recorder_of(tmp_path)
    assert {row["trial_id"] for row in again.front} == front
    assert {path.name for path in (tmp_path / "models").iterdir()} == front


def test_rows_that_the_ledger_told_by_itself_enter_the_front(tmp_path: Path) -> None:
    queue, recorder = recorder_of(tmp_path, repeats="stored", start_with=[{"sparsity": 0.5, "finetune_lr": 0.01}])
    known = {"state": "complete", "error": None, "accuracy": 1.0, "sparsity": 1.0, "seed": 1, "wall_seconds": 0.0}
    known |= {"criterion": "c", "granularity": "g", "scope": "s", "schedule": "o"}
    queue._known = lambda recipe: (known, []) if recipe["sparsity"] == 0.5 else None
    run(queue, recorder, 3)
    assert [row["trial_id"] for row in recorder.front] == ["0000"]


def test_a_hypervolume_counts_costs_in_shares_of_the_dense_network(tmp_path: Path) -> None:
    queue, _ = recorder_of(tmp_path, objectives={"accuracy": "max", "macs": "min"})
    recorder = TrialRecorder(tmp_path, queue.store, LiveView("x", 60, ""), {"macs": 200}, {})
    recorder.front = [{"accuracy": 0.5, "macs": 50}, {"accuracy": 0.9, "macs": 150}]
    assert abs(recorder._hypervolume() - (0.5 * 0.75 + 0.4 * 0.25)) < 1e-12


def test_answers_to_single_images_are_kept_before_the_row_is(tmp_path: Path) -> None:
    queue, recorder = recorder_of(tmp_path)
    row = {"state": "complete", "error": None, "accuracy": 0.5, "sparsity": 0.5, "accuracy_drop": 0.0}
    row |= {"criterion": "c", "granularity": "g", "scope": "s", "schedule": "o", "wall_seconds": 1.0}
    correct = np.arange(21) % 3 == 0
    kept = tmp_path / "correct" / "0000.npz"
    tell = queue.store.tell
    queue.store.tell = lambda *args: (kept.stat(), tell(*args))
    with contextlib.redirect_stdout(None):
        recorder.record(TrialReport(queue.ask(), row, [], correct=correct))
    with np.load(kept, allow_pickle=False) as file:
        assert np.unpackbits(file["bits"], count=int(file["images"])).astype(bool).tolist() == correct.tolist()
