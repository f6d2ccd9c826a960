"""The course of trials while they run: epochs come in, are shown and drawn, and the hopeless are stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.config import Recipe
from study.ledger import Ledger, Record, Ticket
from study.stopping import Stopper, after_last_cut, refill
from study.trial import stopped
from study.view import View

CURVES = ("sparsity", "train_loss", "accuracy")


class Course:
    """`hear` takes every epoch of every trial and says whether the trial goes on.

    One that does not is reported at once, as `stopped`. tensorboard: the folder for a curve per trial, or None.
    """

    def __init__(
        self, ledger: Ledger, view: View, card: Record, report: Callable[..., None], tensorboard: Path | None = None
    ) -> None:
        self._view, self._card, self._report, self._tensorboard = view, card, report, tensorboard
        self._histories: dict[str, list[Record]] = {}
        self._writers: dict[str, Any] = {}
        early = ledger.file.study.stop_early
        self._stopper = Stopper(early.min_epochs, early.reduction) if early else None
        if self._stopper:
            told = ((trial_id, *ledger.records[trial_id]) for trial_id in ledger.told)
            earlier = ((t, Recipe(**ledger.recipe(t)), history) for t, row, history in told if row["kind"] == "search")
            refill(self._stopper, earlier)

    def hear(self, ticket: Ticket, record: Record) -> bool:
        """A trial's latest epoch. One that was lost begins again at its first."""
        if record["epoch"] == 1:
            self._histories[ticket.trial_id] = []
        history = self._histories[ticket.trial_id]
        history.append(record)
        recipe = Recipe(**ticket.recipe)
        self._view.epoch(ticket.trial_id, ticket.recipe, record, recipe.epochs)
        self._draw(ticket.trial_id, record)
        if self._goes_on(ticket, recipe, record):
            return True
        self._report(ticket, stopped(recipe, ticket.seed, history, self._card), history, None)
        self.over(ticket)
        return False

    def over(self, ticket: Ticket) -> None:
        """A trial has ended, or is to begin anew."""
        self._histories.pop(ticket.trial_id, None)
        if writer := self._writers.pop(ticket.trial_id, None):
            writer.close()

    def _goes_on(self, ticket: Ticket, recipe: Recipe, record: Record) -> bool:
        if self._stopper is None or ticket.kind != "search":
            return True
        passed = after_last_cut(recipe, record["epoch"])
        goes_on = self._stopper.continues(ticket.trial_id, passed, record["accuracy"], recipe.sparsity)
        return goes_on or record["epoch"] == recipe.epochs  # then it is through, and only its measures are left

    def _draw(self, trial_id: str, record: Record) -> None:
        if self._tensorboard is None:
            return
        if trial_id not in self._writers:
            from tensorboardX import SummaryWriter  # takes half a second: only where it is asked for

            self._writers[trial_id] = SummaryWriter(str(self._tensorboard / trial_id))
        for name in CURVES:
            self._writers[trial_id].add_scalar(name, record[name], record["epoch"])
