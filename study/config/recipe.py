"""The recipe: one point of the space, validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pruning.allocation.weight_scopes import SCOPES
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import Granularity
from study.config.fields import Fraction, Section, one_of
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS

EACH = "each"  # as `layer` or `group`: one recipe for each of those the network has
CHANNELS_ONLY = tuple(name for name, form in CRITERIA.items() if form.weight is None)
BLOCKS_ONLY = {"scope": "layer", "schedule": "one_shot", "sparsity_of": "params"}  # all that n:m can be


def _known_granularity(name: str) -> str:
    return str(Granularity(name))


def implied_by(granularity: Any) -> dict[str, Any]:
    """The keys of a recipe that have one value by its granularity: none, but for n:m, where blocks are local."""
    implied = Granularity(granularity).implied_sparsity if ":" in str(granularity) else None
    return {} if implied is None else {"sparsity": implied, **BLOCKS_ONLY}


def sketch(point: Mapping[str, Any]) -> Recipe:
    """A recipe of which not all keys are known. Raises ValueError where those that are don't go together."""
    return Recipe(**{"sparsity": 0.5, **implied_by(point.get("granularity")), **point})


class Recipe(Section):
    """One point of the space, complete: what a trial does to the baseline."""

    criterion: Annotated[str, one_of("criterion", CRITERIA, dotted=True)] = "magnitude_l1"
    granularity: Annotated[str, AfterValidator(_known_granularity)] = "weight"
    channel_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    reduce: Literal["sum", "mean"] = "sum"
    scope: Annotated[str, one_of("scope", SCOPES)] = "global"
    schedule: Annotated[str, one_of("schedule", SCHEDULES)] = "one_shot"
    sparsity: Fraction
    sparsity_of: Literal["params", "channels", "macs"] = "params"
    initial_sparsity: Fraction = 0.0
    steps: Annotated[int, Field(ge=1, le=1000)] = 3
    finetune_epochs: Annotated[int, Field(ge=0)] = 4
    epochs_per_step: Annotated[int, Field(ge=0)] | None = None
    finetune_lr: Annotated[float, Field(gt=0)] = 0.01
    lr_schedule: Annotated[str, one_of("lr_schedule", LR_SCHEDULES)] = "cosine"
    optimizer: Annotated[str, one_of("optimizer", OPTIMIZERS)] = "sgd"
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    recalibrate: bool = True
    calibration_samples: Annotated[int, Field(ge=2)] = 512
    min_channels: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    protect: tuple[str, ...] = ()
    layer: str | None = None
    group: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _what_follows_from_others(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = {**implied_by(given.get("granularity", "weight")), **given}
        follows: dict[str, Any] = {}
        if given.get("schedule", "one_shot") == "one_shot":
            follows = {"steps": 1, "initial_sparsity": 0.0}
        if given.get("criterion") in CHANNELS_ONLY and "granularity" not in given:
            follows["granularity"] = "channel"
        return {**given, **follows}

    @model_validator(mode="after")
    def _is_meaningful(self) -> Recipe:
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} is above the final sparsity {self.sparsity:g}"
            )
        if self.criterion in CHANNELS_ONLY and self.granularity != "channel":
            both = ", ".join(name for name in CRITERIA if name not in CHANNELS_ONLY)
            raise ValueError(f"criterion {self.criterion} values channels only; for weights there are {both}")
        self._suits_its_granularity()
        for key, granularity in (("layer", "weight"), ("group", "channel")):
            if getattr(self, key) is None:
                continue
            if self.granularity != granularity:
                raise ValueError(
                    f"{key}: cuts one {key} alone, so granularity is {granularity}, not {self.granularity}"
                )
            if self.scope != "global":
                raise ValueError(f"{key}: within one {key} there is nothing to allocate: scope is global")
        return self

    def _suits_its_granularity(self) -> None:
        for key, value in implied_by(self.granularity).items():
            found = getattr(self, key)
            if not (math.isclose(found, value) if key == "sparsity" else found == value):
                raise ValueError(f"{key}: with granularity {self.granularity} it is {value}, not {found}")
        if self.granularity == "hybrid" and self.sparsity_of != "params":
            raise ValueError(f"sparsity_of: weights and channels have only params in common, not {self.sparsity_of}")
        if self.granularity == "hybrid" and self.scope == "sensitivity":
            raise ValueError("scope: sensitivity scans weights or channels, so granularity is not hybrid")

    @property
    def part(self) -> str | None:
        """The one layer or dependency group that is cut, where the recipe names one."""
        return self.layer or self.group

    @property
    def epochs(self) -> int:
        """Fine-tuning epochs in all."""
        return self.finetune_epochs if self.epochs_per_step is None else self.epochs_per_step * self.steps
