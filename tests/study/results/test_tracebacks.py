"""A trial that fails from a person's own function keeps the traceback, where its row has but the reason."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from pruning.weights.masks import prunable
from study.config import Recipe, parse
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.results.recorder import TrialRecorder
from study.search.trial_queue import TrialQueue
from study.trials.steps import run_trial

OWN = "tests.study.results.test_tracebacks"
TRIALS = [{"criterion": name} for name in (f"{OWN}:raises", "magnitude_l1", f"{OWN}:scores")]


def raises(model: Any, batches: Any, generator: Any) -> Any:
    """A person's own criterion, wrong in a function of theirs."""
    return {name: deeper(weight) for name, weight in prunable(model).items()}


def deeper(weight: Any) -> Any:
    raise LookupError("no score for\na weight")  # over two lines, as many libraries' are


def scores(model: Any, batches: Any, generator: Any) -> Any:
    """A person's own criterion that is right."""
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


@pytest.fixture(scope="module")
def recorded(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A results folder in which one trial failed and two were complete, and their rows by id."""
    folder = tmp_path_factory.mktemp("recorded")
    space = {"criterion": [trial["criterion"] for trial in TRIALS], "granularity": "weight", "schedule": "one_shot"}
    space |= {"sparsity": 0.5, "finetune_epochs": 0, "scope": "global", "calibration_samples": 64, "finetune_lr": 0.01}
    study = {"name": "x", "trials": 3, "start_with": TRIALS}
    queue = TrialQueue(folder, parse({"study": study, "space": space}, "x.yaml"))
    recorder = TrialRecorder(folder, queue.store, LiveView("x", 3, ""), shared.baseline.card, {})
    with contextlib.redirect_stdout(None):
        while ticket := queue.ask():
            row, history, network, traceback, _ = run_trial(
                Recipe(**ticket.recipe), ticket.seed, shared, torch.device("cpu")
            )
            fetch = (lambda kept=network: kept) if network else None
            recorder.record(TrialReport(ticket, row, history, fetch, traceback))
    return folder, {row["trial_id"]: row for row in queue.store.rows()}


def test_what_a_users_function_raised_is_kept_with_its_lines(recorded: Any) -> None:
    folder, rows = recorded
    assert rows["0000"]["state"] == "failed"
    assert rows["0000"]["error"] == "LookupError: no score for a weight"
    text = (folder / "errors" / "0000.txt").read_text()
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.rstrip().endswith("LookupError: no score for\na weight")
    for line in ("in raises\n", "in deeper\n", "test_tracebacks.py", 'raise LookupError("no score for'):
        assert line in text


def test_complete_trials_leave_none(recorded: Any) -> None:
    folder, rows = recorded
    assert [rows[name]["state"] for name in ("0001", "0002")] == ["complete", "complete"]
    assert [path.name for path in (folder / "errors").iterdir()] == ["0000.txt"]


def test_a_study_without_failures_has_no_folder_of_errors(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, parse({"study": {"name": "x", "save": "none"}}, "x.yaml"))
    recorder = TrialRecorder(tmp_path, queue.store, LiveView("x", 60, ""), {}, {})
    ticket = queue.ask()
    row = {**ticket.recipe, "state": "complete", "error": None, "accuracy": 0.9, "sparsity": 0.5, "wall_seconds": 1.0}
    with contextlib.redirect_stdout(None):
        recorder.record(TrialReport(ticket, row, []))
    assert not (tmp_path / "errors").exists()
