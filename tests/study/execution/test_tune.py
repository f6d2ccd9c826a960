"""Ray's side, as far as it can be tested without a cluster; `test_run.py` runs the rest."""

import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
import weakref
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune.search import Searcher

from study.execution import ray_adapter, remote, score_cache
from study.execution.trainable import Trainable
from study.execution.tune_adapters import (
    LOW_ON_MEMORY,
    MAX_RETRIES,
    EarlyStoppingAdapter,
    ResultListener,
    SearcherAdapter,
)
from study.results.handlers import WAIT
from study.trials.context import Ticket


def test_a_ctrl_c_that_a_callback_swallowed_comes_up_at_the_next_step() -> None:
    """Ray drops what is raised inside some of its callbacks, KeyboardInterrupt too."""
    happened: list[str] = []
    listener = ResultListener(searcher_of(), print, lambda: bool(happened), False)
    listener.on_step_end(0, [])
    happened.append("a signal")
    with pytest.raises(KeyboardInterrupt):
        listener.on_step_end(0, [])


TICKET = Ticket("0000", "search", {"sparsity": 0.5}, 1)


def searcher_of(*answers: Any) -> Any:
    return SearcherAdapter(partial(next, iter(answers), None))


def test_an_searcher_waits_and_ends_when_nothing_runs_any_more() -> None:
    searcher = searcher_of(WAIT, TICKET)
    assert searcher.suggest("a") is None
    assert searcher.suggest("a") == {"ticket": list(TICKET)}
    assert searcher.suggest("b") is None  # that one may have to run again
    searcher.on_trial_complete("a")
    assert searcher.suggest("b") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("says", "tries", "reason"),
    [
        ("1 worker(s) were killed due to the node running low on memory.", 2, "the memory of its node ran out"),
        ("The actor died\nunexpectedly.", 3, "The actor died unexpectedly."),
    ],
)
def test_a_trial_lost_too_often_fails_with_its_reason(tmp_path: Path, says: Any, tries: Any, reason: Any) -> None:
    (tmp_path / "error").write_text(f"Failure # 1 (occurred at noon)\n{says}\n")
    searcher, rows = searcher_of(TICKET), []
    listener = ResultListener(searcher, lambda report: rows.append(report.row), lambda: False, False)
    for attempt in range(tries):
        assert not rows
        assert searcher.suggest(f"{attempt}") == {"ticket": list(TICKET)}
        searcher.on_trial_complete(f"{attempt}", error=True)
        lost = SimpleNamespace(trial_id=f"{attempt}", error_file=str(tmp_path / "error"))
        listener.on_trial_error(0, [], lost)
    assert [(row["state"], row["requested_sparsity"]) for row in rows] == [("failed", 0.5)]
    assert rows[0]["error"] == f"its worker was lost {tries} times: {reason}"
    assert not searcher.tickets
    assert not searcher.again


@pytest.mark.parametrize(("minutes", "error"), [(0.001, "ran longer than study.trial_minutes, 0.001"), (5, None)])
def test_a_worker_that_ended_for_lack_of_time_takes_its_trial_with_it_and_no_other_does(
    minutes: Any, error: Any
) -> None:
    searcher, rows = searcher_of(TICKET), []
    listener = ResultListener(searcher, lambda report: rows.append(report.row), lambda: False, False, minutes)
    searcher.suggest("a")
    time.sleep(0.07)
    listener.on_trial_error(0, [], SimpleNamespace(trial_id="a", error_file=None))
    assert [row["error"] for row in rows] == ([f"it {error}"] if error else [])
    assert list(searcher.again) == ([] if error else [TICKET])


def hang() -> Any:
    time.sleep(60)
    yield


def hanging_trial(errors: int) -> None:
    """A trial that is given 0.3 seconds; what it says goes to a file."""
    os.dup2(errors, 2)
    trial: Any = object.__new__(Trainable)
    trial._context, trial._ticket = SimpleNamespace(minutes=0.005), TICKET
    trial._epochs, trial._started = hang(), time.monotonic()
    trial.step()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="it would import everything again")
def test_a_worker_whose_trial_hangs_ends_and_says_where(tmp_path: Path) -> None:
    with (tmp_path / "errors").open("w") as errors:
        worker = multiprocessing.get_context("fork").Process(target=hanging_trial, args=(errors.fileno(),))
        worker.start()
        worker.join(50)
    assert worker.exitcode == 1
    said = (tmp_path / "errors").read_text()
    assert "Timeout" in said
    assert "in hang" in said


