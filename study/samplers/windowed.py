"""A sampler that learns from a window of trials, so that what a trial costs does not grow with their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
from optuna import samplers
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from study.samplers.optuna_adapter import constraints, identity, nsga_parents, seen


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
