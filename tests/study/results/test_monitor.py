"""Trials while they run: who is stopped, as what, what is drawn of them, and when no further one is begun."""

import time
from pathlib import Path
from typing import Any

from study.config import parse
from study.driver.agenda import Agenda
from study.driver.session import RunOptions, StudyRun
from study.results.live_view import LiveView
from study.results.monitor import TrialMonitor
from study.search.trial_queue import TrialQueue

CARD = {"accuracy": 0.95, "test_accuracy": 0.94}
SPACE = {
    "criterion": "magnitude_l1",
    "granularity": "weight",
    "scope": "global",
    "schedule": "one_shot",
    "sparsity": 0.5,
    "finetune_epochs": 3,
}


class Study:
    """A study of trials that are told their accuracies from outside."""

    def __init__(self, folder: Any, tensorboard: Any = None, **study: Any) -> None:
        folder.mkdir(exist_ok=True)
        study = {"name": "x", "trials": 60, "stop_early": {"min_epochs": 1, "reduction": 2}, "controls": [], **study}
        self.queue = TrialQueue(folder, parse({"study": study, "space": SPACE}, "x.yaml"))
        self.monitor = TrialMonitor(self.queue.store, LiveView("x", 60, ""), CARD, self.report, tensorboard)

    def report(self, report: Any) -> None:
        self.queue.store.tell(report.ticket, report.row, report.history)

    def epoch(self, ticket: Any, epoch: Any, accuracy: Any) -> Any:
        line = {"epoch": epoch, "progress": epoch / 3, "sparsity": 0.5, "train_loss": 1.0, "seconds": 2.0}
        return self.monitor.epoch(ticket, {**line, "accuracy": accuracy})


def test_the_worse_is_stopped_and_its_row_says_what_it_had_come_to(tmp_path: Path) -> None:
    study = Study(tmp_path)
    good, bad = study.queue.ask(), study.queue.ask()
    assert study.epoch(good, 1, 0.9)
    assert not study.epoch(bad, 1, 0.6)
    row, history = study.queue.store.records[bad.trial_id]
    assert (row["state"], row["error"], row["feasible"]) == ("stopped", None, False)
    assert (row["accuracy"], row["sparsity"], row["requested_sparsity"], row["train_seconds"]) == (0.6, 0.5, 0.5, 2.0)
    assert abs(row["accuracy_drop"] - 0.35) < 1e-12
    assert [line["epoch"] for line in history] == [1]
    assert study.queue.store.running == 1


def test_a_trial_in_its_last_epoch_is_let_through_and_others_are_compared_with_it(tmp_path: Path) -> None:
    study = Study(tmp_path, stop_early={"min_epochs": 3, "reduction": 2})
    for accuracy in (0.9, 0.1):
        ticket = study.queue.ask()
        assert all(study.epoch(ticket, epoch, accuracy) for epoch in (1, 2, 3))


def test_a_lost_trial_begins_anew_and_counts_once_at_its_rung(tmp_path: Path) -> None:
    study = Study(tmp_path)
    first, second = study.queue.ask(), study.queue.ask()
    assert study.epoch(first, 1, 0.5)
    assert study.epoch(first, 1, 0.5)  # its worker was lost
    assert study.epoch(first, 2, 0.5)
    assert study.epoch(second, 1, 0.6)
    assert not study.queue.store.records


def test_after_a_restart_trials_are_compared_with_those_before_it(tmp_path: Path) -> None:
    study = Study(tmp_path)
    best, stopped = study.queue.ask(), study.queue.ask()
    study.epoch(best, 1, 0.9)
    assert not study.epoch(stopped, 1, 0.8)
    study.queue.store.close()
    again = Study(tmp_path)
    ticket = again.queue.ask()  # that which ran when the study was left
    assert not again.epoch(ticket, 1, 0.7)


