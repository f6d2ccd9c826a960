"""Importance of each axis of the space (PED-ANOVA)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from study.config import axes as spaces
from study.search.suggestions import recipe

FEWEST = 20  # complete trials needed for meaningful importances


def importance(study: optuna.Study, objectives: Sequence[str], axes: spaces.Axes) -> dict[str, dict[str, float]]:
    """Importance of each axis for reaching the best tenth of each objective, and (`front`) for being near the front.

    Returns objective -> axis -> share; the shares of an objective add up to 1. Empty below FEWEST complete trials.
    PED-ANOVA: Watanabe et al. 2023, arXiv:2304.10255; for conditional axes arXiv:2601.20800.
    """
    trials = [_active(trial, axes) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(trials) < FEWEST:
        return {}
    from optuna.importance import get_param_importances  # slow to import: scikit-learn

    active_study = optuna.create_study(directions=study.directions)
    active_study.add_trials(trials)
    targets: dict[str, Callable[[FrozenTrial], float] | None] = {}
    for column, (name, direction) in enumerate(zip(objectives, study.directions, strict=True)):
        sign = -1 if direction == StudyDirection.MAXIMIZE else 1
        targets[name] = partial(_value, column=column, sign=sign)
    if len(objectives) > 1:
        targets["front"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: get_param_importances(active_study, target=target) for name, target in targets.items()}


def _value(trial: FrozenTrial, column: int, sign: int) -> float:
    return float(sign * trial.values[column])


def _active(trial: FrozenTrial, axes: spaces.Axes) -> FrozenTrial:
    """A copy of the trial with only the parameters that its recipe has: axes whose `when` holds."""
    active = recipe(trial.params, axes)
    params = {key: value for key, value in trial.params.items() if key in active}
    return create_trial(
        values=trial.values, params=params, distributions={key: trial.distributions[key] for key in params}
    )
