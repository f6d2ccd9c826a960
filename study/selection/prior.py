"""`study.start_from`: what an older study found, for a sampler to learn from and to try first.

Its accuracies count as differences from its own baseline, and its costs as fractions of that, so that another network
or data set serves too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import results_folder
from analysis.statistics import pareto
from models.files import write_whole
from study.config import StudyFile
from study.config import axes as spaces
from study.training.epochs import Row

LATEST = 300  # of its trials, besides the front
NAME = "start_from.json"  # in the results folder, so that the older one is not needed again
ABSOLUTE = ("sparsity",)  # objectives that are fractions already


class Prior(NamedTuple):
    """The trials of an older study that this one can use.

    Attributes:
      recipes: of each trial, the axes that this study has too, with the values that it allows.
      objectives: of each trial, by name: accuracy minus the baseline's; costs as fractions of the baseline's.
      front: how many, the first ones, are on its front.
      note: what was found, in a line.
    """

    recipes: list[Row]
    objectives: list[Row]
    front: int
    note: str

    def fixed(self) -> list[Row]:
        """The recipes of its front, to be tried first."""
        return [dict(recipe) for recipe in self.recipes[: self.front]]

    def values(self, names: Iterable[str], dense: Row) -> list[list[float]]:
        """The objectives of its trials as if this study had run them. dense: the baseline's card."""
        return [[_absolute(name, found[name], dense) for name in names] for found in self.objectives]


NOTHING = Prior([], [], 0, "")


def of_study(folder: Path, file: StudyFile) -> Prior:
    """The prior of the study in `folder`: kept there, or else read from `study.start_from`.

    Raises ValueError if that is no results folder, or has nothing that this study can use.
    """
    if file.study.start_from is None:
        return NOTHING
    if (path := folder / NAME).is_file():
        return Prior(**json.loads(path.read_text()))
    return read(Path(file.study.start_from), file)


def keep(folder: Path, prior: Prior) -> None:
    """Write a prior into a new study's results folder."""
    if prior.recipes and not (folder / NAME).exists():
        write_whole(folder / NAME, json.dumps(prior._asdict()))


def read(folder: Path, file: StudyFile) -> Prior:
    """What a study file can use of a results folder. Raises ValueError if it can use nothing."""
    results = results_folder.read(folder)
    names = list(file.study.objectives)
    card = results.record.get("baseline") or {}
    missing = [name for name in names if name not in ABSOLUTE and not card.get(name)]
    rows = results.trials[(results.trials["kind"] == "search") & (results.trials["state"] == "complete")]
    rows = rows[rows["feasible"].fillna(True).astype(bool)].dropna(subset=names)
    if missing or rows.empty:
        lacks = f"its baseline has no {missing[0]}" if missing else f"no complete trial with {', '.join(names)}"
        raise ValueError(f"study.start_from: {folder}: {lacks}")
    best = pareto.is_nondominated(rows[names], list(file.study.objectives.values()))
    rows = pd.concat([rows[best], rows[~best].tail(LATEST)])
    recipes = [_recipe(row, file.axes) for row in rows.to_dict("records")]
    objectives = [{name: _relative(name, row[name], card) for name in names} for row in rows.to_dict("records")]
    used = [index for index, recipe in enumerate(recipes) if recipe]
    if not used:
        raise ValueError(f"study.start_from: {folder}: it has no axis that this study varies, with values of this one")
    shared = [key for key in file.axes if any(key in recipe for recipe in recipes)]
    varied = [key for key, axis in file.axes.items() if _varies(axis)]
    front = sum(index < int(best.sum()) for index in used)
    note = f"start_from: {len(used)} trials of {folder}, {front} of them on its front"
    if left := [key for key in varied if key not in shared]:
        note += f"; not known there: {', '.join(left)}"
    for key in ("model", "dataset"):
        if (old := results.study["baseline"].get(key)) != (new := getattr(file.baseline, key)):
            note += f"; another {key} ({old} there, {new} here), so its results count relative to its baseline"
    return Prior([recipes[i] for i in used], [objectives[i] for i in used], front, note)


def _varies(axis: spaces.Axis) -> bool:
    return axis.choices is None or len(axis.choices) > 1


def _recipe(row: Mapping[Any, Any], axes: spaces.Axes) -> Row:
    """The axes of a row that this study varies too and whose value it allows, as Optuna's parameters."""
    columns: Row = {str(key): None if _missing(value) else value for key, value in row.items()}
    columns |= {"sparsity": row["requested_sparsity"], "protect": (columns.get("protect") or "").split()}
    found: Row = {}

    def pick(key: str, axis: spaces.Axis) -> Any:
        value = columns.get(key)
        if axis.choices is not None and spaces.label(value) in [spaces.label(choice) for choice in axis.choices]:
            found[key] = spaces.label(value)
        elif axis.choices is None and value is not None and axis.holds(value):
            found[key] = int(value) if isinstance(axis.low, int) else float(value)
        return value

    spaces.draw(axes, pick)
    return found


def _missing(value: Any) -> bool:
    return not isinstance(value, Sequence) and bool(pd.isna(value))


def _relative(name: str, value: float, dense: Mapping[str, Any]) -> float:
    if name in ABSOLUTE:
        return float(value)
    return float(value - dense[name]) if name == "accuracy" else float(value / dense[name])


def _absolute(name: str, value: float, dense: Mapping[str, Any]) -> float:
    if name in ABSOLUTE:
        return value
    return value + float(dense[name]) if name == "accuracy" else value * float(dense[name])
