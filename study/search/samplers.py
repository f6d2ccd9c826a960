"""Samplers by name, and axes as they are asked of Optuna."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna import samplers
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from study.config import StudyFile
from study.config import axes as spaces
from study.search.optuna_adapter import constraints, identity, nsga_parents, seen

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
HISTORY = 300  # latest trials that models learn from, beside the front; several generations of NSGA
STARTUP, CANDIDATES = 20, 4  # of TPE: trials at random first, and draws of which the best is taken
POPULATION = 24  # of a generation of NSGA


class Windowed(samplers.BaseSampler):
    """A sampler that learns from the front and the latest HISTORY trials only.

    What a model takes to suggest grows with every trial it knows, without end. Trials that run are known to it too
    (the "constant liar"), so that several at once do not all try the same; and NSGA's latest parents, however old.
    """

    def __init__(self, inner: samplers.BaseSampler, size: int) -> None:
        self._inner, self._size = inner, size
        self._latest: deque[int] | None = None
        self._running: set[int] = set()
        self._front: dict[int, npt.NDArray[np.float64]] = {}

    def reseed_rng(self) -> None:
        self._inner.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if self._latest is None:
            self._latest = deque(maxlen=self._size)
            for earlier in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
                self._learn(study, earlier, earlier.values if earlier.state == TrialState.COMPLETE else None)
        self._running.add(identity(trial))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        return self._inner.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self._inner.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        return self._inner.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._running.discard(identity(trial))
        if self._latest is not None and state != TrialState.FAIL:
            self._learn(study, trial, values if state == TrialState.COMPLETE else None)
        self._inner.after_trial(study, trial, state, values)

    def _learn(self, study: optuna.Study, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        assert self._latest is not None
        self._latest.append(identity(trial))
        if values is None or any(violation > 0 for violation in constraints(trial).values()):
            return
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        costs = np.array(values) * signs
        if not any((other <= costs).all() for other in self._front.values()):
            self._front = {k: other for k, other in self._front.items() if not (costs <= other).all()}
            self._front[identity(trial)] = costs

    def _seen(self, study: optuna.Study) -> Any:
        assert self._latest is not None
        return seen(study, sorted({*self._front, *self._latest, *self._running, *nsga_parents(study)}))


def _tpe(seed: int, study_seed: int) -> samplers.BaseSampler:
    # Optuna's own 10 and 24 lead it back to where it was: replayed, its front stood still (reports/sweep).
    inner = samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP, n_ei_candidates=CANDIDATES
    )
    return Windowed(inner, HISTORY)


def _nsga2(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIISampler(seed=seed, population_size=POPULATION), HISTORY)


def _nsga3(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.NSGAIIISampler(seed=seed, population_size=POPULATION), HISTORY)


def _gp(seed: int, study_seed: int) -> samplers.BaseSampler:
    return Windowed(samplers.GPSampler(seed=seed, warn_independent_sampling=False), HISTORY)


def _qmc(seed: int, study_seed: int) -> samplers.BaseSampler:
    first = samplers.RandomSampler(seed=seed)  # for the first trial only; after it the sequence of the study's own seed
    return samplers.QMCSampler(
        seed=study_seed, scramble=True, independent_sampler=first, warn_independent_sampling=False
    )


SAMPLERS: dict[str, Callable[[int, int], samplers.BaseSampler]] = {
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "gp": _gp,
    "qmc": _qmc,
}


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