def test_a_trial_does_not_begin_where_another_has_broken_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune then gives up the worker and reports the trial as lost, so that it runs again on another one."""
    begun: list[int] = []

    def epochs() -> Any:
        begun.append(1)
        yield

    def synchronize() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    trial: Any = object.__new__(Trainable)
    trial._epochs = epochs()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(RuntimeError, match="device-side assert"):
        trial.step()
    assert begun == []


def test_a_trial_on_a_gpu_begins_when_nothing_of_the_one_before_is_left_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced networks are circles of references, which only the garbage collector breaks."""

    class Circle:
        def __init__(self) -> None:
            self.itself = self
            self.tensor = torch.zeros(1)

    before = Circle()
    left = weakref.ref(before)
    seen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(left()))
    monkeypatch.setattr("study.execution.trainable.trial_epochs", lambda *_: iter(()))
    trial: Any = object.__new__(Trainable)
    trial._context, trial._device, trial._epochs = SimpleNamespace(pauses=False), torch.device("cuda"), before
    trial._paused = OrderedDict()
    del before
    gc.disable()
    try:
        trial.reset_config({"ticket": list(TICKET)})
    finally:
        gc.enable()
    assert seen == [None]


def drawing(recipe: Any, seed: int, *_: Any) -> Any:
    """Epochs that draw from the generator that all trials of a process share."""
    torch.manual_seed(seed)
    for epoch in itertools.count(1):
        yield {"epoch": epoch, "drawn": torch.rand(1).item()}


@pytest.mark.parametrize(("others", "first"), [(1, 3), (4, 1)])
def test_a_paused_trial_goes_on_as_if_alone_or_starts_over(
    monkeypatch: pytest.MonkeyPatch, others: int, first: int
) -> None:
    monkeypatch.setattr("study.execution.trainable.trial_epochs", drawing)
    monkeypatch.setattr("study.execution.trainable.epoch_line", lambda *_: "")
    alone = [record["drawn"] for record in itertools.islice(drawing(None, 1), 5)]
    trial: Any = object.__new__(Trainable)
    trial._context, trial._device = SimpleNamespace(pauses=True, minutes=None), torch.device("cpu")
    trial._paused, trial._epochs, trial._idle = OrderedDict(), None, 0.0

    def run(trial_id: str, seed: int, epochs: int) -> Any:
        trial.reset_config({"ticket": list(TICKET._replace(trial_id=trial_id, seed=seed))})
        return [trial.step()["epoch"] for _ in range(epochs)]

    assert [record["drawn"] for record in run("0000", 1, 2)] == alone[:2]
    for other in range(1, others + 1):
        run(f"{other:04d}", 2, 1)
    again = run("0000", 1, 2)
    assert [record["epoch"] for record in again] == [first, first + 1]
    assert [record["drawn"] for record in again] == alone[first - 1 : first + 1]
    assert len(trial._paused) == others


def test_what_a_task_raised_is_one_line_and_its_traceback() -> None:
    cause = ValueError("shapes\n  do not fit")
    where = 'Traceback (most recent call last):\n  File "mine.py", line 7, in forward\nValueError: shapes'
    error = remote.TaskError(RayTaskError("task", where, cause).as_instanceof_cause())  # as ray.get raises it
    assert str(error) == "ValueError: shapes do not fit"
    assert 'File "mine.py", line 7, in forward' in error.traceback


@pytest.mark.parametrize(
    "error",
    [
        "OutOfMemoryError: CUDA out of memory",
        "AcceleratorError: CUDA error: out of memory",  # of the driver, as a process creates its context
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
    ],
)
def test_a_trial_short_of_memory_on_a_shared_gpu_is_kept_for_later_and_reported_the_next_time(error: str) -> None:
    rows: list[Any] = []
    outcome: dict[str, list[Any]] = {"outcome": [{"error": error}, [], None, "", None]}
    for shares, short, reported in ((True, [TICKET], 0), (False, [], 1)):
        searcher = searcher_of(TICKET)
        listener = ResultListener(searcher, rows.append, lambda: False, shares)
        searcher.suggest("a")
        listener.on_trial_result(0, [], SimpleNamespace(trial_id="a"), dict(outcome))
        assert searcher.short == short
        assert len(rows) == reported


