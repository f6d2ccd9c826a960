"""What a trial is given, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from pruning.channels.plans import Plan
from study.baseline.network import Baseline
from study.config import BaselineSection
from study.data.splits import Data
from study.training.epochs import Row
from study.trials.scan import Curves

ScoreArrays = dict[str, np.ndarray]  # parameter or dependency group -> its scores


class ScoreStore(Protocol):
    """A cache of scores: returns those under `key`, which the first caller computes."""

    def __call__(self, key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays: ...


def no_store(key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays:
    """The store that keeps nothing, for a trial by itself."""
    return compute()


class TrialContext(NamedTuple):
    """What all trials of a study have in common; never written to.

    seed, draws: the untouched baseline is scored on `draws` different draws of calibration images, those of the seeds
    seed .. seed + draws - 1, and each of these scores is computed once. curves: of the sensitivity scan, by
    `scan.curve_key`. timed: trials measure their network's latency, for which each has a device to itself.
    """

    baseline: Baseline
    data: Data
    section: BaselineSection
    seed: int = 0
    draws: int = 1
    score_store: ScoreStore = no_store
    curves: dict[str, Curves] = {}
    timed: bool = False


class NetworkState(NamedTuple):
    """A pruned network: its state_dict as arrays, the plan that cut it (None: not cut), and its layers' costs."""

    state: dict[str, np.ndarray]
    plan: Plan | None
    layers: list[Row]


class Outcome(NamedTuple):
    """What a trial leaves: its row, a history row per fine-tuning epoch, and the network.

    A failed trial has no network, and the traceback of what it failed from.
    """

    row: Row
    history: list[Row]
    network: NetworkState | None
    traceback: str = ""
