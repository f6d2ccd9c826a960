"""The validated recipe: one point of the space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from pruning.allocation.scopes import SCOPES
from pruning.calibration.least_squares import RECONSTRUCTIONS
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES, REDUCTIONS, Granularity
from study.config.fields import Fraction, Section, one_of
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS

EACH = "each"  # value of `layer` or `group`: one recipe for each layer or group of the network
BLOCKS_ONLY = {"scope": "layer", "schedule": "one_shot", "sparsity_of": "params"}  # the only values valid for n:m

# Defaults that have changed, as they were in folders whose study.yaml does not record `recipe_defaults`.
EARLIER_DEFAULTS = {"reduce": "sum", "lr_schedule": "cosine", "reconstruct": "none"}

_GRANULARITY_SCHEMA = {
    "anyOf": [
        {"type": "string", "enum": list(GRANULARITIES[:-1])},
        {"type": "string", "pattern": r"^[1-9][0-9]*:[1-9][0-9]*$"},
    ]
}


def _known_granularity(name: str) -> str:
    return str(Granularity(name))


def _values_channels_only(criterion: Any) -> bool:
    return isinstance(criterion, str) and criterion in CRITERIA and CRITERIA[criterion].weight is None


def implied_by(granularity: Any) -> dict[str, Any]:
    """Recipe keys fixed by the granularity: for n:m, sparsity and `BLOCKS_ONLY` (blocks are local); otherwise none."""
    implied = Granularity(granularity).implied_sparsity if ":" in str(granularity) else None
    return {} if implied is None else {"sparsity": implied, **BLOCKS_ONLY}


def sketch(point: Mapping[str, Any]) -> Recipe:
    """A recipe from some of its keys, defaults elsewhere. Raises ValueError if the given keys are incompatible."""
    return Recipe(**{"sparsity": 0.5, **implied_by(point.get("granularity")), **point})


class Recipe(Section):
    """One complete point of the space: how a trial prunes and fine-tunes the baseline."""

    criterion: Annotated[str, one_of("criterion", CRITERIA, dotted=True)] = Field(
        default="magnitude_l1",
        description="how a weight or channel is scored; also a function of your own, `package.module:function` or "
        "`path/file.py:function`",
    )
    granularity: Annotated[str, AfterValidator(_known_granularity), WithJsonSchema(_GRANULARITY_SCHEMA)] = Field(
        default="weight", description="what is removed at once; `n:m` stands for any two numbers, such as `2:4`"
    )
    channel_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5,
        description="hybrid recipes: share of `sparsity` reached by removing channels; single weights make up the rest",
    )
    reduce: Annotated[str, one_of("reduce", REDUCTIONS)] = Field(
        default="group_normalised",
        description="how the scores of a channel's weights become its score; `group_normalised`: their mean, divided "
        "by that of the channel's dependency group; with scope `knapsack` the default is `sum`",
    )
    reconstruct: Annotated[str, one_of("reconstruct", RECONSTRUCTIONS)] = Field(
        default="sequential",
        description="after every cut, the weights that stay are moved so that each layer's output is restored (least "
        "squares, on the calibration images): every `layer` by itself, or each on the inputs that the pruned and "
        "restored layers before it give (`sequential`)",
    )
    scope: Annotated[str, one_of("scope", SCOPES)] = Field(
        default="global", description="how scores are ranked (globally or per layer), or how layers share the target"
    )
    schedule: Annotated[str, one_of("schedule", SCHEDULES)] = Field(
        default="one_shot", description="how the cuts are spread: all at once, in equal steps, or along a cubic curve"
    )
    sparsity: Fraction = Field(description="share of the dense network's prunable weights to remove")
    sparsity_of: Literal["params", "channels", "macs", "latency"] = Field(
        default="params",
        description="channel recipes: what the target counts; `latency`: the time of all convolutions and linear "
        "layers, measured at several widths before the first trial (HALP, arXiv:2210.06659)",
    )
    initial_sparsity: Fraction = Field(
        default=0.0, description="sparsity of the first cut of `iterative` and `gradual` (0: no such cut)"
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="number of cuts; `one_shot` always has 1"
    )
    finetune_epochs: Annotated[int, Field(ge=0)] = Field(
        default=4, description="epochs in all, spread evenly over the cuts: the same budget for every schedule"
    )
    epochs_per_step: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="epochs after each cut; give it instead of `finetune_epochs`"
    )
    sparse_epochs: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="channel recipes: so many of the epochs come before the first cut, with a group lasso that shrinks "
        "whole channels (sparse learning)",
    )
    group_lasso: Annotated[float, Field(gt=0)] = Field(
        default=5e-4, description="with `sparse_epochs`: strength of the group lasso"
    )
    finetune_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="fine-tune on only this many training images, stratified by class and the same for every recipe "
        "with this number; an epoch is a pass over them",
    )
    finetune_lr: Annotated[float, Field(gt=0)] = Field(default=0.01, description="highest learning rate of fine-tuning")
    lr_schedule: Annotated[str, one_of("lr_schedule", LR_SCHEDULES)] = Field(
        default="cosine_restarts",
        description="how the rate changes over the whole fine-tuning; `cosine_restarts`: anew after every cut",
    )
    optimizer: Annotated[str, one_of("optimizer", OPTIMIZERS)] = Field(
        default="sgd", description="`sgd` has Nesterov momentum 0.9"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=5e-4, description="while fine-tuning")
    distil: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.0,
        description="while fine-tuning: share of the loss that compares with the dense network, the teacher",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        default=4.0, description="with `distil`: what the logits of both networks are divided by"
    )
    quantize: Literal["none", "int8"] = Field(
        default="none",
        description="`int8`: after fine-tuning, 8-bit weights and activations, run by onnxruntime (the extra `export`)",
    )
    recalibrate: bool = Field(default=True, description="recompute batch norm's statistics after every cut")
    calibration_samples: Annotated[int, Field(ge=2)] = Field(
        default=512, description="training images for recalibration and for data-dependent criteria"
    )
    min_channels: Annotated[int, Field(ge=1)] = Field(
        default=1, description="channel recipes: minimum number of channels that every layer keeps"
    )
    round_to: Annotated[int, Field(ge=1)] = Field(
        default=1, description="channel recipes: every layer keeps a multiple of this many channels"
    )
    protect: tuple[str, ...] = Field(default=(), description="names of modules that are never cut")
    layer: str | None = Field(
        default=None,
        description="cut this layer alone; `sparsity` is then the share of its weights. `each`: one recipe per layer",
    )
    group: str | None = Field(
        default=None,
        description="cut this dependency group alone; `sparsity` is then the share of its channels. `each`: one per "
        "group",
    )

    @model_validator(mode="before")
    @classmethod
    def _add_implied_values(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        given = {**implied_by(given.get("granularity", "weight")), **given}
        follows: dict[str, Any] = {}
        if given.get("schedule", "one_shot") == "one_shot":
            follows = {"steps": 1, "initial_sparsity": 0.0}
        if given.get("scope") == "knapsack":
            follows["reduce"] = given.get("reduce", "sum")  # it adds up what units are worth
        if _values_channels_only(given.get("criterion")) and "granularity" not in given:
            follows["granularity"] = "channel"
        for key, follower in {"distil": "temperature", "sparse_epochs": "group_lasso"}.items():
            if not given.get(key):
                follows[follower] = cls.model_fields[follower].default
        return {**given, **follows}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} is above the final sparsity {self.sparsity:g}"
            )
        if _values_channels_only(self.criterion) and self.granularity != "channel":
            both = ", ".join(name for name in CRITERIA if not _values_channels_only(name))
            raise ValueError(f"criterion {self.criterion} values channels only; for weights there are {both}")
        self._check_granularity()
        self._check_sparse_learning()
        self._check_distillation()
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

    def _check_granularity(self) -> None:
        for key, value in implied_by(self.granularity).items():
            found = getattr(self, key)
            if not (math.isclose(found, value) if key == "sparsity" else found == value):
                raise ValueError(f"{key}: with granularity {self.granularity} it is {value}, not {found}")
        if self.granularity in ("channel", "hybrid") and SCOPES[self.scope].channels is None:
            both = ", ".join(name for name, form in SCOPES.items() if form.channels)
            raise ValueError(f"scope {self.scope} is for weights only; for channels there are {both}")
        if self.granularity == "hybrid" and self.sparsity_of != "params":
            raise ValueError(f"sparsity_of: weights and channels have only params in common, not {self.sparsity_of}")
        if self.granularity == "hybrid" and self.scope == "sensitivity":
            raise ValueError("scope: sensitivity scans weights or channels, so granularity is not hybrid")

    def _check_sparse_learning(self) -> None:
        if not self.sparse_epochs:
            return
        if self.granularity not in ("channel", "hybrid"):
            raise ValueError(
                f"sparse_epochs: the group lasso shrinks whole channels, so granularity is channel or hybrid, not "
                f"{self.granularity}; for some recipes only: {{choices: [...], when: {{granularity: channel}}}}"
            )
        if self.sparse_epochs > self.epochs:
            raise ValueError(f"sparse_epochs: is {self.sparse_epochs}, of {self.epochs} epochs in all")

    def _check_distillation(self) -> None:
        if self.distil and not self.epochs:
            raise ValueError(f"distil: is {self.distil:g}, but there is no fine-tuning (0 epochs) to learn in")

    @property
    def part(self) -> str | None:
        """The single layer or dependency group to cut, if the recipe names one."""
        return self.layer or self.group

    @property
    def counts_latency(self) -> bool:
        """Whether its target needs the latencies of the baseline's layers."""
        return self.granularity == "channel" and self.sparsity_of == "latency"

    @property
    def epochs(self) -> int:
        """Total fine-tuning epochs."""
        if self.epochs_per_step is None:
            return self.finetune_epochs
        return self.sparse_epochs + self.epochs_per_step * self.steps
