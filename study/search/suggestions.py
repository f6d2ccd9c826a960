"""Recipes as Optuna suggests them: the sampler of a study file, and axes as they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna import samplers
from optuna.trial import Trial, TrialState

from study.config import StudyFile
from study.config import axes as spaces
from study.samplers.registry import DIRECTIONS, SAMPLERS


def sampler(file: StudyFile, begun: int) -> samplers.BaseSampler:
    """The sampler of a study file; `begun`: trials already asked for, so that a resumed one draws others."""
    seed = int(np.random.SeedSequence([file.study.seed, begun]).generate_state(1)[0]) if begun else file.study.seed
    if file.study.search != "optuna":
        return samplers.RandomSampler(seed=seed)
    return SAMPLERS[file.study.sampler](seed, file.study.seed)


def in_memory(file: StudyFile) -> optuna.Study:
    """An Optuna study of a study file, kept nowhere: to try samplers on."""
    directions = [DIRECTIONS[direction] for direction in file.study.objectives.values()]
    return optuna.create_study(directions=directions, sampler=sampler(file, 0))


def tell(study: optuna.Study, trial: Trial, values: Sequence[float] | None) -> None:
    """Tell a study a trial's objectives; None: it was stopped before it had any."""
    study.tell(trial, values, state=TrialState.PRUNED if values is None else None)


def draw(trial: Trial, axes: spaces.Axes, sampler: str) -> dict[str, Any]:
    """The recipe that a trial is to run.

    Only TPE groups axes by their conditions. The other samplers model what every trial has: they are asked for the
    inactive axes too, which the recipe then leaves out.
    """
    for key, axis in axes.items() if sampler != "tpe" else ():
        if axis.choices is None or len(axis.choices) > 1:
            _suggest(trial, key, axis)
    return spaces.draw(axes, partial(_suggest, trial))


def recipe(params: Mapping[str, Any], axes: spaces.Axes) -> dict[str, Any]:
    """The recipe that a trial ran, from its parameters. Raises KeyError if it had not drawn them all."""

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