def test_without_early_stopping_and_outside_the_search_all_go_on(tmp_path: Path) -> None:
    calm = Study(tmp_path / "calm", stop_early=None)
    tickets = [calm.queue.ask() for _ in range(3)]
    assert all(calm.epoch(ticket, 1, accuracy) for ticket, accuracy in zip(tickets, (0.9, 0.5, 0.1), strict=True))
    study = Study(tmp_path / "control")
    control = study.queue.ask_control("dense", study.queue.ask().recipe)
    assert study.epoch(control, 1, float("nan"))


PROMOTING = {"min_epochs": 1, "reduction": 2, "promote": True}


def test_a_paused_trial_goes_on_when_its_turn_comes_and_epochs_that_it_repeats_cost_time(tmp_path: Path) -> None:
    study = Study(tmp_path, stop_early=PROMOTING)
    first, second, third = (study.queue.ask() for _ in range(3))
    assert not study.epoch(first, 1, 0.6)
    assert study.monitor.promoted() is None
    assert study.epoch(second, 1, 0.9)
    assert not study.epoch(third, 1, 0.5)
    assert study.monitor.promoted() is None  # the better half of three is the second
    fourth = study.queue.ask()
    assert not study.epoch(fourth, 1, 0.4)
    assert study.monitor.promoted() == first
    assert study.epoch(first, 1, 0.6)  # on another worker, which begins anew
    assert study.monitor.repeated(first.trial_id) == 2.0
    assert not study.epoch(first, 2, 0.7)  # alone at its rung
    assert sorted(study.queue.store.paused) == sorted([first.trial_id, third.trial_id, fourth.trial_id])
    assert not study.queue.store.records


def test_who_is_still_paused_at_the_end_is_stopped_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    study = Study(tmp_path, stop_early=PROMOTING, trials=3)
    tickets = [study.queue.ask() for _ in range(3)]
    for ticket, accuracy in zip(tickets, (0.7, 0.6, 0.5), strict=True):
        assert not study.epoch(ticket, 1, accuracy)
    assert study.monitor.promoted() == tickets[0]
    assert study.epoch(tickets[0], 2, 0.8) is False
    study.queue.store.close()

    again = Study(tmp_path, stop_early=PROMOTING, trials=3)
    kept = again.queue.store.paused
    assert {name: [line["epoch"] for line in kept[name].history] for name in kept} == {
        tickets[0].trial_id: [1, 2], tickets[1].trial_id: [1], tickets[2].trial_id: [1],
    }  # fmt: skip
    assert [kept[ticket.trial_id].ticket for ticket in tickets] == tickets
    paused_at = {name: paused.at for name, paused in kept.items()}
    assert again.queue.ask() is None
    agenda = Agenda(StudyRun(tmp_path, {}, None, again.queue, None, RunOptions()), None, again.monitor)
    assert agenda.ask() is None
    rows = again.queue.store.rows()
    assert [(row["state"], row["accuracy"], row["train_seconds"]) for row in rows] == [
        ("stopped", 0.8, 4.0), ("stopped", 0.6, 2.0), ("stopped", 0.5, 2.0),
    ]  # fmt: skip
    assert {row["trial_id"]: row["finished"] for row in rows} == paused_at


def test_curves_are_drawn_for_tensorboard(tmp_path: Path) -> None:
    study = Study(tmp_path / "study", tmp_path / "curves", stop_early=None)
    ticket = study.queue.ask()
    for epoch in (1, 2):
        study.epoch(ticket, epoch, 0.25 * epoch)
    study.monitor.over(ticket)
    (events,) = (tmp_path / "curves" / ticket.trial_id).iterdir()
    content = events.read_bytes()
    assert all(content.count(name) == 2 for name in (b"accuracy", b"train_loss", b"sparsity"))


def test_when_the_time_is_up_nothing_more_is_begun(tmp_path: Path) -> None:
    study = Study(tmp_path)

    def agenda(deadline: Any) -> Any:
        run = StudyRun(tmp_path, {}, None, study.queue, None, RunOptions(deadline=deadline))
        return Agenda(run, None, study.monitor)

    assert agenda(time.monotonic() + 60).ask().trial_id == "0000"
    assert agenda(time.monotonic()).ask() is None
