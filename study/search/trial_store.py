"""The store of a study's trials: an Optuna study on a journal, and nothing beside it.

Each trial's whole row and history stand among its attributes, so everything else can be made anew from it. A trial is
written in three steps - asked (RUNNING), recorded, told - and can be taken up after each of them. Nothing here looks at
all trials once the study runs: what a trial costs does not grow with their number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import StudyFile
from study.samplers import optuna_adapter, registry
from study.search import importance, suggestions
from study.search.journal import Journal, hold
from study.training.epochs import Row

KINDS = {"search": "", "control": "c", "confirm": "k"}  # of trials, and how their ids begin
LOST = "lost with its driver"  # how the error begins of a trial that its driver never came to report


class Ticket(NamedTuple):
    """A trial to be run.

    control: of which control; confirms: the trial it runs again with another seed, or from scratch; plan: of that one.
    """

    trial_id: str
    kind: str
    recipe: Row
    seed: int
    control: str | None = None
    confirms: str | None = None
    plan: Row | None = None


class TrialStore:
    """The trials of the study in `folder`, which survive the process.

    records: trial_id -> its row and history, of all finished trials. told: their ids, in the order they finished.
    studies: the Optuna study of each kind of trial. Raises ValueError where another process holds the folder, or its
    journal is of another study file; OSError where the journal cannot be written (a full disk: what is in it stays
    good).
    """

    def __init__(self, folder: Path, file: StudyFile) -> None:
        self.file = file
        self._lock = hold(folder)
        self._journal = Journal(folder / "optuna.journal")
        self._storage = JournalStorage(self._journal)
        self.studies = {"search": self._study(""), "control": self._study("-controls")}
        if file.study.confirm_seeds:
            self.studies["confirm"] = self._study("-confirms")
        self.search = self.studies["search"]
        self.records: dict[str, tuple[Row, list[Row]]] = {}
        self.told: list[str] = []
        self.finished = 0  # trials of the search, of those told
        self.running = 0  # trials of the search, of those open: until it is 0 the front may change
        self._open: dict[str, Trial] = {}

    def _study(self, suffix: str) -> optuna.Study:
        directions = [registry.DIRECTIONS[direction] for direction in self.file.study.objectives.values()]
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
        self._lock.release()

    def rows(self, kind: str = "search") -> list[Row]:
        """The rows of all finished trials of a kind, in the order of their ids."""
        return [self.records[key][0] for key in in_order(self.records) if self.records[key][0]["kind"] == kind]

    @property
    def runs(self) -> int:
        """Search trials to be finished in all."""
        return self.file.trials * self.file.study.seeds

    def recipe(self, trial_id: str) -> Row:
        """What a trial of the search was asked to run."""
        trial = optuna_adapter.numbered(self._storage, self.search, int(trial_id))
        return suggestions.recipe(trial.params, self.file.axes)

    def open(self, trial: Trial, kind: str, recipe: Row) -> Ticket:
        """The ticket of a trial that was asked for and is about to run."""
        trial_id = f"{KINDS[kind]}{trial.number:04d}"
        aside = trial.user_attrs.get("aside", {})
        seed = aside.get("seed", trial.user_attrs.get("seed"))
        if seed is None:
            seed = trial_seed(self.file.study.seed, kind, trial.number)
        self._open[trial_id] = trial
        self.running += kind == "search"
        return Ticket(trial_id, kind, recipe, seed, aside.get("control"), aside.get("confirms"))

    def tell(self, ticket: Ticket, row: Row, history: list[Row]) -> None:
        """Write a finished trial down; on return it outlives whatever happens. Raises OSError on a full disk."""
        trial = self._open[ticket.trial_id]
        row = {**row, "trial_id": ticket.trial_id, "kind": ticket.kind, "seed": ticket.seed}
        row |= {"schedule": ticket.control or row.get("schedule"), "confirms": ticket.confirms}
        row["feasible"] = row["state"] == "complete" and all(v <= 0 for v in self._violations(row).values())
        history = [{"trial_id": ticket.trial_id, **record} for record in history]
        trial.set_user_attr("record", {"row": row, "history": history})
        self.conclude(trial, row)
        self._journal.sync()
        self.take_up(optuna_adapter.frozen(self._storage, trial))
        del self._open[ticket.trial_id]
        self.running -= ticket.kind == "search"

    def take_up(self, trial: FrozenTrial) -> None:
        """Take up a recorded trial, of this process or of an earlier one, among the finished ones."""
        record = trial.user_attrs["record"]
        record["row"] = row = _shared_keys(record["row"])
        record["history"] = history = [_shared_keys(line) for line in record["history"]]
        self.records[row["trial_id"]] = (row, history)
        self.told.append(row["trial_id"])
        self.finished += row["kind"] == "search"

    def conclude(self, trial: Trial, row: Row) -> None:
        """Tell Optuna. What a recipe itself made fail is told as infeasible, so that samplers keep away from it."""
        study = self.studies[row["kind"]]
        if row["state"] == "complete":
            optuna_adapter.write_violations(self._storage, trial, list(self._violations(row).values()))
            study.tell(trial, [float(row[name]) for name in self.file.study.objectives])
        elif row["state"] == "failed" and row["error"].startswith(LOST):
            study.tell(trial, state=TrialState.FAIL)
        else:
            if row["state"] == "failed":
                optuna_adapter.write_violations(self._storage, trial, [1.0])
            study.tell(trial, state=TrialState.PRUNED)

    def measured(self, trial_id: str, columns: Row) -> None:
        """Add what was measured after the trial had ended, which Optuna lets nobody write among its attributes."""
        self.search.set_user_attr(f"measured:{trial_id}", columns)
        self.records[trial_id][0].update(columns)

    def importance(self) -> dict[str, dict[str, float]]:
        """How much each axis decides, for each objective and for the front; see `search.importance`."""
        return importance.importance(self.search, list(self.file.study.objectives), self.file.axes)

    def check_identity(self) -> None:
        """Raise ValueError where the journal is of another study file; how long to search may have changed."""
        mine = self.file.resolved()
        for key in ("trials", "hours"):
            mine["study"].pop(key)
        theirs = self.search.user_attrs.get("file")
        if theirs is None:
            self.search.set_user_attr("file", mine)
        elif theirs != json.loads(json.dumps(mine)):
            raise ValueError("study.yaml was changed after the study began: " + "; ".join(_differences(theirs, mine)))

    def _violations(self, row: Row) -> dict[str, float]:
        """By how much each constraint is broken; at most 0 where it holds."""
        if row["state"] != "complete":
            return {}
        return {
            name: (row[name] - float(bound[2:])) * (1 if bound[0] == "<" else -1)
            for name, bound in self.file.study.constraints.items()
        }


def in_order(trial_ids: Iterable[str]) -> list[str]:
    """Trials in the order of their ids, the ten-thousandth after the ninth."""
    return sorted(trial_ids, key=lambda trial_id: (len(trial_id), trial_id))


def trial_seed(study_seed: int, kind: str, *numbers: int) -> int:
    """The seed of a trial, from the study's, its kind and its number (of a further run: that of the first, too)."""
    return int(np.random.SeedSequence([study_seed, list(KINDS).index(kind), *numbers]).generate_state(1)[0])


def _shared_keys(line: Row) -> Row:
    """The same, with one string for each column however many rows have it: a third of a study's memory."""
    return {sys.intern(key): value for key, value in line.items()}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
    keys = [*old, *(k for k in new if k not in old)]
    return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
