"""Monitoring of running trials: their epochs are shown and drawn, and the hopeless are stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.config import Recipe
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.search.early_stopping import Stopper, after_last_cut, refill
from study.search.trial_store import Ticket, TrialStore
from study.training.epochs import Row
from study.trials.rows import stopped_row

CURVES = ("sparsity", "train_loss", "accuracy")


class TrialMonitor:
    """Watches the epochs of all running trials; one that is stopped early is reported at once.

    store: earlier trials, which early stopping compares with.
    view: shown every epoch.
    card: the baseline's.
    report: takes in a trial that was stopped.
    tensorboard: the folder for a curve per trial, or None.
    """

    def __init__(
        self,
        store: TrialStore,
        view: LiveView,
        card: Row,
        report: Callable[[TrialReport], None],
        tensorboard: Path | None = None,
    ) -> None:
        self._view, self._card, self._report, self._tensorboard = view, card, report, tensorboard
        self._histories: dict[str, list[Row]] = {}
        self._writers: dict[str, Any] = {}
        early = store.file.study.stop_early
        self._stopper = Stopper(early.min_epochs, early.reduction) if early else None
        if self._stopper:
            told = ((trial_id, *store.records[trial_id]) for trial_id in store.told)
            earlier = ((t, Recipe(**store.recipe(t)), history) for t, row, history in told if row["kind"] == "search")
            refill(self._stopper, earlier)

    def epoch(self, ticket: Ticket, record: Row) -> bool:
        """Takes in a trial's latest epoch; whether the trial goes on. One that was lost begins again at its first."""
        if record["epoch"] == 1:
            self._histories[ticket.trial_id] = []
        history = self._histories[ticket.trial_id]
        history.append(record)
        recipe = Recipe(**ticket.recipe)
        self._view.epoch(ticket.trial_id, ticket.recipe, record, recipe.epochs)
        self._draw(ticket.trial_id, record)
        if self._goes_on(ticket, recipe, record):
            return True
        self._report(TrialReport(ticket, stopped_row(recipe, ticket.seed, history, self._card), history))
        self.over(ticket)
        return False

    def over(self, ticket: Ticket) -> None:
        """A trial has ended, or is to begin anew."""
        self._histories.pop(ticket.trial_id, None)
        if writer := self._writers.pop(ticket.trial_id, None):
            writer.close()

    def _goes_on(self, ticket: Ticket, recipe: Recipe, record: Row) -> bool:
        if self._stopper is None or ticket.kind != "search":
            return True
        passed = after_last_cut(recipe, record["epoch"])
        goes_on = self._stopper.continues(ticket.trial_id, passed, record["accuracy"], recipe.sparsity)
        return goes_on or record["epoch"] == recipe.epochs  # then it is through, and only its measures are left

    def _draw(self, trial_id: str, record: Row) -> None:
        if self._tensorboard is None:
            return
        if trial_id not in self._writers:
            from tensorboardX import SummaryWriter  # takes half a second: only where it is asked for

            self._writers[trial_id] = SummaryWriter(str(self._tensorboard / trial_id))
        for name in CURVES:
            self._writers[trial_id].add_scalar(name, record[name], record["epoch"])
