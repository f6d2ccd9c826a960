"""Ray's side, as far as it can be tested without a cluster; `test_run.py` runs the rest."""

import os
import signal
import threading
from functools import partial
from types import SimpleNamespace

import pytest

from study import search
from study.cluster import Allotment
from study.ledger import Ticket
from study.trial import Shared


def test_a_ctrl_c_that_a_callback_swallowed_comes_up_at_the_next_step(monkeypatch):
    """Ray drops what is raised inside some of its callbacks, KeyboardInterrupt too."""
    steps = []

    class Tuner:
        def __init__(self, trainable, tune_config, run_config):
            (self.listener,) = run_config.callbacks

        def fit(self):
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                steps.append("swallowed")
            self.listener.on_step_end(0, [])
            steps.append("went on")

    monkeypatch.setattr(search.tune, "Tuner", Tuner)
    monkeypatch.setattr(search.tune, "with_parameters", lambda trainable, **parameters: trainable)
    monkeypatch.setattr(search.tune, "with_resources", lambda trainable, resources: trainable)
    monkeypatch.setattr(search, "_Scores", lambda: None)
    allotted = Allotment({"cpu": 1, "gpu": 0}, 1, 1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search.run_trials(Shared(None, None, None), 1, allotted, lambda: None, lambda *report: None)
    assert steps == ["swallowed"]
    assert signal.getsignal(signal.SIGINT) is before


TICKET = Ticket("0000", "search", {"sparsity": 0.5}, 1)


def asker_of(*answers):
    return search._Asker(partial(next, iter(answers), None))


def test_an_asker_waits_and_ends_when_nothing_runs_any_more():
    asker = asker_of(search.WAIT, TICKET)
    assert asker.suggest("a") is None
    assert asker.suggest("a") == {"ticket": list(TICKET)}
    assert asker.suggest("b") is None  # that one may have to run again
    asker.on_trial_complete("a")
    assert asker.suggest("b") == search.Searcher.FINISHED


@pytest.mark.parametrize(
    ("says", "tries", "reason"),
    [
        ("1 worker(s) were killed due to the node running low on memory.", 2, "the memory of its node ran out"),
        ("The actor died\nunexpectedly.", 3, "The actor died unexpectedly."),
    ],
)
def test_a_trial_lost_too_often_fails_with_its_reason(tmp_path, says, tries, reason):
    (tmp_path / "error").write_text(f"Failure # 1 (occurred at noon)\n{says}\n")
    asker, rows = asker_of(TICKET), []
    listener = search._Listener(asker, lambda ticket, row, *rest: rows.append(row), threading.Event(), False)
    for attempt in range(tries):
        assert not rows
        assert asker.suggest(f"{attempt}") == {"ticket": list(TICKET)}
        asker.on_trial_complete(f"{attempt}", error=True)
        lost = SimpleNamespace(trial_id=f"{attempt}", error_file=str(tmp_path / "error"))
        listener.on_trial_error(0, [], lost)
    assert [(row["state"], row["requested_sparsity"]) for row in rows] == [("failed", 0.5)]
    assert rows[0]["error"] == f"its worker was lost {tries} times: {reason}"
    assert not asker.tickets
    assert not asker.again


def test_a_trial_short_of_memory_on_a_shared_gpu_is_kept_for_later_and_reported_the_next_time():
    rows = []
    outcome = {"outcome": [{"error": "OutOfMemoryError: CUDA out of memory"}, [], None]}
    for shares, short, reported in ((True, [TICKET], 0), (False, [], 1)):
        asker = asker_of(TICKET)
        listener = search._Listener(asker, lambda *report: rows.append(report), threading.Event(), shares)
        asker.suggest("a")
        listener.on_trial_result(0, [], SimpleNamespace(trial_id="a"), dict(outcome))
        assert asker.short == short
        assert len(rows) == reported


def test_a_network_lost_on_its_way_runs_again_and_then_fails(monkeypatch):
    rows = []

    def report(ticket, row, history, fetch):
        if fetch:
            fetch()
        rows.append(row)

    def get(network):
        raise search.RayError("the node of the object is gone")

    monkeypatch.setattr(search.ray, "get", get)
    asker = asker_of(TICKET)
    listener = search._Listener(asker, report, threading.Event(), False)
    for attempt in range(search.LOST + 1):
        assert asker.suggest(f"{attempt}") == {"ticket": list(TICKET)}
        listener.on_trial_result(0, [], SimpleNamespace(trial_id=f"{attempt}"), {"outcome": [{"error": None}, [], 1]})
        asker.on_trial_complete(f"{attempt}")
    assert [row["error"] for row in rows] == ["its worker was lost 3 times: the node of the object is gone"]


def test_a_worker_that_dies_after_its_trial_has_ended_takes_nothing_with_it():
    """Between a trial's last result and its end, Tune may come to hear that its node is gone."""
    rows, died = [], SimpleNamespace(trial_id="a", error_file=None)
    asker = asker_of(TICKET)
    listener = search._Listener(asker, lambda ticket, row, *rest: rows.append(row), threading.Event(), False)
    asker.suggest("a")
    listener.on_trial_result(0, [], died, {"outcome": [{"error": None}, [], None]})
    listener.on_trial_error(0, [], died)
    asker.tickets["a"] = TICKET
    assert search._Ear(asker, lambda ticket, record: False)("a", {"epoch": {}})
    listener.on_trial_error(0, [], died)
    assert rows == [{"error": None}]
    assert not asker.again


def test_an_ear_hears_epochs_and_stops_what_does_not_go_on():
    asker = asker_of(TICKET)
    ear = search._Ear(asker, lambda ticket, record: record["accuracy"] > 0.5)
    asker.suggest("a")
    assert not ear("a", {"epoch": {"accuracy": 0.6}})
    assert ear("a", {"epoch": {"accuracy": 0.4}})
    assert not ear("a", {"done": True, "outcome": []})
    assert not ear("unknown", {"epoch": {"accuracy": 0.4}})


def test_scores_are_computed_by_the_first_to_ask_and_handed_to_the_others(monkeypatch):
    clock = [1.0]
    monkeypatch.setattr(search.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(search.ray, "put", lambda scores: f"where {scores} lie")
    desk = search._Desk()
    assert desk.claim("obs") is True
    assert desk.claim("obs") is False  # another computes
    assert desk.claim("taylor") is True
    desk.keep("obs", None)  # it could not
    assert desk.claim("obs") is True
    clock[0] = search.LEASE + 2  # it was lost
    assert desk.claim("obs") is True
    desk.keep("obs", "scores")
    assert desk.claim("obs") == ["where scores lie"]


def test_a_worker_killed_for_memory_is_to_tune_an_actor_that_died(monkeypatch):
    """What Ray raises then is neither of the two errors for which Tune lets a trial end alone."""
    seen = []
    monkeypatch.setattr(search, "_task_failed", lambda manager, task, exception: seen.append(exception))
    killed, other = search.OutOfMemoryError("1 worker(s) were killed: running low on memory"), ValueError("mine")
    for exception in (killed, other):
        search.RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=exception)
    assert isinstance(seen[0], search.RayActorError)
    assert search.LOW_ON_MEMORY in str(seen[0])
    assert seen[1] is other
