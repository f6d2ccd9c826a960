"""Recipes suggested by Optuna: the sampler of a study file, and axes as Optuna parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from study.config import StudyFile
from study.config import axes as spaces
from study.samplers.registry import DIRECTIONS, SAMPLERS


def sampler(file: StudyFile, begun: int) -> samplers.BaseSampler:
    """The sampler of a study file. `begun`: trials asked for so far; it changes the seed of a resumed study."""
    seed = int(np.random.SeedSequence([file.study.seed, begun]).generate_state(1)[0]) if begun else file.study.seed
    if file.study.search != "optuna":
        return samplers.RandomSampler(seed=seed)
    return SAMPLERS[file.study.sampler](seed, file.study.seed)


def in_memory(file: StudyFile) -> optuna.Study:
    """An Optuna study of a study file, in memory, to simulate searches with."""
    directions = [DIRECTIONS[direction] for direction in file.study.objectives.values()]
    return optuna.create_study(directions=directions, sampler=sampler(file, 0))


def tell(study: optuna.Study, trial: Trial, values: Sequence[float] | None) -> None:
    """Tell a study the objectives of a trial; None: the trial was stopped early."""
    study.tell(trial, values, state=TrialState.PRUNED if values is None else None)


def draw(trial: Trial, axes: spaces.Axes, sampler: str) -> dict[str, Any]:
    """Suggests the recipe of a trial.

    Only TPE groups conditional axes. The other samplers model only parameters that every trial has, so they are asked
    for inactive axes too, which the recipe then omits.
    """
    for key, axis in axes.items() if sampler != "tpe" else ():
        if axis.choices is None or len(axis.choices) > 1:
            _suggest(trial, key, axis)
    return spaces.draw(axes, partial(_suggest, trial))


def finished(
    axes: spaces.Axes, recipes: Sequence[Mapping[str, Any]], values: Sequence[Sequence[float]]
) -> list[FrozenTrial]:
    """Trials of no study, for a sampler to learn from.

    Args:
      axes: of the space.
      recipes: of each trial, parameters as `_suggest` names them; some may be missing.
      values: of each trial, of the objectives.
    """
    known = {key: _distribution(axis) for key, axis in axes.items()}
    return [
        create_trial(params=dict(params), distributions={key: known[key] for key in params}, values=list(found))
        for params, found in zip(recipes, values, strict=True)
    ]


def _distribution(axis: spaces.Axis) -> BaseDistribution:
    if axis.choices is not None:
        return CategoricalDistribution([spaces.label(value) for value in axis.choices])
    assert axis.low is not None
    assert axis.high is not None
    if isinstance(axis.low, int):
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def recipe(params: Mapping[str, Any], axes: spaces.Axes) -> dict[str, Any]:
    """The recipe of a trial from its parameters. Raises KeyError if one of its axes has none."""

    def chosen(key: str, axis: spaces.Axis) -> Any:
        if axis.choices is None:
            return params[key]
        return axis.choices[[spaces.label(value) for value in axis.choices].index(params[key])]

    return spaces.draw(axes, chosen)


def _suggest(trial: Trial, key: str, axis: spaces.Axis) -> Any:
    if axis.choices is not None:
        labels = [spaces.label(value) for value in axis.choices]
        return axis.choices[labels.index(trial.suggest_categorical(key, labels))]
    assert axis.low is not None
    assert axis.high is not None
    if isinstance(axis.low, int):
        return trial.suggest_int(key, int(axis.low), int(axis.high), step=int(axis.step or 1), log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, step=axis.step, log=axis.log)
