"""A results folder as a stand-in for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import results_folder as frame
from analysis.statistics import pareto
from study.config import axes as spaces
from study.config import parse

Record = dict[str, Any]


class Run(NamedTuple):
    """A recorded trial: its objectives, its seconds, and after each epoch the seconds so far and the accuracy."""

    recipe: Record
    values: tuple[float, ...]
    seconds: float
    epochs: list[tuple[float, float]]


class Recorded:
    """The complete search trials of a results folder. Raises ValueError where there are none."""

    def __init__(self, folder: Path) -> None:
        found = frame.read(folder)
        self.file = parse(found.study, str(folder / "study.yaml"))
        self.axes = self.file.axes
        rows = found.trials[(found.trials.kind == "search") & (found.trials.state == "complete")]
        rows = rows.dropna(subset=list(self.file.study.objectives))
        history = dict(tuple(found.history.groupby("trial_id")))
        self.runs = [self._run(row, history) for row in rows.to_dict("records")]
        if not self.runs:
            raise ValueError(f"{folder}: no complete trial to stand in for others")
        self._points = np.array([self._point(run.recipe) for run in self.runs])
        self._choice = np.array([axis.choices is not None for axis in self.axes.values()])
        worst = [0.0 if way == "max" else max(column) for way, column in zip(*self._columns(), strict=True)]
        self.reference, self.directions = worst, list(self.file.study.objectives.values())

    def _columns(self) -> tuple[list[str], list[tuple[float, ...]]]:
        return list(self.file.study.objectives.values()), list(zip(*(run.values for run in self.runs), strict=True))

    def _run(self, row: Mapping[Any, Any], history: Mapping[Any, Any]) -> Run:
        columns = {key: None if pd.isna(value) else value for key, value in row.items()}
        columns |= {"sparsity": row["requested_sparsity"], "protect": (columns["protect"] or "").split()}
        # What a trial takes beside its epochs (scores, the last evaluation) is taken as spent before them.
        lines, before = history.get(row["trial_id"]), row["wall_seconds"] - row["train_seconds"]
        epochs = [] if lines is None else zip(before + lines.seconds.cumsum(), lines.accuracy, strict=True)
        return Run(
            spaces.draw(self.axes, lambda key, axis: columns[key]),
            tuple(float(row[name]) for name in self.file.study.objectives),
            float(row["wall_seconds"]),
            [(float(seconds), float(accuracy)) for seconds, accuracy in epochs],
        )

    def _point(self, recipe: Mapping[str, Any]) -> list[float]:
        return [_place(axis, recipe[key]) if key in recipe else math.nan for key, axis in self.axes.items()]

    def nearest(self, recipe: Mapping[str, Any]) -> int:
        """The number of the recorded run nearest to a recipe; the first of several."""
        point = np.array(self._point(recipe))
        apart = np.abs(self._points - point)
        apart = np.where(self._choice, apart > 0, apart).astype(float)
        only_one = np.isnan(self._points) != np.isnan(point)
        return int(np.argmin(np.where(only_one, 1.0, np.nan_to_num(apart)).sum(axis=1)))

    def volume(self, runs: set[int]) -> float:
        """The hypervolume of these runs."""
        return pareto.hypervolume([self.runs[run].values for run in runs], self.directions, self.reference)


def _place(axis: spaces.Axis, value: Any) -> float:
    """Where a value lies on its axis: the number of the choice, or the share of the range."""
    if axis.choices is not None:
        return float([spaces.label(choice) for choice in axis.choices].index(spaces.label(value)))
    scale: Callable[[float], float] = math.log if axis.log else float
    low, high = scale(axis.low or 0.0), scale(axis.high or 0.0)
    return (scale(value) - low) / (high - low) if high > low else 0.0
