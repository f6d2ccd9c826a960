"""The store of a study's trials: Optuna studies on one journal, the only record of the study.

Each trial's row and history are among its attributes, so all other files can be rebuilt from the journal. A trial is
written in three steps - asked (RUNNING), recorded, told - and can be recovered after each. While the study runs,
nothing here visits all trials, so the time per trial does not grow with their number.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import StudyFile, parse
from study.samplers import optuna_adapter, registry
from study.search import importance, suggestions
from study.search.journal import Journal, lock_folder
from study.training.epochs import Row
from study.trials.context import Ticket

KINDS = {"search": "", "control": "c", "confirm": "k"}  # of trials -> prefix of their ids
LOST = "lost with its driver"  # start of the error of a trial whose driver was killed


class TrialStore:
    """The trials of the study in `folder`, persistent across processes.

    Attributes:
      records: trial_id -> row and history, of all finished trials.
      told: ids of finished trials, in the order they finished.
      studies: kind of trial -> Optuna study.
      last_alive: when an earlier driver last gave a sign of life, in seconds since the epoch; 0 if there was none.

    Raises:
      ValueError: another process has the folder locked.
      OSError: the journal cannot be written (a full disk); its content stays valid.
    """

    def __init__(self, folder: Path, file: StudyFile) -> None:
        self.file = file
        self._lock = lock_folder(folder)
        journal = folder / "optuna.journal"
        self.last_alive = journal.stat().st_mtime if journal.exists() else 0.0
        self._journal = Journal(journal)
        self._storage = JournalStorage(self._journal)
        self.studies = {"search": self._study(""), "control": self._study("-controls")}
        if file.study.confirm_seeds:
            self.studies["confirm"] = self._study("-confirms")
        self.search = self.studies["search"]
        self.records: dict[str, tuple[Row, list[Row]]] = {}
        self.told: list[str] = []
        self.finished = 0  # search trials that are told
        self.running = 0  # search trials that are open; until it is 0 the front may change
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
        if study.metric_names is None:  # shown by optuna-dashboard
            study.set_metric_names(list(self.file.study.objectives))
        return study

    def close(self) -> None:
        """Close the journal and unlock the folder."""
        self._journal.close()
        self._lock.release()

    def rows(self, kind: str = "search") -> list[Row]:
        """The rows of all finished trials of a kind, ordered by id."""
        return [self.records[key][0] for key in in_order(self.records) if self.records[key][0]["kind"] == kind]

    @property
    def runs(self) -> int:
        """Search trials that the study asks for."""
        return self.file.trials * self.file.study.seeds

    def recipe(self, trial_id: str) -> Row:
        """The recipe of a search trial."""
        trial = optuna_adapter.trial_by_number(self._storage, self.search, int(trial_id))
        return suggestions.recipe(trial.params, self.file.axes)

    def open(self, trial: Trial, kind: str, recipe: Row) -> Ticket:
        """Registers a trial as running and returns its ticket."""
        trial_id = f"{KINDS[kind]}{trial.number:04d}"
        extra = trial.user_attrs.get("aside", {})
        seed = extra.get("seed", trial.user_attrs.get("seed"))
        if seed is None:
            seed = trial_seed(self.file.study.seed, kind, trial.number)
        self._open[trial_id] = trial
        self.running += kind == "search"
        return Ticket(trial_id, kind, recipe, seed, extra.get("control"), extra.get("confirms"))

    def tell(self, ticket: Ticket, row: Row, history: list[Row]) -> None:
        """Record a finished trial; it is on disk when this returns. Raises OSError on a full disk."""
        trial = self._open[ticket.trial_id]
        row = {**row, "trial_id": ticket.trial_id, "kind": ticket.kind, "seed": ticket.seed}
        row |= {"schedule": ticket.control or row.get("schedule"), "confirms": ticket.confirms}
        row["feasible"] = row["state"] == "complete" and all(v <= 0 for v in self._violations(row).values())
        history = [{"trial_id": ticket.trial_id, **record} for record in history]
        trial.set_user_attr("record", {"row": row, "history": history})
        self.conclude(trial, row)
        self._journal.sync()
        self.take_up(optuna_adapter.stored_trial(self._storage, trial))
        del self._open[ticket.trial_id]
        self.running -= ticket.kind == "search"

    def take_up(self, trial: FrozenTrial) -> None:
        """Add a recorded trial, of this process or an earlier one, to `records` and `told`."""
        record = trial.user_attrs["record"]
        record["row"] = row = _shared_keys(record["row"])
        record["history"] = history = [_shared_keys(line) for line in record["history"]]
        self.records[row["trial_id"]] = (row, history)
        self.told.append(row["trial_id"])
        self.finished += row["kind"] == "search"

    def conclude(self, trial: Trial, row: Row) -> None:
        """Tell Optuna. A failure caused by the recipe is told as infeasible, so that samplers avoid it."""
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
        """Add columns measured after the trial ended, as study attributes: those of a finished trial are read-only."""
        self.search.set_user_attr(f"measured:{trial_id}", columns)
        self.records[trial_id][0].update(columns)

    def importance(self) -> dict[str, dict[str, float]]:
        """Importance of each axis for each objective and for the front; see `search.importance`."""
        return importance.importance(self.search, list(self.file.study.objectives), self.file.axes)

    def check_identity(self) -> None:
        """Raise ValueError if the journal belongs to another study file; `trials` and `hours` may differ."""
        current = _identity(self.file)
        stored = self.search.user_attrs.get("file")
        if stored is None:
            self.search.set_user_attr("file", current)
            return
        stored = _identity(parse(stored, "optuna.journal"))  # with defaults of keys that are newer than the journal
        if differences := "; ".join(_differences(stored, current)):
            raise ValueError(f"study.yaml was changed after the study began: {differences}")

    def _violations(self, row: Row) -> dict[str, float]:
        """By how much each constraint is violated; at most 0 where it holds."""
        if row["state"] != "complete":
            return {}
        return {
            name: (row[name] - float(bound[2:])) * (1 if bound[0] == "<" else -1)
            for name, bound in self.file.study.constraints.items()
        }


def _identity(file: StudyFile) -> Row:
    """All of a study file that may not change while the study goes on, as the journal holds it."""
    content = file.resolved()
    for key in ("trials", "hours"):
        content["study"].pop(key)
    return dict(json.loads(json.dumps(content)))


def in_order(trial_ids: Iterable[str]) -> list[str]:
    """Trial ids in numeric order: 10000 comes after 9999."""
    return sorted(trial_ids, key=lambda trial_id: (len(trial_id), trial_id))


def trial_seed(study_seed: int, kind: str, *numbers: int) -> int:
    """The seed of a trial. numbers: its number; or, of a control or confirmation, its copy and the confirmed trial."""
    return int(np.random.SeedSequence([study_seed, list(KINDS).index(kind), *numbers]).generate_state(1)[0])


def _shared_keys(line: Row) -> Row:
    """The row with interned column names, which saves a third of a study's memory."""
    return {sys.intern(key): value for key, value in line.items()}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
    keys = [*old, *(k for k in new if k not in old)]
    return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
