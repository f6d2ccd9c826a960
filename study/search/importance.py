"""How much each axis of the space decides (PED-ANOVA)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import optuna
from optuna.importance import get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.config import axes as spaces
from study.search.suggestions import recipe

FEWEST = 20  # complete trials below which importances say nothing


def importance(study: optuna.Study, objectives: Sequence[str], axes: spaces.Axes) -> dict[str, dict[str, float]]:
    """How much each axis decides of reaching the best tenth in each objective, and (`front`) near the front.

    The shares of an objective add up to 1. Empty below FEWEST complete trials. PED-ANOVA: Watanabe et al. 2023,
    arXiv:2304.10255; for axes with conditions arXiv:2601.20800.
    """
    trials = [_active(trial, axes) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(trials) < FEWEST:
        return {}
    alone = optuna.create_study(directions=study.directions)
    alone.add_trials(trials)
    targets: dict[str, Callable[[FrozenTrial], float] | None] = {}
    for place, (name, direction) in enumerate(zip(objectives, study.directions, strict=True)):
        sign = -1 if direction == StudyDirection.MAXIMIZE else 1
        targets[name] = partial(_value, place=place, sign=sign)
    if len(objectives) > 1:
        targets["front"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: get_param_importances(alone, target=target) for name, target in targets.items()}


def _value(trial: FrozenTrial, place: int, sign: int) -> float:
    return sign * trial.values[place]


def _active(trial: FrozenTrial, axes: spaces.Axes) -> FrozenTrial:
    """The trial with those of its parameters only that its recipe has."""
    active = recipe(trial.params, axes)
    params = {key: value for key, value in trial.params.items() if key in active}
    return create_trial(
        values=trial.values, params=params, distributions={key: trial.distributions[key] for key in params}
    )
