"""Ray's side, as far as it can be tested without a cluster; `test_run.py` runs the rest."""

import os
import signal

import pytest

from study import search
from study.config import Resources
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
    monkeypatch.setattr(search, "allotment", lambda resources: ({"cpu": 1, "gpu": 0}, 1))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        search.run_trials(Shared(None, None, None), Resources(), lambda: None, lambda *report: None)
    assert steps == ["swallowed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_asker_waits_ends_and_tells_of_lost_trials():
    ticket = Ticket("0000", "search", {"sparsity": 0.5}, 1)
    answers, lost = iter([search.WAIT, ticket, None]), []
    asker = search._Asker(lambda: next(answers), lost.append)
    assert asker.suggest("a") is None
    assert asker.suggest("a") == {"ticket": list(ticket)}
    assert asker.suggest("b") == search.Searcher.FINISHED
    asker.on_trial_complete("a", error=True)
    assert lost == [ticket]


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