def test_a_network_lost_on_its_way_runs_again_and_then_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    def report(report: Any) -> None:
        if report.fetch:
            report.fetch()
        rows.append(report.row)

    def get(network: Any) -> None:
        raise RayError("the node of the object is gone")

    monkeypatch.setattr("study.execution.tune_adapters.ray.get", get)
    searcher = searcher_of(TICKET)
    listener = ResultListener(searcher, report, lambda: False, False)
    for attempt in range(MAX_RETRIES + 1):
        assert searcher.suggest(f"{attempt}") == {"ticket": list(TICKET)}
        outcome = {"outcome": [{"error": None}, [], 1, "", None]}
        listener.on_trial_result(0, [], SimpleNamespace(trial_id=f"{attempt}"), outcome)
        searcher.on_trial_complete(f"{attempt}")
    assert [row["error"] for row in rows] == ["its worker was lost 3 times: the node of the object is gone"]


def no_screening(*arguments: Any) -> Any:
    raise AssertionError("nothing was screened")


def test_a_chosen_candidate_takes_the_place_of_its_ticket() -> None:
    """Lost after that, it runs again without being screened again."""
    asked, chosen = TICKET._replace(candidates=[list(TICKET)] * 2), TICKET._replace(trial_id="0007")
    searcher, heard = searcher_of(asked), []

    def screened(ticket: Any, rows: Any, index: Any) -> Any:
        heard.append((ticket, rows, index))
        return chosen

    ear = EarlyStoppingAdapter(searcher, lambda ticket, record: False, screened)
    assert searcher.suggest("a") == {"ticket": list(asked)}
    assert not ear("a", {"screened": ["one", "another"], "chosen": 1})
    assert heard == [(asked, ["one", "another"], 1)]
    assert searcher.over("a") == chosen


def test_a_worker_that_dies_after_its_trial_has_ended_takes_nothing_with_it() -> None:
    """Between a trial's last result and its end, Tune may come to hear that its node is gone."""
    rows, died = [], SimpleNamespace(trial_id="a", error_file=None)
    searcher = searcher_of(TICKET)
    listener = ResultListener(searcher, lambda report: rows.append(report.row), lambda: False, False)
    searcher.suggest("a")
    listener.on_trial_result(0, [], died, {"outcome": [{"error": None}, [], None, "", None]})
    listener.on_trial_error(0, [], died)
    searcher.tickets["a"] = TICKET
    assert EarlyStoppingAdapter(searcher, lambda ticket, record: False, no_screening)("a", {"epoch": {}})
    listener.on_trial_error(0, [], died)
    assert rows == [{"error": None}]
    assert not searcher.again


def test_early_stopping_hears_epochs_and_stops_what_does_not_go_on() -> None:
    searcher = searcher_of(TICKET)
    ear = EarlyStoppingAdapter(searcher, lambda ticket, record: record["accuracy"] > 0.5, no_screening)
    searcher.suggest("a")
    assert not ear("a", {"epoch": {"accuracy": 0.6}})
    assert ear("a", {"epoch": {"accuracy": 0.4}})
    assert not ear("a", {"done": True, "outcome": []})
    assert not ear("unknown", {"epoch": {"accuracy": 0.4}})


def test_scores_are_computed_by_the_first_to_ask_and_handed_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1.0]
    monkeypatch.setattr("study.execution.score_cache.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("study.execution.score_cache.ray.put", lambda scores: f"where {scores} lie")
    cache: Any = score_cache.ScoreCacheActor()
    assert cache.claim("obs") is True
    assert cache.claim("obs") is False  # another computes
    assert cache.claim("taylor") is True
    cache.keep("obs", None)  # it could not
    assert cache.claim("obs") is True
    clock[0] = score_cache.LEASE_SECONDS + 2  # it was lost
    assert cache.claim("obs") is True
    cache.keep("obs", "scores")
    assert cache.claim("obs") == ["where scores lie"]


def test_the_process_that_keeps_scores_does_without_torch() -> None:
    code = "import sys; from study.execution.score_cache import ScoreCacheActor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


def test_a_worker_killed_for_memory_is_to_tune_an_actor_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray raises then is neither of the two errors for which Tune lets a trial end alone."""
    seen = []
    monkeypatch.setattr(ray_adapter, "_task_failed", lambda manager, task, exception: seen.append(exception))
    killed, other = OutOfMemoryError("1 worker(s) were killed: running low on memory"), ValueError("mine")
    for exception in (killed, other):
        RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=exception)
    assert isinstance(seen[0], RayActorError)
    assert LOW_ON_MEMORY in str(seen[0])
    assert seen[1] is other
