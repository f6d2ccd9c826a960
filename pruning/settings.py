"""What one pruning of a network is told to do: the granularity, and all settings that stay the same from cut to cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pruning.allocation.sensitivity import Curves
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.weights.blocks import pattern

GRANULARITIES = ("weight", "channel", "hybrid", "n:m")  # n:m stands for numbers, such as 2:4


@dataclass(frozen=True)
class Granularity:
    """What is removed at once: single weights, whole channels, channels and then weights, or n:m blocks of weights.

    name: one of GRANULARITIES, with numbers for n:m. Raises ValueError, with the choices, for another.
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
        """n and m of an n:m granularity; None for the others."""
        return pattern(self.name)

    @property
    def cuts_channels(self) -> bool:
        """Whether networks get smaller, so that dependency groups must be known."""
        return self.name in ("channel", "hybrid")

    @property
    def is_hybrid(self) -> bool:
        """Whether channels go first, and then weights of what is left."""
        return self.name == "hybrid"

    @property
    def implied_sparsity(self) -> float | None:
        """1 - n / m, which every layer in blocks has; None where the target is free."""
        return None if self.blocks is None else (self.blocks[1] - self.blocks[0]) / self.blocks[1]


WEIGHT, CHANNEL = Granularity("weight"), Granularity("channel")


@dataclass(frozen=True)
class PruneSettings:
    """How a network is pruned, whatever the target and the data.

    criterion: how weights or channels are scored.
    granularity: what is removed at once.
    scope: over what scores are ranked; see `pruning.allocation`.
    reduce: how a channel's score is made of its weights' scores, "sum" or "mean" (see `group_scores`).
    sparsity_of: what the target of a channel recipe counts, "params", "channels" or "macs".
    min_channels: channels that every group keeps at least.
    round_to: a multiple of which every cut group keeps.
    channel_share: the share of a hybrid's target that channels bring.
    protect: paths of modules that are never cut.
    only: the path of the one layer, or the name of the one dependency group, that is cut. The target is then the share
        of that layer's weights, exactly, or of that group's units (see `allocate_group`).
    curves: of a sensitivity scan, for scope sensitivity.

    Raises ValueError for combinations that mean nothing.
    """

    criterion: Criterion = CRITERIA["magnitude_l1"]
    granularity: Granularity = WEIGHT
    scope: str = "global"
    reduce: str = "sum"
    sparsity_of: str = "params"
    min_channels: int = 1
    round_to: int = 1
    channel_share: float = 0.5
    protect: tuple[str, ...] = ()
    only: str | None = None
    curves: Curves | None = None

    def __post_init__(self) -> None:
        if self.only is not None and self.granularity not in (WEIGHT, CHANNEL):
            raise ValueError(
                f"only {self.only!r}: one part alone is cut by weight or by channel, not by {self.granularity}"
            )
        if self.only is not None and self.scope != "global":
            raise ValueError(
                f"only {self.only!r}: within one part there is nothing to allocate; scope is global, not {self.scope!r}"
            )
        if self.granularity.is_hybrid and self.sparsity_of != "params":
            raise ValueError(
                f"a hybrid's target counts params, of which weights and channels have one; not {self.sparsity_of}"
            )
        if self.granularity.is_hybrid and not 0 < self.channel_share < 1:
            raise ValueError(f"channel_share must be between 0 and 1; it is {self.channel_share}")
