"""The store of a study's trials: Optuna studies on one journal, the only record of the study.

Each trial's row and history are among its attributes, so all other files can be rebuilt from the journal. A trial is
written in three steps - asked (RUNNING), recorded, told - and can be recovered after each. While the study runs,
nothing here visits all trials, so the time per trial does not grow with their number.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from analysis import csv_tables
from study.config import RefusedError, StudyFile
from study.samplers import optuna_adapter, registry
from study.search import importance, suggestions
from study.search.journal import Journal, lock_folder
from study.search.journal_check import KINDS, STUDIES, Checker, identity
from study.training.epochs import Row
from study.trials.context import RUNS, Ticket

SCREENED = 300  # latest screened candidates that further ones are compared with
LOST = "lost with its driver"  # start of the error of a trial whose driver was killed


class Paused(NamedTuple):
    """A paused trial: its ticket, a history row per epoch so far, and when it was paused (seconds since the epoch)."""

    ticket: Ticket
    history: list[Row]
    at: float


class TrialStore:
    """The trials of the study in `folder`, persistent across processes.

    Attributes:
      records: trial_id -> row and history, of all finished trials.
      told: ids of finished trials, in the order they finished.
      studies: kind of trial -> Optuna study.
      earlier: accuracy and sparsity of the latest screened candidates.
      paused: trial_id -> paused trial of the search; it counts as running.
      last_alive: when an earlier driver last gave a sign of life, in seconds since the epoch; 0 if there was none.

    Raises:
      ValueError: another process has the folder locked, or the journal is damaged.
      OSError: the journal cannot be written (a full disk); its content stays valid.
    """

    def __init__(self, folder: Path, file: StudyFile) -> None:
        self.file = file
        self._lock = lock_folder(folder)
        journal = folder / "optuna.journal"
        self.last_alive = journal.stat().st_mtime if journal.exists() else 0.0
        try:
            self._journal, self._storage = opened(folder, file)
        except BaseException:
            self._lock.release()
            raise
        kinds = [kind for kind in KINDS if kind != "confirm" or file.study.confirm_seeds]
        self.studies = {kind: self._study(STUDIES[kind]) for kind in kinds}
        self.search = self.studies["search"]
        self.records: dict[str, tuple[Row, list[Row]]] = {}
        self.told: list[str] = []
        self.finished = 0  # search trials that are told, without those that were only screened
        self.running = 0  # search trials that are open; until it is 0 the front may change
        self._open: dict[str, Trial] = {}
        self.earlier: deque[tuple[float, float]] = deque(maxlen=SCREENED)
        self.paused: dict[str, Paused] = {}

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

    def open(self, trial: Trial, kind: str, recipe: Row, *, rival: bool = False) -> Ticket:
        """Registers a trial as running and returns its ticket.

        Args:
          trial: of Optuna.
          kind: of the trial.
          recipe: axis -> value.
          rival: whether it is screened beside another that is registered; one of them will be trained.
        """
        trial_id = f"{KINDS[kind]}{trial.number:04d}"
        extra = trial.user_attrs.get("aside", {})
        seed = extra.get("seed", trial.user_attrs.get("seed"))
        if seed is None:
            seed = trial_seed(self.file.study.seed, kind, trial.number)
        self._open[trial_id] = trial
        self.running += kind == "search" and not rival
        chosen = trial.user_attrs.get("chosen")
        return Ticket(trial_id, kind, recipe, seed, extra.get("control"), extra.get("confirms"), screened=chosen)

    def choose(self, trial_id: str, columns: Row) -> Trial:
        """Mark a screened trial as the one that is trained, with the columns that screening measured."""
        trial = self._open[trial_id]
        trial.set_user_attr("chosen", columns)
        return trial

    def pause(self, ticket: Ticket, history: list[Row], at: float) -> None:
        """Keep a trial of the search that is paused, also for a later process. at: seconds since the epoch."""
        self._open[ticket.trial_id].set_user_attr("paused", {"history": history, "at": at})
        self._journal.sync()
        self.paused[ticket.trial_id] = Paused(ticket, history, at)

    def unpause(self, trial_id: str) -> Paused:
        """Let a paused trial go on."""
        self._open[trial_id].set_user_attr("paused", None)
        return self.paused.pop(trial_id)

    def reopen(self, trial: Trial, frozen: FrozenTrial) -> None:
        """Take up a trial that an earlier process had paused."""
        ticket = self.open(trial, "search", suggestions.recipe(frozen.params, self.file.axes))
        self.paused[ticket.trial_id] = Paused(ticket, **frozen.user_attrs["paused"])

    def tell(self, ticket: Ticket, row: Row, history: list[Row]) -> None:
        """Record a finished trial; it is on disk when this returns. Raises OSError on a full disk."""
        trial = self._open[ticket.trial_id]
        row = {**row, "trial_id": ticket.trial_id, "kind": ticket.kind, "seed": ticket.seed}
        row |= {"schedule": ticket.control or row.get("schedule"), "confirms": ticket.confirms}
        row |= ticket.screened or {}
        row["feasible"] = row["state"] == "complete" and all(v <= 0 for v in self._violations(row).values())
        history = [{"trial_id": ticket.trial_id, **record} for record in history]
        trial.set_user_attr("record", {"row": row, "history": history})
        self.conclude(trial, row)
        self._journal.sync()
        self.take_up(optuna_adapter.stored_trial(self._storage, trial))
        del self._open[ticket.trial_id]
        self.running -= ticket.kind == "search" and row["state"] != "screened"

    def take_up(self, trial: FrozenTrial) -> None:
        """Add a recorded trial, of this process or an earlier one, to `records` and `told`."""
        record = trial.user_attrs["record"]
        record["row"] = row = _shared_keys(record["row"])
        record["history"] = history = [_shared_keys(line) for line in record["history"]]
        self.records[row["trial_id"]] = (row, history)
        self.told.append(row["trial_id"])
        self.finished += row["kind"] == "search" and row["state"] != "screened"
        if None not in (row.get("screened_accuracy"), row.get("sparsity")):
            self.earlier.append((row["screened_accuracy"], row["sparsity"]))

    def conclude(self, trial: Trial, row: Row) -> None:
        """Tell Optuna. A failure caused by the recipe is told as infeasible, so that samplers avoid it.

        Candidates that were screened out are hidden: told as pruned, they outnumber the trained, and TPE learned less
        (reports/search).
        """
        study = self.studies[row["kind"]]
        if row["state"] == "complete":
            optuna_adapter.write_violations(self._storage, trial, list(self._violations(row).values()))
            study.tell(trial, [float(row[name]) for name in self.file.study.objectives])
        elif (row["error"] or "").startswith(LOST) or (row["state"], row["error"]) == ("screened", None):
            study.tell(trial, state=TrialState.FAIL)
        else:
            if row["error"]:
                optuna_adapter.write_violations(self._storage, trial, [1.0])
            study.tell(trial, state=TrialState.PRUNED)

    def measured(self, trial_id: str, columns: Row) -> None:
        """Add columns measured after the trial ended, as study attributes: those of a finished trial are read-only."""
        self.search.set_user_attr(f"measured:{trial_id}", columns)
        self.records[trial_id][0].update(columns)

    def importance(self) -> dict[str, dict[str, float]]:
        """Importance of each axis for each objective and for the front; see `search.importance`."""
        return importance.importance(self.search, list(self.file.study.objectives), self.file.axes)

    def write_identity(self) -> None:
        """Write the study file to a new journal; that of an older one was compared when it was read."""
        if "file" not in self.search.user_attrs:
            self.search.set_user_attr("file", identity(self.file))

    def _violations(self, row: Row) -> dict[str, float]:
        """By how much each constraint is violated; at most 0 where it holds."""
        if row["state"] != "complete":
            return {}
        return {
            name: (row[name] - float(bound[2:])) * (1 if bound[0] == "<" else -1)
            for name, bound in self.file.study.constraints.items()
        }


def opened(folder: Path, file: StudyFile) -> tuple[Journal, JournalStorage]:
    """The journal in `folder`, with every line checked; nothing is written.

    Raises ValueError, naming the file and the line, if a line is damaged, or rows are gone that trials.csv lists.
    """
    path, check = folder / "optuna.journal", Checker(file)
    journal = Journal(path, check)
    try:
        storage = JournalStorage(journal)
    except (OSError, RefusedError):
        raise
    except Exception as error:  # of a line that does not fit, Optuna raises KeyError, AssertionError and others
        reason = (
            str(error) if type(error) is ValueError else f"is no line of a journal ({type(error).__name__}: {error})"
        )
        raise ValueError(f"{path}: line {journal.line}: {reason}{_REPAIR}") from None
    if gone := in_order(_listed(folder / "trials.csv") - check.rows):
        few = ", ".join(gone[:5]) + ", ..." * (len(gone) > 5)
        raise ValueError(
            f"{path}: ends after line {journal.line}, but trials.csv lists {len(gone)} more trials: {few}{_REPAIR}"
        )
    return journal, storage


_REPAIR = "; --resume with --repair keeps what is readable, in a new folder"


def _listed(path: Path) -> set[str]:
    """The ids in a trials.csv; none if it cannot be read, as it is made anew from the journal."""
    try:
        return set(csv_tables.read(path, (), ("trial_id",), key=("trial_id",)).frame["trial_id"])
    except (ValueError, OSError):
        return set()


def in_order(trial_ids: Iterable[str]) -> list[str]:
    """Trial ids in numeric order: 10000 comes after 9999."""
    return sorted(trial_ids, key=lambda trial_id: (len(trial_id), trial_id))


def trial_seed(study_seed: int, kind: str, *numbers: int, run: int | None = None) -> int:
    """The seed of a trial.

    Args:
      study_seed: of the study.
      kind: of the trial.
      numbers: its number; or, of a control or confirmation, its copy and the confirmed trial.
      run: how many runs of its recipe come before it, which seed % RUNS then is; None: left to chance.
    """
    drawn = int(np.random.SeedSequence([study_seed, list(KINDS).index(kind), *numbers]).generate_state(1)[0])
    return drawn if run is None else drawn - drawn % RUNS + run


def _shared_keys(line: Row) -> Row:
    """The row with interned column names, which saves a third of a study's memory."""
    return {sys.intern(key): value for key, value in line.items()}
