"""Monitors running trials: shows their epochs, writes TensorBoard curves, stops or pauses trials early."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.config import Recipe
from study.results.handlers import TrialReport
from study.results.live_view import LiveView
from study.results.messages import trial_line
from study.results.recorder import stamp
from study.search.trial_store import TrialStore
from study.selection.early_stopping import Promoter, Stopper, after_last_cut, refill
from study.training.epochs import Row
from study.trials.context import Ticket
from study.trials.rows import stopped_row

CURVES = ("sparsity", "train_loss", "accuracy")


class TrialMonitor:
    """Handles the epochs of all running trials; reports trials that it stops early, and pauses others.

    Args:
      store: trials of earlier processes, which early stopping compares with, and paused trials.
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
        self._store = store
        self._histories: dict[str, list[Row]] = {}
        self._reached: dict[str, int] = {}  # trial that was paused -> epochs that it had
        self._repeated: dict[str, float] = {}  # the same -> seconds of epochs that it ran again
        self._writers: dict[str, Any] = {}
        early = store.file.study.stop_early
        kind = Promoter if early and early.promote else Stopper
        self._stopper = kind(early.min_epochs, early.reduction) if early else None
        if self._stopper:
            finished = ((trial_id, *store.records[trial_id]) for trial_id in store.told)
            earlier = ((t, Recipe(**store.recipe(t)), lines) for t, row, lines in finished if row["kind"] == "search")
            refill(self._stopper, earlier)
            refill(self._stopper, ((t, Recipe(**p.ticket.recipe), p.history) for t, p in store.paused.items()))

    def epoch(self, ticket: Ticket, record: Row) -> bool:
        """Handle a trial's latest epoch; returns whether it continues.

        A lost trial starts over, and so does a paused one that goes on elsewhere.
        """
        before = self._histories.get(ticket.trial_id, [])
        history = [*(line for line in before if line["epoch"] < record["epoch"]), record]
        self._histories[ticket.trial_id] = history
        recipe = Recipe(**ticket.recipe)
        what = trial_line(ticket.recipe, ticket.control, ticket.confirms)
        self._view.epoch(ticket.trial_id, what, record, recipe.epochs)
        if record["epoch"] <= self._reached.get(ticket.trial_id, 0):
            self._repeated[ticket.trial_id] = self._repeated.get(ticket.trial_id, 0.0) + record["seconds"]
            return True
        self._write_curves(ticket.trial_id, record)
        if self._continues(ticket, recipe, record):
            return True
        if isinstance(self._stopper, Promoter):
            self._view.paused(ticket.trial_id)
            self._store.pause(ticket, history, time.time())
        else:
            self._report(TrialReport(ticket, stopped_row(recipe, ticket.seed, history, self._card), history))
            self.over(ticket)
        return False

    def promoted(self) -> Ticket | None:
        """The ticket of the paused trial that is to go on now, if any."""
        if not isinstance(self._stopper, Promoter) or not (best := self._stopper.promoted(self._store.paused)):
            return None
        ticket, self._histories[best], _ = self._store.unpause(best)
        self._reached[best] = int(self._histories[best][-1]["epoch"])
        return ticket

    def end_paused(self) -> None:
        """Report all paused trials as stopped."""
        for ticket, history, at in list(self._store.paused.values()):
            row = stopped_row(Recipe(**ticket.recipe), ticket.seed, history, self._card)
            stamp(row, at)
            self._store.unpause(ticket.trial_id)
            self._report(TrialReport(ticket, row, history))
            self.over(ticket)

    def repeated(self, trial_id: str) -> float:
        """Seconds of epochs that a paused trial ran again."""
        return self._repeated.get(trial_id, 0.0)

    def over(self, ticket: Ticket) -> None:
        """Forget a trial that has ended."""
        for known in (self._histories, self._reached, self._repeated):
            known.pop(ticket.trial_id, None)
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
