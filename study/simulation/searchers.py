"""Searchers to be replayed: Optuna's samplers, random draws and a grid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from study.config import StudyFile
from study.config import axes as spaces
from study.samplers import registry
from study.search import suggestions
from study.simulation.recorded import Record

LISTED = ("random", "grid")  # searchers that learn nothing
LEVELS = 5  # of a range without step, in a grid


def searchers() -> tuple[str, ...]:
    """The names of all searchers."""
    return (*registry.SAMPLERS, *LISTED)


class _Model:
    """A searcher of Optuna's."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        changed = {"search": "optuna", "sampler": name, "seed": seed, "start_with": ()}
        self._axes, self._name = file.axes, name
        self._study = suggestions.in_memory(file.model_copy(update={"study": file.study.model_copy(update=changed)}))

    def ask(self) -> tuple[Any, Record]:
        trial = self._study.ask()
        return trial, suggestions.draw(trial, self._axes, self._name)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        suggestions.tell(self._study, trial, values)


class _List:
    """A searcher that learns nothing: recipes drawn at random, or those of a grid in random order, over and over."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        self._recipes = _grid(file.axes, seed) if name == "grid" else _random(file.axes, seed)

    def ask(self) -> tuple[Any, Record]:
        return None, next(self._recipes)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        """Nothing is learned."""


def _random(axes: spaces.Axes, seed: int) -> Iterator[Record]:
    pick = spaces.picker(seed)
    while True:
        yield spaces.draw(axes, pick)


def _grid(axes: spaces.Axes, seed: int) -> Iterator[Record]:
    finite = {key: axis if axis.values() else axis.model_copy(update=_levels(axis)) for key, axis in axes.items()}
    points = list(spaces.grid(finite))
    generator = np.random.default_rng(seed)
    while True:
        for number in generator.permutation(len(points)):
            yield points[number]


def _levels(axis: spaces.Axis) -> Record:
    space = np.geomspace if axis.log else np.linspace
    kind = int if isinstance(axis.low, int) else float
    levels = space(axis.low or 0.0, axis.high or 0.0, LEVELS)
    return {"choices": tuple(dict.fromkeys(kind(level) for level in levels)), "low": None, "high": None, "log": False}
