"""Recorded trials of a results folder, which replace training in a simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import results_folder
from analysis.statistics import measures, pareto
from study.config import axes as spaces
from study.config import parse

RecipeDict = dict[str, Any]  # axis -> value


class RecordedTrial(NamedTuple):
    """A recorded trial.

    Attributes:
      recipe: axis -> value.
      values: of the objectives.
      point: validation accuracy and achieved sparsity.
      seconds: duration of the whole trial, without screening.
      screened: the accuracy that screening found, or None.
      epochs: per epoch, the seconds since the trial's start and the accuracy.
    """

    recipe: RecipeDict
    values: tuple[float, ...]
    point: tuple[float, float]
    seconds: float
    epochs: list[tuple[float, float]]
    screened: float | None = None


class Recorded:
    """The complete search trials of a results folder. Raises ValueError if there are none.

    Attributes:
      screening: mean seconds of screening a candidate; 0 if none was.
    """

    def __init__(self, folder: Path) -> None:
        results = results_folder.read(folder)
        self.file = parse(results.study, str(folder / "study.yaml"))
        self.axes = self.file.axes
        rows = results.trials[(results.trials.kind == "search") & (results.trials.state == "complete")]
        rows = rows.dropna(subset=list(self.file.study.objectives))
        history = dict(tuple(results.history.groupby("trial_id")))
        try:
            self.runs = [self._run(row, history) for row in rows.to_dict("records")]
        except ValueError as error:
            raise ValueError(f"{folder / 'trials.csv'}: {error}") from None
        if not self.runs:
            raise ValueError(f"{folder / 'trials.csv'}: no complete trial to simulate with")
        screened = results.trials[results.trials.state == "screened"]
        self.screening = float(screened["wall_seconds"].mean()) if len(screened) else 0.0
        self._dense = measures.dense_accuracy(results)
        self._points = np.array([self._coordinates(run.recipe) for run in self.runs])
        self._is_choice = np.array([axis.choices is not None for axis in self.axes.values()])
        worst = [0.0 if direction == "max" else max(column) for direction, column in zip(*self._columns(), strict=True)]
        self.reference, self.directions = worst, list(self.file.study.objectives.values())

    def _columns(self) -> tuple[list[str], list[tuple[float, ...]]]:
        return list(self.file.study.objectives.values()), list(zip(*(run.values for run in self.runs), strict=True))

    def _run(self, row: Mapping[Any, Any], history: Mapping[Any, Any]) -> RecordedTrial:
        columns = {key: None if pd.isna(value) else value for key, value in row.items()}
        columns |= {"sparsity": row["requested_sparsity"], "protect": (columns["protect"] or "").split()}
        # Time outside the epochs (scores, final evaluation) counts as spent before the first epoch.
        lines, before = history.get(row["trial_id"]), row["wall_seconds"] - row["train_seconds"]
        epochs = [] if lines is None else zip(before + lines.seconds.cumsum(), lines.accuracy, strict=True)
        recipe = spaces.draw(self.axes, lambda key, axis: columns[key])
        for key, value in recipe.items():
            if value is None and None not in (self.axes[key].choices or ()) or not self.axes[key].holds(value):
                raise ValueError(f"trial {row['trial_id']}: column {key}: {value!r} is outside the space of study.yaml")
        if missing := [name for name in ("train_seconds", "wall_seconds") if columns[name] is None]:
            raise ValueError(f"trial {row['trial_id']}: column {missing[0]}: is empty")
        return RecordedTrial(
            recipe,
            tuple(float(row[name]) for name in self.file.study.objectives),
            (float(row["accuracy"]), float(row["sparsity"])),
            float(row["wall_seconds"]),
            [(float(seconds), float(accuracy)) for seconds, accuracy in epochs],
            columns.get("screened_accuracy"),
        )

    def _coordinates(self, recipe: Mapping[str, Any]) -> list[float]:
        return [_axis_position(axis, recipe[key]) if key in recipe else math.nan for key, axis in self.axes.items()]

    def nearest(self, recipe: Mapping[str, Any]) -> int:
        """The index of the recorded trial nearest to a recipe; ties go to the first."""
        point = np.array(self._coordinates(recipe))
        distances = np.abs(self._points - point)
        distances = np.where(self._is_choice, distances > 0, distances).astype(float)
        only_one = np.isnan(self._points) != np.isnan(point)
        return int(np.argmin(np.where(only_one, 1.0, np.nan_to_num(distances)).sum(axis=1)))

    def progress(self, runs: Sequence[int]) -> npt.NDArray[np.float64]:
        """The measures of `analysis.statistics.measures` after each of these recorded trials, (n, len(NAMES))."""
        points = np.array([self.runs[run].point for run in runs]).reshape(-1, 2)
        return measures.progress(points[:, 0], points[:, 1], self._dense)

    def volume(self, runs: set[int]) -> float:
        """The hypervolume of the recorded trials with these indices."""
        return pareto.hypervolume([self.runs[run].values for run in runs], self.directions, self.reference)


def _axis_position(axis: spaces.Axis, value: Any) -> float:
    """The coordinate of a value on its axis: the index of a choice, or the position in the range as a fraction."""
    if axis.choices is not None:
        return float([spaces.label(choice) for choice in axis.choices].index(spaces.label(value)))
    scale: Callable[[float], float] = math.log if axis.log else float
    low, high = scale(axis.low or 0.0), scale(axis.high or 0.0)
    return (scale(value) - low) / (high - low) if high > low else 0.0
