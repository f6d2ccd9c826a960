"""Checks a journal line by line as it is read, and reads what is left of a damaged one.

Optuna skips many a line that does not fit, and stops at others with an error that names none. Here each must be one
that the store writes, of a trial that an earlier line began, and a trial must have its row before it ends.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from study.config import RefusedError, StudyFile, parse
from study.config.columns import HISTORY_TYPES, RANGES, TRIALS
from study.config.recipe import EARLIER_DEFAULTS
from study.samplers import optuna_adapter
from study.search import suggestions
from study.training.epochs import Row

KINDS = {"search": "", "control": "c", "confirm": "k"}  # of trials -> prefix of their ids
STUDIES = {"search": "", "control": "-controls", "confirm": "-confirms"}  # kind -> what follows the study's name
RUNNING, COMPLETE, PRUNED, FAILED, WAITING = range(5)  # states in the file format
CREATE_STUDY, STUDY_ATTRIBUTE, STUDY_MARK = 0, 2, 3
CREATE, PARAMETER, STATE, ATTRIBUTE, MARK = 4, 5, 6, 8, 9  # of a trial
_JSON = {"str": (str,), "Int64": (int,), "float64": (int, float), "boolean": (bool,)}
_TYPES = {name: (_JSON[dtype], *RANGES.get(name, (None, None))) for name, dtype in (HISTORY_TYPES | TRIALS).items()}


class Known(NamedTuple):
    """A finished trial as a journal or trials.csv holds it; `params` may lack some, or be of another trial."""

    row: Row
    history: list[Row]
    params: dict[str, Any]


@dataclass
class _Trial:
    kind: str
    trial_id: str
    state: int
    recorded: bool = False
    params: dict[str, Any] = field(default_factory=dict)


class Checker:
    """Checks the lines of the journal of `file`, in order.

    Attributes:
      rows: ids of the trials whose rows were read.
    """

    def __init__(self, file: StudyFile) -> None:
        self._file, self._axes = file, file.axes
        self._named = False  # whether the study file was read
        self._names = [file.study.name + suffix for suffix in STUDIES.values()]
        self._begun = 0  # studies
        self._counts = [0] * len(STUDIES)  # trials of each
        self._trials: list[_Trial] = []
        self._parents = sorted({parent for axis in self._axes.values() for parent in axis.when})
        self._complete: set[Any] = set()  # cases of parameters that make a recipe
        self._distributions: dict[str, dict[str, Any]] = {}
        self.rows: set[str] = set()

    def __call__(self, log: Any) -> None:
        """Check the next line. Raises ValueError saying what is wrong; other exceptions: it lacks a key or a type."""
        match log["op_code"]:
            case 0:
                self._create_study(log["study_name"])
            case 2:
                self._study(log["study_id"])
                ((key, value),) = log["user_attr"].items()
                self._study_attribute(key, value)
            case 3:
                self._study(log["study_id"])
                (_,) = optuna_adapter.journal_marks(log)
            case 4:
                self._create(log)
            case 5:
                self._running(log).params[log["param_name"]] = self.value(log)
            case 6:
                self._state(log)
            case 8:
                ((key, value),) = log["user_attr"].items()
                self._attribute(self._running(log), key, value)
            case 9:
                ((key, value),) = optuna_adapter.journal_marks(log).items()
                self._running(log)
                if key == "constraints" and not _numbers(value):
                    raise ValueError(f"constraints {value!r}")
            case operation:
                raise ValueError(f"operation {operation!r} is none of a study's")

    def _create_study(self, name: Any) -> None:
        if name in self._names[: self._begun]:  # each process writes it again
            return
        if name != (expected := (*self._names, None)[self._begun]):
            raise ValueError(f"is of the study {name!r}; expected {expected!r}")
        self._begun += 1

    def _study(self, number: Any) -> None:
        if type(number) is not int or not 0 <= number < self._begun:
            raise ValueError(f"is of study {number!r}, which no line before it begins")

    def _study_attribute(self, key: str, value: Any) -> None:
        if key == "file":
            check_identity(value, self._file)
            self._named = True
        if key.startswith("measured:"):
            if key.removeprefix("measured:") not in self.rows:
                raise ValueError(f"{key}: no line before it holds the row of this trial")
            check_cells(value)

    def _create(self, log: Mapping[str, Any]) -> None:
        self._study(log["study_id"])
        if not self._named:
            raise ValueError("a trial begins, but no line before it holds the study file")
        if (state := log.get("state", RUNNING)) not in (RUNNING, WAITING):
            raise ValueError(f"a trial begins in the state {state!r}")
        kind, number = list(STUDIES)[log["study_id"]], self._counts[log["study_id"]]
        trial = _Trial(kind, f"{KINDS[kind]}{number:04d}", state)
        self._counts[log["study_id"]] += 1
        self._trials.append(trial)
        for key, value in log.get("user_attrs", {}).items():
            self._attribute(trial, key, value)
        dict(optuna_adapter.journal_marks(log).get("fixed_params", {}))

    def _running(self, log: Mapping[str, Any], state: int = RUNNING) -> _Trial:
        number = log["trial_id"]
        if type(number) is not int or not 0 <= number < len(self._trials):
            raise ValueError(f"is of trial {number!r}, which no line before it begins")
        trial = self._trials[number]
        if trial.state != state:
            what = "is not yet running" if trial.state == WAITING else "has begun" if state else "has ended"
            raise ValueError(f"changes trial {trial.trial_id}, which {what}")
        return trial

    def value(self, log: Mapping[str, Any]) -> Any:
        """The value of the parameter that a line sets, as the trial has it."""
        internal, text = log["param_value_internal"], log["distribution"]
        if type(internal) not in (int, float) or not math.isfinite(internal):
            raise ValueError(f"parameter {log['param_name']}: {internal!r} is not a number")
        if text not in self._distributions:
            self._distributions[text] = json.loads(text)["attributes"]
        attributes = self._distributions[text]
        if "choices" in attributes:
            return attributes["choices"][range(len(attributes["choices"]))[int(internal)]]
        if not attributes["low"] <= internal <= attributes["high"]:
            raise ValueError(f"parameter {log['param_name']}: {internal!r} is outside its range")
        return internal

    def _state(self, log: Mapping[str, Any]) -> None:
        state = log["state"]
        trial = self._running(log, WAITING if state == RUNNING else RUNNING)
        if state not in (RUNNING, COMPLETE, PRUNED, FAILED):
            raise ValueError(f"trial {trial.trial_id} gets the state {state!r}")
        if state in (COMPLETE, PRUNED) and not trial.recorded:
            raise ValueError(f"trial {trial.trial_id} ends, but no line before it holds its row")
        values = log["values"]
        if state == COMPLETE and not (_numbers(values) and len(values) == len(self._file.study.objectives)):
            raise ValueError(f"trial {trial.trial_id} ends with the values {values!r}")
        trial.state = state

    def _attribute(self, trial: _Trial, key: str, value: Any) -> None:
        if key == "record":
            row, _ = self.record(value)
            if (row["trial_id"], row["kind"]) != (trial.trial_id, trial.kind):
                raise ValueError(f"holds the row of trial {row['trial_id']}, but is of trial {trial.trial_id}")
            if trial.kind == "search":
                self._check_recipe(trial)
            trial.recorded, trial.params = True, {}
            self.rows.add(trial.trial_id)
        elif key == "aside":
            if not (isinstance(value["job"], str) and isinstance(value["recipe"], dict) and type(value["seed"]) is int):
                raise ValueError(f"trial {trial.trial_id}: the control or confirmation lacks its job, recipe or seed")
        elif key == "paused" and value is not None:
            if not (isinstance(value["at"], float) and value["history"] and trial.kind == "search"):
                raise ValueError(f"trial {trial.trial_id}: what it was paused with is {value!r}")
            for cells in value["history"]:
                check_cells(cells)
        elif key in ("losses", "copies", "of", "seed", "replaces") and type(value) is not int:
            raise ValueError(f"trial {trial.trial_id}: {key} is {value!r}, not a number")

    def _check_recipe(self, trial: _Trial) -> None:
        # Which axes are active depends on few of the values: most trials need no look at their axes.
        case = (frozenset(trial.params), *(trial.params.get(key) for key in self._parents))
        if case in self._complete:
            return
        try:
            suggestions.recipe(trial.params, self._axes)
        except (LookupError, ValueError, TypeError) as error:
            raise ValueError(f"trial {trial.trial_id}: no line before it sets parameter {error}") from None
        self._complete.add(case)

    def record(self, record: Any) -> tuple[Row, list[Row]]:
        """The row and history in a record, checked. Raises ValueError naming the column, KeyError or TypeError."""
        row, history = record["row"], record["history"]
        trial_id, needed = row["trial_id"], ["seed", "feasible", *(["error"] if row["state"] == "failed" else [])]
        if row["state"] == "complete":
            needed += [*self._file.study.objectives, *self._file.study.constraints]
        if row["state"] not in ("complete", "stopped", "failed", "screened") or row["kind"] not in KINDS:
            raise ValueError(f"trial {trial_id}: state {row['state']!r}, kind {row['kind']!r}")
        if missing := [name for name in needed if row.get(name) is None]:
            raise ValueError(f"trial {trial_id}: column {missing[0]} is missing")
        if not isinstance(history, list) or any(line["trial_id"] != trial_id for line in history):
            raise ValueError(f"trial {trial_id}: its history is of another trial")
        for cells in (row, *history):
            check_cells(cells)
        return row, history


def identity(file: StudyFile) -> Row:
    """All of a study file that may not change while the study goes on, as the journal holds it."""
    content = file.resolved()
    for key in ("trials", "hours"):
        content["study"].pop(key)
    return dict(json.loads(json.dumps(content)))


def check_identity(stored: Any, file: StudyFile) -> None:
    """Raise RefusedError if a journal holds another study file; `trials` and `hours` may differ."""
    space = dict(file.resolved()["space"])
    added = {key: space[key] for key in EARLIER_DEFAULTS if key in space and key not in stored["space"]}
    stored = {**stored, "space": {**added, **stored["space"]}}  # as `resumed_study` adds them
    # Parsed, so that it has the defaults of keys that are newer than the journal.
    if differences := "; ".join(_differences(identity(parse(stored, "the study file in it")), identity(file))):
        raise RefusedError(
            f"study.yaml was changed after the study began: {differences} (optuna.journal has what it was)"
        )


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [f"{where} was {json.dumps(old)}, is {json.dumps(new)}"]
    keys = [*old, *(k for k in new if k not in old)]
    return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{where}.{k}".lstrip("."))]


def check_cells(cells: Mapping[str, Any]) -> None:
    """Raise ValueError if a column that is known holds a value of another type, or outside its range."""
    for name, value in cells.items():
        if value is None or name not in _TYPES:
            continue
        types, low, high = _TYPES[name]
        if type(value) not in types or (low is not None and not low <= value <= high):
            raise ValueError(f"column {name}: {str(value)[:100]!r} is of another type, or not from {low} to {high}")


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) in (int, float) and math.isfinite(v) for v in values)


class Salvage(NamedTuple):
    """What is readable in a journal: finished trials by id, columns measured later by id, and the damaged lines."""

    trials: dict[str, Known]
    measured: dict[str, Row]
    damaged: list[int]


def salvage(path: Path, file: StudyFile) -> Salvage:
    """Read what is left of a journal, each line by itself. Of two rows of a trial the first counts."""
    checker, found = Checker(file), Salvage({}, {}, [])
    params: dict[Any, dict[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else (), start=1):
        try:
            log = json.loads(line)
            for name, value in _salvaged(log, checker):
                if name == "record":
                    row, history = checker.record(value)
                    found.trials.setdefault(row["trial_id"], Known(row, history, params.get(log["trial_id"], {})))
                elif name.startswith("measured:"):
                    check_cells(value)
                    found.measured[name.removeprefix("measured:")] = dict(value)
                elif log["op_code"] == PARAMETER:
                    params.setdefault(log["trial_id"], {})[name] = value
        except Exception:  # of a damaged line, any
            found.damaged.append(number)
    return found


def _salvaged(log: Mapping[str, Any], checker: Checker) -> Iterator[tuple[str, Any]]:
    """The attributes or the parameter that a line sets."""
    if log["op_code"] == PARAMETER:
        yield log["param_name"], checker.value(log)
    elif log["op_code"] in (STUDY_ATTRIBUTE, ATTRIBUTE):
        yield from log["user_attr"].items()
    elif log["op_code"] not in (CREATE_STUDY, STUDY_MARK, CREATE, STATE, MARK):
        raise ValueError
