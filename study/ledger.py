"""The one ledger: an Optuna study on a journal.

Each trial's whole row and history stand among its attributes, so everything else can be made anew from it.
A trial is written in three steps - asked (RUNNING), recorded, told - and can be taken up after each of them.
Nothing here looks at all trials once the study runs: what a trial costs does not grow with their number.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from study import samplers
from study import space as spaces
from study.config import Recipe, StudyFile
from study.journal import Journal, hold

Record = dict[str, Any]
Known = Callable[[Record], tuple[Record, list[Record]] | None]  # a recipe -> its row and history, if it need not run
ATTEMPTS = 2  # a trial lost with its driver runs again this many times in all
KINDS = {"search": "", "control": "c", "confirm": "k"}  # of trials, and how their ids begin
LOST = "lost with its driver"


class Ticket(NamedTuple):
    """A trial to be run.

    control: of which control; confirms: the trial it runs again with another seed, or trains anew; plan: of that one.
    """

    trial_id: str
    kind: str
    recipe: Record
    seed: int
    control: str | None = None
    confirms: str | None = None
    plan: Record | None = None


class Ledger:
    """The trials of the study in `folder`: `ask` for one, `tell` its row; both survive the process.

    `known` is asked before a recipe of the search is handed out: the row it gives is told at once, and nothing is run.
    Raises ValueError where another process holds the folder, or its journal is of another study file; OSError where
    the journal cannot be written (a full disk: what is in it stays good).
    """

    def __init__(self, folder: Path, file: StudyFile, known: Known = lambda recipe: None) -> None:
        self.file, self._known = file, known
        self.axes = file.axes
        if file.study.search == "grid":
            self.axes = {k: axis.model_copy(update={"choices": axis.values()}) for k, axis in self.axes.items()}
        self._sampler_name = file.study.sampler if file.study.search == "optuna" else "tpe"
        self._lock = hold(folder)
        self._journal = Journal(folder / "optuna.journal")
        self._storage = JournalStorage(self._journal)  # type: ignore[arg-type]  # all it asks for, and no lock
        self._studies = {"search": self._study(""), "control": self._study("-controls")}
        if file.study.confirm_seeds:
            self._studies["confirm"] = self._study("-confirms")
        self._search = self._studies["search"]
        self._fixed = [{k: spaces.label(v) for k, v in r.items()} for r in file.study.start_with]
        if file.study.search == "grid":
            points = ({k: spaces.label(v) for k, v in point.items()} for point in spaces.grid(self.axes))
            self._fixed += [point for point in points if point not in self._fixed]
        self._open: dict[str, Trial] = {}
        self._searching = 0  # of those open, how many are of the search
        self.records: dict[str, tuple[Record, list[Record]]] = {}
        self.told: list[str] = []  # the trials of `records` in the order they were told
        self._first: dict[str, str] = {}  # a recipe, as text -> the first trial that ran it
        self._jobs: set[str] = set()  # controls and confirmations that are done or running
        self._begun = 0  # recipes the search has begun: repeats for further seeds and re-runs do not count
        self._waiting = 0  # trials enqueued and not yet asked for
        self._finished = 0
        try:
            self._check_identity()
            self._recover()
        except BaseException:
            self.close()
            raise
        self._search.sampler = samplers.sampler(file, len(self._search.get_trials(deepcopy=False)))

    def _study(self, suffix: str) -> optuna.Study:
        directions = [samplers.DIRECTIONS[direction] for direction in self.file.study.objectives.values()]
        study = optuna.create_study(
            storage=self._storage,
            study_name=self.file.study.name + suffix,
            directions=directions,
            sampler=optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        if study.metric_names is None:  # what optuna-dashboard writes on its axes
            study.set_metric_names(list(self.file.study.objectives))
        return study

    def close(self) -> None:
        """Let another process have the folder."""
        self._journal.close()
        os.close(self._lock)

    def rows(self, kind: str = "search") -> list[Record]:
        """The rows of all finished trials of a kind, in the order of their ids."""
        return [self.records[key][0] for key in in_order(self.records) if self.records[key][0]["kind"] == kind]

    @property
    def running(self) -> int:
        """Trials of the search that were asked for and not yet told: until it is 0 the front may change."""
        return self._searching

    @property
    def runs(self) -> int:
        """Search trials to be finished in all."""
        return self.file.trials * self.file.study.seeds

    def ask(self) -> Ticket | None:
        """The next trial of the search; None when no further one is to be started."""
        while self._finished + self._searching < self.runs:
            self._enqueue_fixed()
            trial = self._search.ask()
            self._waiting -= self._waiting > 0
            self._begun += _is_fresh(trial)
            recipe = samplers.draw(trial, self.axes, self._sampler_name)
            self._enqueue_copy(trial)
            ticket = self._ticket(trial, "search", recipe)
            try:
                Recipe(**recipe)
            except ValueError as error:  # a combination that only the whole recipe shows to be wrong
                self.tell(ticket, failed(recipe, str(error)), [])
                continue
            if not (found := self._stored(recipe) or self._known(recipe)):
                return ticket
            row, history = found
            self.tell(ticket._replace(seed=row["seed"]), {**row, "repeats": row.get("trial_id")}, history)
        return None

    def ask_control(self, control: str, recipe: Record, confirms: str | None = None) -> Ticket | None:
        """A trial outside the search, which the sampler never hears of; None if it has had its run."""
        return self._ask_aside("control", recipe, {"control": control, "confirms": confirms})

    def ask_scratch(self, front: Iterable[Record]) -> Ticket | None:
        """The next cut network of the front (rows of the search) to be trained from scratch; None if all have been.

        Source of the control: Liu et al. 2019, arXiv:1810.05270.
        """
        cut = (row["trial_id"] for row in front if row["granularity"] == "channel" and not row.get("repeats"))
        tickets = (self.ask_control("scratch", self.recipe(trial_id), trial_id) for trial_id in cut)
        return next(filter(None, tickets), None)

    def ask_confirm(self, front: Iterable[Record]) -> Ticket | None:
        """The next run of a recipe of the front (rows of the search) with a further seed; None if all have theirs."""
        for trial_id in (row["trial_id"] for row in front if not row.get("repeats")):
            for copy in range(self.file.study.confirm_seeds):
                what = {"confirms": trial_id, "copy": copy}
                if ticket := self._ask_aside("confirm", self.recipe(trial_id), what):
                    return ticket
        return None

    def recipe(self, trial_id: str) -> Record:
        """What a trial of the search was asked to run."""
        trial = self._storage.get_trial(
            self._storage.get_trial_id_from_study_id_trial_number(self._search._study_id, int(trial_id))
        )
        return samplers.recipe(trial.params, self.axes)

    def tell(self, ticket: Ticket, row: Record, history: list[Record]) -> None:
        """Write a finished trial down; on return it outlives whatever happens. Raises OSError on a full disk."""
        trial = self._open[ticket.trial_id]
        row = {**row, "trial_id": ticket.trial_id, "kind": ticket.kind, "seed": ticket.seed}
        row |= {"schedule": ticket.control or row.get("schedule"), "confirms": ticket.confirms}
        row["feasible"] = row["state"] == "complete" and all(v <= 0 for v in self._violations(row).values())
        history = [{"trial_id": ticket.trial_id, **record} for record in history]
        trial.set_user_attr("record", {"row": row, "history": history})
        self._conclude(trial, row)
        self._journal.sync()
        self._keep(self._storage.get_trial(trial._trial_id))
        del self._open[ticket.trial_id]
        self._searching -= ticket.kind == "search"

    def measured(self, trial_id: str, columns: Record) -> None:
        """Add what was measured after the trial had ended, which Optuna lets nobody write among its attributes."""
        self._search.set_user_attr(f"measured:{trial_id}", columns)
        self.records[trial_id][0].update(columns)

    def importance(self) -> dict[str, dict[str, float]]:
        """How much each axis decides, for each objective and for the front; see `samplers.importance`."""
        return samplers.importance(self._search, list(self.file.study.objectives), self.axes)

    def _keep(self, trial: FrozenTrial) -> None:
        """Take up a recorded trial: its row, and what is counted."""
        record = trial.user_attrs["record"]
        record["row"] = row = _shared_keys(record["row"])
        record["history"] = history = [_shared_keys(line) for line in record["history"]]
        self.records[row["trial_id"]] = (row, history)
        self.told.append(row["trial_id"])
        if row["kind"] == "search":
            self._finished += 1
            if self.file.study.repeats == "stored" and row["state"] == "complete" and "repeats" not in row:
                self._first.setdefault(_text(samplers.recipe(trial.params, self.axes)), row["trial_id"])

    def _conclude(self, trial: Trial, row: Record) -> None:
        """Tell Optuna. What a recipe itself made fail is told as infeasible, so that samplers keep away from it."""
        study = self._studies[row["kind"]]
        if row["state"] == "complete":
            self._constrain(trial, list(self._violations(row).values()))
            study.tell(trial, [float(row[name]) for name in self.file.study.objectives])
        elif row["state"] == "failed" and row["error"].startswith(LOST):
            study.tell(trial, state=TrialState.FAIL)
        else:
            if row["state"] == "failed":
                self._constrain(trial, [1.0])
            study.tell(trial, state=TrialState.PRUNED)

    def _constrain(self, trial: Trial, violations: list[float]) -> None:
        """Tell Optuna by how much constraints are broken, as the list of its versions before 5.

        `Trial.set_constraint` writes what Optuna's samplers read, and its dashboard does not.
        """
        if violations:
            self._storage.set_trial_system_attr(trial._trial_id, "constraints", violations)

    def _violations(self, row: Record) -> dict[str, float]:
        """By how much each constraint is broken; at most 0 where it holds."""
        if row["state"] != "complete":
            return {}
        return {
            name: (row[name] - float(bound[2:])) * (1 if bound[0] == "<" else -1)
            for name, bound in self.file.study.constraints.items()
        }

    def _ticket(self, trial: Trial, kind: str, recipe: Record) -> Ticket:
        trial_id = f"{KINDS[kind]}{trial.number:04d}"
        aside = trial.user_attrs.get("aside", {})
        seed = aside.get("seed", trial.user_attrs.get("seed"))
        if seed is None:
            seed = _seed(self.file.study.seed, kind, trial.number)
        self._open[trial_id] = trial
        self._searching += kind == "search"
        return Ticket(trial_id, kind, recipe, seed, aside.get("control"), aside.get("confirms"))

    def _ask_aside(self, kind: str, recipe: Record, what: Mapping[str, Any]) -> Ticket | None:
        """A trial that is no part of the search; None if it is done, or running."""
        job = _text([kind, what])
        if job in self._jobs:
            return None
        self._jobs.add(job)
        numbers = (what.get("copy", 0), *([] if what["confirms"] is None else [int(what["confirms"])]))
        trial = self._studies[kind].ask()
        seed = _seed(self.file.study.seed, kind, *numbers)
        trial.set_user_attr("aside", {**what, "job": job, "recipe": recipe, "seed": seed})
        return self._ticket(trial, kind, recipe)

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

    def _stored(self, recipe: Record) -> tuple[Record, list[Record]] | None:
        return self.records.get(self._first.get(_text(recipe), "")) if self._first else None

    def _check_identity(self) -> None:
        mine = self.file.resolved()
        for key in ("trials", "hours"):  # how long to search is not what is searched
            mine["study"].pop(key)
        theirs = self._search.user_attrs.get("file")
        if theirs is None:
            self._search.set_user_attr("file", mine)
        elif theirs != json.loads(json.dumps(mine)):
            raise ValueError("study.yaml was changed after the study began: " + "; ".join(_differences(theirs, mine)))

    def _recover(self) -> None:
        """Take up what a killed driver left: recorded trials are told, the others run again or are given up."""
        for kind, study in self._studies.items():
            trials = study.get_trials(deepcopy=False)
            for frozen in trials:
                if "record" in frozen.user_attrs:
                    self._keep(frozen)
            attempts = Counter(frozen.user_attrs.get("aside", {}).get("job") for frozen in trials)
            for frozen in trials:
                if frozen.state != TrialState.RUNNING:
                    continue
                trial = Trial(study, frozen._trial_id)
                if record := frozen.user_attrs.get("record"):
                    self._conclude(trial, record["row"])
                elif kind == "search":
                    self._run_again(trial, frozen, trials)
                else:
                    self._ask_again(kind, trial, attempts)
            done = [t.user_attrs["aside"]["job"] for t in study.get_trials(deepcopy=False) if _is_done_aside(t)]
            self._jobs.update(done)
        for name, columns in self._search.user_attrs.items():
            if name.startswith("measured:"):
                self.records[name.removeprefix("measured:")][0].update(columns)
        trials = self._search.get_trials(deepcopy=False)
        self._waiting = sum(trial.state == TrialState.WAITING for trial in trials)
        self._begun = sum(_is_fresh(trial) for trial in trials if trial.state != TrialState.WAITING)

    def _run_again(self, trial: Trial, frozen: FrozenTrial, trials: list[FrozenTrial]) -> None:
        """Enqueue a trial of the search once more, as it was: what it had drawn, its seed, its copies still due."""
        attrs = frozen.user_attrs
        params = frozen.system_attrs.get("fixed_params", {}) | frozen.params
        attempt = attrs.get("attempt", 1)
        if attempt >= ATTEMPTS:
            recipe = {key: value for key, value in params.items() if key in Recipe.model_fields}
            row = failed(recipe, f"{LOST} {attempt} times")
            self.tell(self._ticket(trial, "search", recipe), row, [])
            return
        copied = any(other.user_attrs.get("of") == frozen.number for other in trials)
        again = {
            "copy": True,
            "copies": 0 if copied else attrs.get("copies", self.file.study.seeds - 1),
            "attempt": attempt + 1,
            "seed": attrs.get("seed", _seed(self.file.study.seed, "search", frozen.number)),
            "replaces": frozen.number,
        }
        # Killed between these two lines, the trial is still RUNNING at the next start: it is not queued again then.
        if not any(other.user_attrs.get("replaces") == frozen.number for other in trials):
            self._search.enqueue_trial(params, user_attrs=again)
        self._search.tell(trial, state=TrialState.FAIL)

    def _ask_again(self, kind: str, trial: Trial, attempts: Mapping[str | None, int]) -> None:
        """Let `ask_control` or `ask_confirm` hand a lost trial out once more, or give it up."""
        aside = trial.user_attrs.get("aside")
        if aside and attempts[aside["job"]] >= ATTEMPTS:
            row = failed(aside["recipe"], f"{LOST} {attempts[aside['job']]} times")
            self.tell(self._ticket(trial, kind, aside["recipe"]), row, [])
        else:
            self._studies[kind].tell(trial, state=TrialState.FAIL)


def in_order(trial_ids: Iterable[str]) -> list[str]:
    """Trials in the order of their ids, the ten-thousandth after the ninth."""
    return sorted(trial_ids, key=lambda trial_id: (len(trial_id), trial_id))


def _is_fresh(trial: Trial | FrozenTrial) -> bool:
    return "copy" not in trial.user_attrs


def _is_done_aside(trial: FrozenTrial) -> bool:
    return "aside" in trial.user_attrs and "record" in trial.user_attrs


def failed(recipe: Record, error: str) -> Record:
    """The row of a recipe that never came to make one of its own."""
    columns = {key: value for key, value in recipe.items() if key != "sparsity"}
    if isinstance(columns.get("protect"), (list, tuple)):
        columns["protect"] = " ".join(columns["protect"])
    return {**columns, "requested_sparsity": recipe.get("sparsity"), "state": "failed", "error": error}


def _shared_keys(line: Record) -> Record:
    """The same, with one string for each column however many rows have it: a third of a study's memory."""
    return {sys.intern(key): value for key, value in line.items()}


def _seed(study_seed: int, kind: str, *numbers: int) -> int:
    return int(np.random.SeedSequence([study_seed, list(KINDS).index(kind), *numbers]).generate_state(1)[0])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
    keys = [*old, *(k for k in new if k not in old)]
    return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
