"""Searchers for simulation: Optuna's samplers, random search and a grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from optuna.trial import TrialState

from study.config import StudyFile
from study.config import axes as spaces
from study.samplers import registry
from study.search import suggestions
from study.simulation.recorded import RecipeDict

UNINFORMED = ("random", "grid")  # searchers that ignore results
LEVELS = 5  # grid values of a range without a step


def searchers() -> tuple[str, ...]:
    """The names of all searchers."""
    return (*registry.SAMPLERS, *UNINFORMED)


class OptunaSearcher:
    """A searcher with one of Optuna's samplers, on a study in memory."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        changes = {"search": "optuna", "sampler": name, "seed": seed, "start_with": ()}
        self._axes, self._name = file.axes, name
        self._study = suggestions.in_memory(file.model_copy(update={"study": file.study.model_copy(update=changes)}))

    def ask(self) -> tuple[Any, RecipeDict]:
        """A new trial and its recipe."""
        trial = self._study.ask()
        return trial, suggestions.draw(trial, self._axes, self._name)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        """Tell the objectives of a trial; None: it was stopped early."""
        suggestions.tell(self._study, trial, values)

    def hide(self, trial: Any) -> None:
        """End a trial that was screened out, of which nothing is learned."""
        self._study.tell(trial, state=TrialState.FAIL)


class UninformedSearcher:
    """A searcher that ignores results: random recipes, or the points of a grid in random order, repeated."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        self._recipes = _grid(file.axes, seed) if name == "grid" else _random(file.axes, seed)

    def ask(self) -> tuple[Any, RecipeDict]:
        """None in place of a trial, and the next recipe."""
        return None, next(self._recipes)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        """Ignored."""

    def hide(self, trial: Any) -> None:
        """Ignored."""


def _random(axes: spaces.Axes, seed: int) -> Iterator[RecipeDict]:
    pick = spaces.picker(seed)
    while True:
        yield spaces.draw(axes, pick)


def _grid(axes: spaces.Axes, seed: int) -> Iterator[RecipeDict]:
    finite = {key: axis if axis.values() else axis.model_copy(update=_levels(axis)) for key, axis in axes.items()}
    points = list(spaces.grid(finite))
    generator = np.random.default_rng(seed)
    while True:
        for number in generator.permutation(len(points)):
            yield points[number]


def _levels(axis: spaces.Axis) -> RecipeDict:
    space = np.geomspace if axis.log else np.linspace
    kind = int if isinstance(axis.low, int) else float
    levels = space(axis.low or 0.0, axis.high or 0.0, LEVELS)
    return {"choices": tuple(dict.fromkeys(kind(level) for level in levels)), "low": None, "high": None, "log": False}
