"""The queue of trials: what is to run next, in the search and after it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import Recipe, StudyFile
from study.config import axes as spaces
from study.search import suggestions
from study.search.recovery import recover
from study.search.trial_store import Ticket, TrialStore, trial_seed
from study.training.epochs import Row
from study.trials.rows import failed_row

Known = Callable[[Row], tuple[Row, list[Row]] | None]  # a recipe -> its row and history, if it need not run


class TrialQueue:
    """Asks for the next trial of the study in `folder`; a trial that is told to the `store` is done.

    What an earlier process left open is recovered first. `known` is asked before a recipe of the search is handed out:
    the row it gives is told at once, and nothing is run. Raises as `TrialStore`.
    """

    def __init__(self, folder: Path, file: StudyFile, known: Known = lambda recipe: None) -> None:
        self.file, self._known = file, known
        self._axes = file.axes
        if file.study.search == "grid":
            self._axes = {k: axis.model_copy(update={"choices": axis.values()}) for k, axis in self._axes.items()}
        self._sampler_name = file.study.sampler if file.study.search == "optuna" else "tpe"
        self._fixed = [{k: spaces.label(v) for k, v in r.items()} for r in file.study.start_with]
        if file.study.search == "grid":
            points = ({k: spaces.label(v) for k, v in point.items()} for point in spaces.grid(self._axes))
            self._fixed += [point for point in points if point not in self._fixed]
        self.store = TrialStore(folder, file)
        self._search = self.store.search
        try:
            self.store.check_identity()
            self._jobs = recover(self.store)  # controls and confirmations that are done or running
        except BaseException:
            self.store.close()
            raise
        trials = self._search.get_trials(deepcopy=False)
        self._waiting = sum(trial.state == TrialState.WAITING for trial in trials)  # enqueued and not yet asked for
        # Recipes that the search has begun: repeats for further seeds and re-runs do not count.
        self._begun = sum(_is_fresh(trial) for trial in trials if trial.state != TrialState.WAITING)
        self._first: dict[str, str] = {}  # a recipe, as text -> the first trial that completed it
        self._looked = 0  # at how many of the store's told trials, for _first
        self._search.sampler = suggestions.sampler(file, len(trials))

    def ask(self) -> Ticket | None:
        """The next trial of the search; None when no further one is to be started."""
        while self.store.finished + self.store.running < self.store.runs:
            self._enqueue_fixed()
            trial = self._search.ask()
            self._waiting -= self._waiting > 0
            self._begun += _is_fresh(trial)
            recipe = suggestions.draw(trial, self._axes, self._sampler_name)
            self._enqueue_copy(trial)
            ticket = self.store.open(trial, "search", recipe)
            try:
                Recipe(**recipe)
            except ValueError as error:  # a combination that only the whole recipe shows to be wrong
                self.store.tell(ticket, failed_row(recipe, str(error)), [])
                continue
            if not (found := self._stored(recipe) or self._known(recipe)):
                return ticket
            row, history = found
            self.store.tell(ticket._replace(seed=row["seed"]), {**row, "repeats": row.get("trial_id")}, history)
        return None

    def ask_control(self, control: str, recipe: Row, confirms: str | None = None) -> Ticket | None:
        """A trial outside the search, which the sampler never hears of; None if it has had its run."""
        return self._ask_aside("control", recipe, {"control": control, "confirms": confirms})

    def ask_scratch(self, front: Iterable[Row]) -> Ticket | None:
        """The next cut network of the front (rows of the search) to be trained from scratch; None if all have been.

        Source of the control: Liu et al. 2019, arXiv:1810.05270.
        """
        cut = (row["trial_id"] for row in front if row["granularity"] == "channel" and not row.get("repeats"))
        tickets = (self.ask_control("scratch", self.store.recipe(trial_id), trial_id) for trial_id in cut)
        return next(filter(None, tickets), None)

    def ask_confirm(self, front: Iterable[Row]) -> Ticket | None:
        """The next run of a recipe of the front (rows of the search) with a further seed; None if all have theirs."""
        for trial_id in (row["trial_id"] for row in front if not row.get("repeats")):
            for copy in range(self.file.study.confirm_seeds):
                what = {"confirms": trial_id, "copy": copy}
                if ticket := self._ask_aside("confirm", self.store.recipe(trial_id), what):
                    return ticket
        return None

    def _ask_aside(self, kind: str, recipe: Row, what: Mapping[str, Any]) -> Ticket | None:
        """A trial that is no part of the search; None if it is done, or running."""
        job = _text([kind, what])
        if job in self._jobs:
            return None
        self._jobs.add(job)
        numbers = (what.get("copy", 0), *([] if what["confirms"] is None else [int(what["confirms"])]))
        trial = self.store.studies[kind].ask()
        seed = trial_seed(self.file.study.seed, kind, *numbers)
        trial.set_user_attr("aside", {**what, "job": job, "recipe": recipe, "seed": seed})
        return self.store.open(trial, kind, recipe)

    def _enqueue_fixed(self) -> None:
        if self._begun < len(self._fixed) and not self._waiting:
            self._search.enqueue_trial(self._fixed[self._begun])
            self._waiting += 1

    def _enqueue_copy(self, trial: Trial) -> None:
        """Let a recipe run again, as often as the study has seeds."""
        copies = trial.user_attrs.get("copies", self.file.study.seeds - 1)
        if copies:
            attrs = {"copies": copies - 1, "copy": True, "of": trial.number}
            self._search.enqueue_trial(trial.params, user_attrs=attrs)
            self._waiting += 1

    def _stored(self, recipe: Row) -> tuple[Row, list[Row]] | None:
        """The first complete run of a recipe, where the study reuses results."""
        if self.file.study.repeats != "stored":
            return None
        for trial_id in self.store.told[self._looked :]:
            row = self.store.records[trial_id][0]
            if row["kind"] == "search" and row["state"] == "complete" and "repeats" not in row:
                self._first.setdefault(_text(self.store.recipe(trial_id)), trial_id)
        self._looked = len(self.store.told)
        return self.store.records.get(self._first.get(_text(recipe), ""))


def _is_fresh(trial: Trial | FrozenTrial) -> bool:
    return "copy" not in trial.user_attrs


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
