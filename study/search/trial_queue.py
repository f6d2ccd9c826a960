"""The queue of trials: the next trial of the search, and of the controls and confirmations after it."""

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
from study.search.trial_store import TrialStore, trial_seed
from study.training.epochs import Row
from study.trials.context import Ticket
from study.trials.rows import failed_row

Known = Callable[[Row], tuple[Row, list[Row]] | None]  # a recipe -> its row and history, if it need not run


class TrialQueue:
    """Returns the next trial of the study in `folder`; finished trials are told to its `store`.

    Open trials of an earlier process are recovered first. If `known` returns a row for a recipe of the search, that row
    is recorded at once and nothing runs. Raises as `TrialStore`, and ValueError if the journal is another study's.
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
            self._jobs = recover(self.store)  # keys of controls and confirmations that finished or run
        except BaseException:
            self.store.close()
            raise
        trials = self._search.get_trials(deepcopy=False)
        self._waiting = sum(trial.state == TrialState.WAITING for trial in trials)  # enqueued, not yet asked for
        # Recipes started by the search, without further seeds and runs after a loss.
        self._begun = sum(_is_fresh(trial) for trial in trials if trial.state != TrialState.WAITING)
        self._first_complete: dict[str, str] = {}  # recipe as JSON -> id of its first complete trial
        self._indexed = 0  # of the store's told trials, how many are in _first_complete
        self._search.sampler = suggestions.sampler(file, len(trials))

    def ask(self) -> Ticket | None:
        """The next trial of the search, or None if no further one is to start."""
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
            except ValueError as error:  # an invalid combination of axes
                self.store.tell(ticket, failed_row(recipe, str(error)), [])
                continue
            if not (found := self._stored(recipe) or self._known(recipe)):
                return ticket
            row, history = found
            self.store.tell(ticket._replace(seed=row["seed"]), {**row, "repeats": row.get("trial_id")}, history)
        return None

    def ask_control(self, control: str, recipe: Row, confirms: str | None = None) -> Ticket | None:
        """A control trial, outside the search and hidden from the sampler; None if it finished or runs."""
        return self._ask_extra("control", recipe, {"control": control, "confirms": confirms})

    def ask_scratch(self, front: Iterable[Row]) -> Ticket | None:
        """The next cut network of the front (rows of the search) to train from scratch, or None.

        Source: Liu et al. 2019, arXiv:1810.05270.
        """
        cut = (row["trial_id"] for row in front if row["granularity"] == "channel" and not row.get("repeats"))
        tickets = (self.ask_control("scratch", self.store.recipe(trial_id), trial_id) for trial_id in cut)
        return next(filter(None, tickets), None)

    def ask_confirm(self, front: Iterable[Row]) -> Ticket | None:
        """The next run of a recipe of the front (rows of the search) with a further seed, or None."""
        for trial_id in (row["trial_id"] for row in front if not row.get("repeats")):
            for copy in range(self.file.study.confirm_seeds):
                attributes = {"confirms": trial_id, "copy": copy}
                if ticket := self._ask_extra("confirm", self.store.recipe(trial_id), attributes):
                    return ticket
        return None

    def _ask_extra(self, kind: str, recipe: Row, attributes: Mapping[str, Any]) -> Ticket | None:
        """A control or confirmation; None if it finished or runs."""
        job = _json([kind, attributes])
        if job in self._jobs:
            return None
        self._jobs.add(job)
        confirmed = [] if attributes["confirms"] is None else [int(attributes["confirms"])]
        trial = self.store.studies[kind].ask()
        seed = trial_seed(self.file.study.seed, kind, attributes.get("copy", 0), *confirmed)
        trial.set_user_attr("aside", {**attributes, "job": job, "recipe": recipe, "seed": seed})
        return self.store.open(trial, kind, recipe)

    def _enqueue_fixed(self) -> None:
        if self._begun < len(self._fixed) and not self._waiting:
            self._search.enqueue_trial(self._fixed[self._begun])
            self._waiting += 1

    def _enqueue_copy(self, trial: Trial) -> None:
        """Enqueue the recipe once more while runs with further seeds are due (`study.seeds`)."""
        copies = trial.user_attrs.get("copies", self.file.study.seeds - 1)
        if copies:
            attrs = {"copies": copies - 1, "copy": True, "of": trial.number}
            self._search.enqueue_trial(trial.params, user_attrs=attrs)
            self._waiting += 1

    def _stored(self, recipe: Row) -> tuple[Row, list[Row]] | None:
        """Row and history of the first complete run of a recipe, if the study reuses results (`repeats: stored`)."""
        if self.file.study.repeats != "stored":
            return None
        for trial_id in self.store.told[self._indexed :]:
            row = self.store.records[trial_id][0]
            if row["kind"] == "search" and row["state"] == "complete" and "repeats" not in row:
                self._first_complete.setdefault(_json(self.store.recipe(trial_id)), trial_id)
        self._indexed = len(self.store.told)
        return self.store.records.get(self._first_complete.get(_json(recipe), ""))


def _is_fresh(trial: Trial | FrozenTrial) -> bool:
    return "copy" not in trial.user_attrs


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
