"""A sampler that learns from a window of trials, so that the time per suggestion does not grow with the study."""

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

from study.samplers.optuna_adapter import nsga_parents, restricted_study, storage_id


class Windowed(samplers.BaseSampler):
    """Wraps a sampler so that it learns only from the front and the latest `size` trials.

    Otherwise the time per suggestion would grow with every trial. The wrapped sampler also sees running trials
    ("constant liar"), so that parallel suggestions differ, and NSGA's latest parents, however old.

    Attributes:
      prior: trials of an older study, which it sees as well.
    """

    def __init__(self, inner: samplers.BaseSampler, size: int) -> None:
        self._inner, self._size = inner, size
        self._latest: deque[int] | None = None
        self._running: set[int] = set()
        self._front: dict[int, npt.NDArray[np.float64]] = {}
        self.prior: Sequence[FrozenTrial] = ()

    def reseed_rng(self) -> None:
        """Reseed the wrapped sampler."""
        self._inner.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Mark the trial as running; the first call loads the finished trials of a resumed study."""
        if self._latest is None:
            self._latest = deque(maxlen=self._size)
            for finished in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
                self._add(study, finished, finished.values if finished.state == TrialState.COMPLETE else None)
        self._running.add(storage_id(trial))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """The wrapped sampler's search space, inferred from the window."""
        return self._inner.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """The wrapped sampler's joint sample, given the window."""
        return self._inner.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """The wrapped sampler's independent sample, given the window. Args: see `optuna.samplers.BaseSampler`."""
        return self._inner.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Add a complete or pruned trial to the window. Args: see `optuna.samplers.BaseSampler`."""
        self._running.discard(storage_id(trial))
        if self._latest is not None and state != TrialState.FAIL:
            self._add(study, trial, values if state == TrialState.COMPLETE else None)
        self._inner.after_trial(study, trial, state, values)

    def _add(self, study: optuna.Study, trial: FrozenTrial, values: Sequence[float] | None) -> None:
        assert self._latest is not None
        self._latest.append(storage_id(trial))
        if values is None or any(violation > 0 for violation in trial.constraints.values()):
            return
        signs = [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]
        costs = np.array(values) * signs
        if not any((other <= costs).all() for other in self._front.values()):
            self._front = {k: other for k, other in self._front.items() if not (costs <= other).all()}
            self._front[storage_id(trial)] = costs

    def _seen(self, study: optuna.Study) -> Any:
        assert self._latest is not None
        seen = sorted({*self._front, *self._latest, *self._running, *nsga_parents(study)})
        return restricted_study(study, seen, self.prior)
