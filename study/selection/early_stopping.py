"""Early stopping for several objectives: MO-ASHA with epsilon-net (Schmucker et al. 2021, arXiv:2106.12639).

Trials are compared at rungs: min_epochs * reduction^k fine-tuning epochs after the last cut. Before it a gradual trial
is pruned less than a one-shot trial and would have an unfair advantage. At a rung a trial continues if it is among the
best 1/reduction of the trials that have reached the rung so far. Others are stopped; or they are paused, and go on if
they are among the best later (ASHA with promotion, Li et al. 2020, arXiv:1810.05934).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import moocore
import numpy as np
import numpy.typing as npt

from pruning.schedules import cut_points
from study.config import Recipe

LATEST = 1000  # trials kept per rung, which bounds the time of a comparison


class Stopper:
    """The rungs of a study: `continues` decides after every epoch of a trial whether it continues.

    Args:
      min_epochs: fine-tuning epochs after the last cut at the first rung; at least 1.
      reduction: one in this many trials continues at a rung; at least 2.

    Raises:
      ValueError: a value is too small.
    """

    def __init__(self, min_epochs: int, reduction: int) -> None:
        if min_epochs < 1 or reduction < 2:
            raise ValueError(f"min_epochs {min_epochs}, reduction {reduction}: at least 1 and 2 are needed")
        self._min_epochs, self._reduction = min_epochs, reduction
        self._rungs: dict[int, dict[str, tuple[float, float]]] = {}  # epochs -> trial -> accuracy, sparsity

    def continues(self, trial_id: str, epochs_after_last_cut: int, accuracy: float, sparsity: float) -> bool:
        """Whether a trial continues after this epoch; at a rung, its result is stored.

        The first `reduction - 1` trials at a rung continue; a trial with a non-finite accuracy does not.

        Args:
          trial_id: the trial.
          epochs_after_last_cut: see `after_last_cut`.
          accuracy: current validation accuracy, a fraction; more is better.
          sparsity: the recipe's final sparsity, a fraction; more is better.
        """
        if not self._is_rung(epochs_after_last_cut):
            return True
        if not math.isfinite(accuracy):
            return False
        rung = self._rungs.setdefault(epochs_after_last_cut, {})
        rung.pop(trial_id, None)  # of an earlier attempt that was lost
        rung[trial_id] = (accuracy, sparsity)
        if len(rung) > LATEST:
            del rung[next(iter(rung))]
        return trial_id in self._best(rung)

    def _best(self, rung: Mapping[str, tuple[float, float]]) -> list[str]:
        """The trials of a rung that go on."""
        names = list(rung)
        return [names[index] for index in best(np.array(list(rung.values())), self._places(len(rung)))]

    def _places(self, trials: int) -> int:
        """How many of so many trials at a rung go on."""
        return trials if trials < self._reduction else math.ceil(trials / self._reduction)

    def _is_rung(self, epochs: int) -> bool:
        rung = self._min_epochs  # times reduction at each further rung
        while rung < epochs:
            rung *= self._reduction
        return rung == epochs


class Promoter(Stopper):
    """A stopper whose trials are paused, not stopped: `promoted` chooses which of them goes on.

    Of fewer than `reduction` trials at a rung none goes on.
    """

    def _places(self, trials: int) -> int:
        return trials // self._reduction

    def promoted(self, paused: Container[str]) -> str | None:
        """The paused trial that is among the best of the rung where it is, in the highest such rung; or None."""
        higher: set[str] = set()
        for epochs in sorted(self._rungs, reverse=True):
            rung = self._rungs[epochs]
            for trial_id in self._best(rung):
                if trial_id in paused and trial_id not in higher:
                    return trial_id
            higher |= rung.keys()
        return None


def best(points: npt.NDArray[np.float64], count: int) -> list[int]:
    """Indices of the best `count` of `points` (n, 2), front by front; of the last front, an epsilon-net."""
    chosen: list[int] = []
    ranks = front_ranks(points)
    for rank in range(max(ranks, default=-1) + 1):
        if len(chosen) >= count:
            break
        tied = np.flatnonzero(ranks == rank)
        chosen += tied[epsilon_net(points[tied], count - len(chosen))].tolist()
    return chosen


def front_ranks(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Non-dominated ranks (n,) of finite `points` (n, m), more is better: 0 on the front, 1 on the next front, etc.

    Equal points have equal ranks. O(n log n) for two objectives (Jensen 2003, doi:10.1109/TEVC.2003.817234).
    """
    return np.asarray(moocore.pareto_rank(points, maximise=True))


def epsilon_net(points: npt.NDArray[np.float64], count: int) -> list[int]:
    """Indices of at most `count` of `points` (n, 2), each the farthest from those already chosen.

    Starts with the largest first column. Distances are Euclidean, with each column divided by its range; ties go to the
    first point. Source: Schmucker et al. 2021, arXiv:2106.12639, section 4.
    """
    span = np.ptp(points, axis=0)
    scaled = points / np.where(span > 0, span, 1.0)
    order = [int(np.argmax(points[:, 0]))]
    distance = np.linalg.norm(scaled - scaled[order[0]], axis=1)
    distance[order[0]] = -1.0
    while len(order) < min(count, len(points)):
        farthest = int(np.argmax(distance))
        order.append(farthest)
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[farthest], axis=1))
        distance[order] = -1.0
    return order


def after_last_cut(recipe: Recipe, epoch: int) -> int:
    """Whole fine-tuning epochs since the last cut, at the end of `epoch` (counted from 1); below 1: none.

    Fine-tuning is spread evenly over the cuts; each cut precedes its share.
    """
    cuts = len(cut_points(recipe.schedule, recipe.sparsity, recipe.steps, recipe.initial_sparsity))
    return math.floor(epoch - recipe.epochs * (cuts - 1) / cuts + 1e-9)


def refill(stopper: Stopper, trials: Iterable[tuple[str, Recipe, Iterable[Mapping[str, Any]]]]) -> None:
    """Replay finished trials (id, recipe, history) into a stopper, after a restart."""
    for trial_id, recipe, history in trials:
        for line in history:
            passed = after_last_cut(recipe, int(line["epoch"]))
            stopper.continues(trial_id, passed, float(line["accuracy"]), recipe.sparsity)
