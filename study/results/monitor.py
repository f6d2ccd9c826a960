"""Monitors running trials: shows their epochs, writes TensorBoard curves, stops trials early."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.config import Recipe
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.search.trial_store import TrialStore
from study.selection.early_stopping import Stopper, after_last_cut, refill
from study.training.epochs import Row
from study.trials.context import Ticket
from study.trials.rows import stopped_row

CURVES = ("sparsity", "train_loss", "accuracy")


class TrialMonitor:
    """Handles the epochs of all running trials; reports trials that it stops early.

    Args:
      store: trials of earlier processes, which early stopping compares with.
      view: shows every epoch.
      card: the baseline's.
      report: called with each trial that is stopped.
      tensorboard: folder for a curve per trial, or None.
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
            finished = ((trial_id, *store.records[trial_id]) for trial_id in store.told)
            earlier = ((t, Recipe(**store.recipe(t)), lines) for t, row, lines in finished if row["kind"] == "search")
            refill(self._stopper, earlier)

    def epoch(self, ticket: Ticket, record: Row) -> bool:
        """Handle a trial's latest epoch; returns whether it continues. A lost trial restarts at epoch 1."""
        if record["epoch"] == 1:
            self._histories[ticket.trial_id] = []
        history = self._histories[ticket.trial_id]
        history.append(record)
        recipe = Recipe(**ticket.recipe)
        self._view.epoch(ticket.trial_id, ticket.recipe, record, recipe.epochs)
        self._write_curves(ticket.trial_id, record)
        if self._continues(ticket, recipe, record):
            return True
        self._report(TrialReport(ticket, stopped_row(recipe, ticket.seed, history, self._card), history))
        self.over(ticket)
        return False

    def over(self, ticket: Ticket) -> None:
        """Forget a trial that has ended."""
        self._histories.pop(ticket.trial_id, None)
        if writer := self._writers.pop(ticket.trial_id, None):
            writer.close()

    def _continues(self, ticket: Ticket, recipe: Recipe, record: Row) -> bool:
        if self._stopper is None or ticket.kind != "search":
            return True
        passed = after_last_cut(recipe, record["epoch"])
        continues = self._stopper.continues(ticket.trial_id, passed, record["accuracy"], recipe.sparsity)
        return continues or record["epoch"] == recipe.epochs  # after the last epoch, only measuring is left

    def _write_curves(self, trial_id: str, record: Row) -> None:
        if self._tensorboard is None:
            return
        if trial_id not in self._writers:
            from tensorboardX import SummaryWriter  # takes half a second to import

            self._writers[trial_id] = SummaryWriter(str(self._tensorboard / trial_id))
        for name in CURVES:
            self._writers[trial_id].add_scalar(name, record[name], record["epoch"])
