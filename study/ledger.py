"""The one ledger: an Optuna study on a journal. The only file that knows Optuna.

Each trial's whole row and history stand among its attributes, so everything else can be made anew from it.
A trial is written in three steps - asked (RUNNING), recorded, told - and can be taken up after each of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from study import space as spaces
from study.config import Recipe, StudyFile

Record = dict[str, Any]
Known = Callable[[Record], tuple[Record, list[Record]] | None]  # a recipe -> its row and history, if it need not run
ATTEMPTS = 2  # a trial lost with its driver runs again this many times in all

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Ticket(NamedTuple):
    """A trial to be run."""

    trial_id: str
    kind: str
    recipe: Record
    seed: int


class Ledger:
    """The trials of the study in `folder`: `ask` for one, `tell` its row; both survive the process.

    Raises ValueError where another process holds the folder, or its journal is of another study file.
    """

    def __init__(self, folder: Path, file: StudyFile, known: Known = lambda recipe: None) -> None:
        self.file, self._known = file, known
        self.axes = file.axes
        if file.study.search == "grid":
            self.axes = {k: axis.model_copy(update={"choices": axis.values()}) for k, axis in self.axes.items()}
        self._lock = _locked(folder)
        storage = JournalStorage(_mended_journal(folder / "optuna.journal"))
        directions = [
            StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in file.study.objectives.values()
        ]
        self._search, self._controls = (
            optuna.create_study(
                storage=storage,
                study_name=file.study.name + suffix,
                directions=directions,
                sampler=_sampler(file),
                load_if_exists=True,
            )
            for suffix in ("", "-controls")
        )
        self._fixed = [{k: spaces.label(v) for k, v in r.items()} for r in file.study.start_with]
        if file.study.search == "grid":
            points = ({k: spaces.label(v) for k, v in point.items()} for point in spaces.grid(self.axes))
            self._fixed += [point for point in points if point not in self._fixed]
        self._open: dict[str, Trial] = {}
        self.records: dict[str, tuple[Record, list[Record]]] = {}
        self._begun = 0  # recipes the search has begun: repeats for further seeds and re-runs do not count
        self._finished = 0
        self._check_identity()
        self._recover()

    def close(self) -> None:
        """Let another process have the folder."""
        os.close(self._lock)

    def rows(self, kind: str = "search") -> list[Record]:
        """The rows of all finished trials of a kind, in the order of their ids."""
        return [row for _, (row, _) in sorted(self.records.items()) if row["kind"] == kind]

    @property
    def running(self) -> int:
        """Trials asked for and not yet told."""
        return len(self._open)

    @property
    def runs(self) -> int:
        """Search trials to be finished in all."""
        return self.file.trials * self.file.study.seeds

    def ask(self) -> Ticket | None:
        """The next trial of the search; None when no further one is to be started."""
        while self._finished + len(self._open) < self.runs:
            self._enqueue_fixed()
            trial = self._search.ask()
            self._begun += _is_fresh(trial)
            params = spaces.draw(self.axes, partial(_suggest, trial))
            copies = trial.user_attrs.get("copies", self.file.study.seeds - 1)
            if copies:
                self._search.enqueue_trial(trial.params, user_attrs={"copies": copies - 1, "copy": True})
            ticket = self._ticket(trial, "search", params)
            try:
                Recipe(**params)
            except ValueError as error:  # a combination that only the whole recipe shows to be wrong
                self.tell(ticket, {**params, "state": "failed", "error": str(error)}, [])
                continue
            stored = self._stored(trial) if self.file.study.repeats == "stored" else None
            if found := stored or self._known(params):
                row, history = found
                self.tell(ticket._replace(seed=row["seed"]), {**row, "repeats": row.get("trial_id")}, history)
                continue
            return ticket
        return None

    def ask_control(self, name: str, recipe: Record) -> Ticket:
        """A trial outside the search, which the sampler never hears of."""
        trial = self._controls.ask()
        trial.set_user_attr("control", name)
        return self._ticket(trial, "control", recipe)

    def tell(self, ticket: Ticket, row: Record, history: list[Record]) -> None:
        """Write a finished trial down. Rows that failed are told to the sampler as such, not as values."""
        trial = self._open.pop(ticket.trial_id)
        row = {**row, "trial_id": ticket.trial_id, "kind": ticket.kind, "seed": ticket.seed}
        row["schedule"] = trial.user_attrs.get("control", row.get("schedule"))
        row["feasible"] = row["state"] == "complete" and all(v <= 0 for v in self._violations(row).values())
        history = [{"trial_id": ticket.trial_id, **record} for record in history]
        trial.set_user_attr("record", {"row": row, "history": history})
        self._conclude(trial, row)
        self.records[ticket.trial_id] = (row, history)
        self._finished += ticket.kind == "search"

    def measured(self, trial_id: str, columns: Record) -> None:
        """Add what was measured after the trial had ended, which Optuna lets nobody write among its attributes."""
        self._search.set_user_attr(f"measured:{trial_id}", columns)
        self.records[trial_id][0].update(columns)

    def _conclude(self, trial: Trial, row: Record) -> None:
        study = self._controls if row["kind"] == "control" else self._search
        if row["state"] != "complete":
            study.tell(trial, state=TrialState.PRUNED if row["state"] == "stopped" else TrialState.FAIL)
            return
        for name, violation in self._violations(row).items():
            trial.set_constraint(name, violation)
        study.tell(trial, [float(row[name]) for name in self.file.study.objectives])

    def _violations(self, row: Record) -> dict[str, float]:
        """By how much each constraint is broken; at most 0 where it holds."""
        if row["state"] != "complete":
            return {}
        return {
            name: (row[name] - float(bound[2:])) * (1 if bound[0] == "<" else -1)
            for name, bound in self.file.study.constraints.items()
        }

    def _ticket(self, trial: Trial, kind: str, recipe: Record) -> Ticket:
        trial_id = f"{'c' if kind == 'control' else ''}{trial.number:04d}"
        seed = trial.user_attrs.get("seed")
        if seed is None:
            seed = _seed(self.file.study.seed, kind, trial.number)
        self._open[trial_id] = trial
        return Ticket(trial_id, kind, recipe, seed)

    def _enqueue_fixed(self) -> None:
        if self._begun < len(self._fixed) and not self._search.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self._search.enqueue_trial(self._fixed[self._begun])

    def _stored(self, trial: Trial) -> tuple[Record, list[Record]] | None:
        for other in self._search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if other.params == trial.params and "repeats" not in other.user_attrs["record"]["row"]:
                return self.records[other.user_attrs["record"]["row"]["trial_id"]]
        return None

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
        for study in (self._search, self._controls):
            for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                trial = Trial(study, frozen._trial_id)
                if "record" in frozen.user_attrs:
                    self._conclude(trial, frozen.user_attrs["record"]["row"])
                elif study is self._controls:
                    study.tell(trial, state=TrialState.FAIL)
                else:
                    self._run_again(trial, frozen)
            for frozen in study.get_trials(deepcopy=False):
                if record := frozen.user_attrs.get("record"):
                    self.records[record["row"]["trial_id"]] = (record["row"], record["history"])
        for name, columns in self._search.user_attrs.items():
            if name.startswith("measured:"):
                self.records[name.removeprefix("measured:")][0].update(columns)
        self._finished = len(self.rows())
        self._begun = sum(
            _is_fresh(t) for t in self._search.get_trials(deepcopy=False) if t.state != TrialState.WAITING
        )

    def _run_again(self, trial: Trial, frozen: FrozenTrial) -> None:
        attempt = frozen.user_attrs.get("attempt", 1)
        if attempt >= ATTEMPTS:
            ticket = self._ticket(trial, "search", {})
            error = f"lost with its driver {attempt} times"
            params = {k: v for k, v in frozen.params.items() if k != "sparsity"}
            row = {**params, "requested_sparsity": frozen.params.get("sparsity"), "state": "failed", "error": error}
            self.tell(ticket, row, [])
            return
        seed = frozen.user_attrs.get("seed", _seed(self.file.study.seed, "search", frozen.number))
        again = {"copy": True, "copies": 0, "attempt": attempt + 1, "seed": seed, "replaces": frozen.number}
        params = frozen.params or frozen.system_attrs.get("fixed_params", {})
        # Killed between these two lines, the trial is still RUNNING at the next start: it is not queued again then.
        if not any(t.user_attrs.get("replaces") == frozen.number for t in self._search.get_trials(deepcopy=False)):
            self._search.enqueue_trial(params, user_attrs=again)
        self._search.tell(trial, state=TrialState.FAIL)


def _is_fresh(trial: Trial | FrozenTrial) -> bool:
    return "copy" not in trial.user_attrs


def _suggest(trial: Trial, key: str, axis: spaces.Axis) -> Any:
    if axis.choices is not None:
        labels = [spaces.label(value) for value in axis.choices]
        return axis.choices[labels.index(trial.suggest_categorical(key, labels))]
    assert axis.low is not None
    assert axis.high is not None
    if isinstance(axis.low, int):
        return trial.suggest_int(key, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)


def _sampler(file: StudyFile) -> optuna.samplers.BaseSampler:
    if file.study.search != "optuna":
        return optuna.samplers.RandomSampler(seed=file.study.seed)
    return optuna.samplers.TPESampler(seed=file.study.seed, multivariate=True, group=True)


def _seed(study_seed: int, kind: str, number: int) -> int:
    return int(np.random.SeedSequence([study_seed, kind == "control", number]).generate_state(1)[0])


def _locked(folder: Path) -> int:
    """Hold the folder for this process; the system lets go when the process dies, however it dies."""
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 20).decode().strip()
        os.close(handle)
        raise ValueError(f"{folder}: another run (process {holder}) is writing to this results folder") from None
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle


def _mended_journal(path: Path) -> JournalFileBackend:
    """The journal, less a last line that a killed process left half-written, and less its stale lock."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    return JournalFileBackend(str(path))


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
    keys = [*old, *(k for k in new if k not in old)]
    return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]
