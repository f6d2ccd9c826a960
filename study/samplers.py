"""What the study uses of Optuna beside its storage: samplers by name, axes as they are asked, importances of axes."""

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
from optuna.importance import get_param_importances
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from study import space as spaces
from study.config import StudyFile

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
HISTORY = 300  # latest trials that models learn from, beside the front; several generations of NSGA
STARTUP, CANDIDATES = 20, 4  # of TPE: trials at random first, and draws of which the best is taken
POPULATION = 24  # of a generation of NSGA
FEWEST = 20  # complete trials below which importances say nothing


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
        self._running.add(trial._trial_id)
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
        self._running.discard(trial._trial_id)
        if self._latest is not None and state != TrialState.FAIL:
            self._learn(study, trial, values if state == TrialState.COMPLETE else None)
        self._inner.after_trial(study, trial, state, values)

    def _learn(self, study: optuna.Study, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        assert self._latest is not None
        self._latest.append(trial._trial_id)
        if values is None or any(violation > 0 for violation in trial.constraints.values()):
            return
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        costs = np.array(values) * signs
        if not any((other <= costs).all() for other in self._front.values()):
            self._front = {k: other for k, other in self._front.items() if not (costs <= other).all()}
            self._front[trial._trial_id] = costs

    def _seen(self, study: optuna.Study) -> Any:
        assert self._latest is not None
        ids = sorted({*self._front, *self._latest, *self._running, *_parents(study)})
        return _Seen(study, [study._storage.get_trial(trial_id) for trial_id in ids])


def _parents(study: optuna.Study) -> list[int]:
    """The trials that NSGA noted down as the parents of its latest generation; none for other samplers."""
    notes = study._storage.get_study_system_attrs(study._study_id)
    return next((notes[key] for key in reversed(notes) if ":parent:" in key), [])


class _Seen:
    """A study of which only these trials are seen."""

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._study, self._trials = study, trials

    def _get_trials(self, deepcopy: bool = False, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]

    get_trials = _get_trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)


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
