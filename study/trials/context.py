"""Input and output types of a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pruning.channels.plans import Plan
from pruning.measure.layer_latency import LayerLatency
from study.baseline.network import Baseline
from study.config import BaselineSection
from study.data.splits import Data
from study.training.epochs import Row
from study.trials.scan import Curves

ScoreArrays = dict[str, np.ndarray]  # parameter or dependency group -> its scores


# A seed's remainder says which run of its recipe a trial is. Run k of every recipe is scored on the same calibration
# images, so these scores are computed once, and no two runs of a recipe share them.
RUNS = 4096
CONFIRMING = RUNS // 2  # first run of the confirmations


class ScoreStore(Protocol):
    """A cache of scores, called with a key and a function that computes them."""

    def __call__(self, key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays:
        """The scores under `key`; the first caller computes them."""
        ...


def no_store(key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays:
    """A `ScoreStore` without caching, for a single trial."""
    return compute()


class TrialContext(NamedTuple):
    """Read-only input shared by all trials of a study.

    baseline, data, section: the dense network, its data set and the baseline section of the study file.
    seed: of the study.
    score_store: cache of the baseline's scores.
    curves: curves of the sensitivity scan, by `scan.curve_key`.
    latencies: times of the baseline's layers, if any recipe's target counts them.
    timed: whether trials measure latency; each then has a device to itself.
    runtime: what runs the networks when latencies are measured, `torch` or `onnxruntime`; this one if any recipe of the
        study quantizes, so that all its latencies compare.
    minutes: a trial that runs longer is ended; None: no limit.
    taught: whether any recipe of the study distils from the baseline.
    screening: validation images on which candidates are screened.
    pauses: whether trials may be paused.
    """

    baseline: Baseline
    data: Data
    section: BaselineSection
    seed: int = 0
    score_store: ScoreStore = no_store
    curves: dict[str, Curves] = {}
    latencies: Mapping[str, LayerLatency] | None = None
    timed: bool = False
    runtime: str = "torch"
    minutes: float | None = None
    taught: bool = False
    screening: int = 0
    pauses: bool = False


class Ticket(NamedTuple):
    """A trial to run.

    Attributes:
      trial_id: unique in the study; starts with the prefix of its kind.
      kind: `search`, `control` or `confirm`.
      recipe: axis -> value.
      seed: of the trial.
      control: the name of the control (`dense`, `scratch`), if it is one.
      confirms: the trial that it repeats with another seed, or trains from scratch.
      plan: the channel plan of that trial, for training from scratch.
    candidates: tickets, as lists, of which screening chooses one to be trained; none: this trial is trained.
    earlier: accuracy and sparsity of candidates screened before.
    screened: the columns that screening measured of this trial; None: it was not screened.
    """

    trial_id: str
    kind: str
    recipe: Row
    seed: int
    control: str | None = None
    confirms: str | None = None
    plan: Row | None = None
    candidates: Sequence[Sequence[Any]] = ()
    earlier: Sequence[tuple[float, float]] = ()
    screened: Row | None = None


class NetworkState(NamedTuple):
    """A pruned network: state_dict as arrays, the plan of its surgery (None: not cut), and one row per layer.

    int8: its quantized ONNX file; None: not quantized.
    """

    state: dict[str, np.ndarray]
    plan: Plan | None
    layers: list[Row]
    int8: bytes | None = None


class Outcome(NamedTuple):
    """Result of a trial: its row, a history row per fine-tuning epoch, and the network.

    A failed trial has a traceback and no network. correct: whether each test image is classified correctly, bool.
    """

    row: Row
    history: list[Row]
    network: NetworkState | None
    traceback: str = ""
    correct: np.ndarray | None = None
