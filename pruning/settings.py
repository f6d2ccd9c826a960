"""Granularity, and the settings of a pruning run that stay the same for all its cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pruning.allocation.sensitivity import Curves
from pruning.channels.graph import Timed
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.weights.blocks import pattern

GRANULARITIES = ("weight", "channel", "hybrid", "n:m")  # n:m: any such pair of numbers, e.g. 2:4


@dataclass(frozen=True)
class Granularity:
    """What is removed at once: weights, channels, channels and then weights ("hybrid"), or n:m blocks of weights.

    name: one of GRANULARITIES, with numbers for n:m. Raises ValueError for others, with the choices.
    """

    name: str

    def __post_init__(self) -> None:
        if self.blocks is None and self.name not in GRANULARITIES[:-1]:
            raise ValueError(
                f"unknown granularity {self.name!r}; choose from {', '.join(GRANULARITIES[:-1])}, or n:m such as '2:4'"
            )

    def __str__(self) -> str:
        return self.name

    @cached_property
    def blocks(self) -> tuple[int, int] | None:
        """The pair (n, m) of an n:m granularity; None for others."""
        return pattern(self.name)

    @property
    def cuts_channels(self) -> bool:
        """Whether tensors get smaller, which requires dependency groups."""
        return self.name in ("channel", "hybrid")

    @property
    def is_hybrid(self) -> bool:
        """Whether channels are cut first, then weights of the remaining network."""
        return self.name == "hybrid"

    @property
    def implied_sparsity(self) -> float | None:
        """Sparsity 1 - n / m of n:m; None where the target is free."""
        return None if self.blocks is None else (self.blocks[1] - self.blocks[0]) / self.blocks[1]


GROUP_NORMALISED = "group_normalised"
REDUCTIONS = ("sum", "mean", GROUP_NORMALISED)

WEIGHT, CHANNEL = Granularity("weight"), Granularity("channel")


@dataclass(frozen=True)
class PruneSettings:
    """How a network is pruned, independent of target and data.

    Attributes:
      criterion: scores weights or channels.
      granularity: what is removed at once.
      scope: over what scores are ranked; see `pruning.allocation.scopes`.
      reconstruct: how the remaining weights are updated after a cut; a name in RECONSTRUCTIONS (see
        `pruning.calibration.least_squares`).
      reduce: reduction of weight scores to a channel's score, "sum" or "mean" (see `group_scores`), or
        "group_normalised", the mean divided by that of its dependency group, which other scores of channels are too.
      sparsity_of: what a channel target counts: "params", "channels", "macs" or "latency".
      min_channels: channels that every group keeps at least.
      round_to: every group that is cut keeps a multiple of this number of channels.
      channel_share: share of a hybrid's target that is reached by cutting channels.
      protect: paths of modules that are not cut.
      only: path of the only layer, or name of the only dependency group, to cut. The target is then the share of that
        layer's weights, exactly, or of that group's units (see `allocate_group`).
      curves: from a sensitivity scan, for scope sensitivity.
      latencies: of the dense network's layers, for sparsity_of latency; None: measured when pruning begins.

    Raises ValueError for contradictory combinations.
    """

    criterion: Criterion = CRITERIA["magnitude_l1"]
    granularity: Granularity = WEIGHT
    scope: str = "global"
    reconstruct: str = "none"
    reduce: str = "sum"
    sparsity_of: str = "params"
    min_channels: int = 1
    round_to: int = 1
    channel_share: float = 0.5
    protect: tuple[str, ...] = ()
    only: str | None = None
    curves: Curves | None = None
    latencies: Mapping[str, Timed] | None = None

    def __post_init__(self) -> None:
        if self.only is not None and self.granularity not in (WEIGHT, CHANNEL):
            raise ValueError(
                f"only {self.only!r}: a single part is cut by weight or by channel, not by {self.granularity}"
            )
        if self.only is not None and self.scope != "global":
            raise ValueError(
                f"only {self.only!r}: a single part needs no allocation; scope is global, not {self.scope!r}"
            )
        if self.granularity.is_hybrid and self.sparsity_of != "params":
            raise ValueError(
                f"a hybrid's target counts params, which weights and channels share; not {self.sparsity_of}"
            )
        if self.granularity.is_hybrid and not 0 < self.channel_share < 1:
            raise ValueError(f"channel_share must be between 0 and 1; it is {self.channel_share}")
