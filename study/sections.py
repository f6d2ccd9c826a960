"""The sections of a study file, and the recipe: validated, frozen models that say what is wrong by themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from models import MODELS
from pruning.blocks import implied_sparsity
from pruning.criteria import CRITERIA
from pruning.cutting import check_granularity
from pruning.schedules import SCHEDULES
from pruning.scopes import SCOPES
from study.data import DATASETS
from study.training import LR_SCHEDULES, OPTIMIZERS

DIRECTIONS = {
    "accuracy": "max",
    "sparsity": "max",
    "macs": "min",
    "params": "min",
    "size_bytes": "min",
    "latency_ms": "min",
}
SAMPLERS = ("tpe", "nsga2", "nsga3", "gp", "qmc")
CONSTRAINABLE = [
    "accuracy",
    "accuracy_drop",
    "sparsity",
    "channel_sparsity",
    "compression_ratio",
    "params",
    "nonzero_params",
    "macs",
    "nonzero_macs",
    "theoretical_speedup",
    "size_bytes",
]
EACH = "each"  # as `layer` or `group`: one recipe for each of those the network has
CHANNELS_ONLY = tuple(name for name, form in CRITERIA.items() if form.weight is None)
BLOCKS_ONLY = {"scope": "layer", "schedule": "one_shot", "sparsity_of": "params"}  # all that n:m can be


class Refused(ValueError):
    """What the user asked for turned out, once the study had begun, not to be had; the message says what there is."""


def one_of(what: str, choices: Iterable[str], *, dotted: bool = False) -> AfterValidator:
    """Accepts a name among `choices`, or (dotted) a user's own `package.module:function`."""
    listed = ", ".join(choices)

    def check(name: str) -> str:
        if name in choices or (dotted and re.fullmatch(r"[\w.]+:\w+", name)):
            return name
        raise ValueError(f"unknown {what} {name!r}; choices: {listed}" + dotted * ", or package.module:function")

    return AfterValidator(check)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Direction = Literal["max", "min"]


class StopEarly(Section):
    """When trials are compared that are fine-tuning after their last cut, and what share of them goes on."""

    min_epochs: Annotated[int, Field(ge=1)] = 1
    reduction: Annotated[int, Field(ge=2)] = 3


class StudySection(Section):
    """What is searched for, and how long."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    objectives: Annotated[
        dict[Annotated[str, one_of("objective", DIRECTIONS)], Direction], Field(min_length=1, max_length=3)
    ] = {"accuracy": "max", "sparsity": "max"}
    constraints: dict[str, Annotated[str, Field(pattern=r"^(<=|>=) *-?[0-9.]+([eE]-?[0-9]+)?$")]] = {}
    search: Literal["optuna", "random", "grid"] = "optuna"
    sampler: Annotated[str, one_of("sampler", SAMPLERS)] = "tpe"
    repeats: Literal["new_seed", "stored"] = "new_seed"
    start_with: tuple[dict[str, Any], ...] = ()
    trials: Annotated[int, Field(ge=1)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1
    confirm_seeds: Annotated[int, Field(ge=0)] = 0
    controls: tuple[Literal["dense", "scratch"], ...] = ("dense",)
    stop_early: StopEarly | None = None
    save: Literal["front", "all", "none"] = "front"
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _is_meaningful(self) -> StudySection:
        for name, direction in self.objectives.items():
            if direction != DIRECTIONS[name]:
                raise ValueError(f"objectives: {name} is to be {DIRECTIONS[name]}, not {direction}")
        for name in self.constraints:
            if name not in CONSTRAINABLE:
                raise ValueError(f"constraints: unknown column {name!r}; choices: {', '.join(CONSTRAINABLE)}")
        if "scratch" in self.controls and self.save == "none":
            raise ValueError("controls: scratch trains networks of the front anew, so save is front or all, not none")
        return self


class Resources(Section):
    """What one trial gets."""

    cpus: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


class BaselineSection(Section):
    """The dense network that trials start from, and the data it saw."""

    model: Annotated[str, one_of("model", MODELS, dotted=True)] = "resnet18"
    checkpoint: str | None = None
    dataset: Annotated[str, one_of("dataset", DATASETS)] = "cifar10"
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    train_samples: Annotated[int, Field(ge=1)] | None = None
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    epochs: Annotated[int, Field(ge=0)] = 30
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Annotated[float, Field(gt=0)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    label_smoothing: Fraction = 0.0
    augment: bool = True
    bn_l1: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _is_meaningful(self) -> BaselineSection:
        if self.dataset == "imagefolder" and self.image_size is None:
            raise ValueError("image_size: dataset imagefolder needs one, in pixels")
        return self


def implied_by(granularity: Any) -> dict[str, Any]:
    """The keys of a recipe that have one value by its granularity: none, but for n:m, where blocks are local."""
    implied = implied_sparsity(granularity) if isinstance(granularity, str) else None
    return {} if implied is None else {"sparsity": implied, **BLOCKS_ONLY}


def sketch(point: Mapping[str, Any]) -> Recipe:
    """A recipe of which not all keys are known. Raises ValueError where those that are don't go together."""
    return Recipe(**{"sparsity": 0.5, **implied_by(point.get("granularity")), **point})


class Recipe(Section):
    """One point of the space, complete: what a trial does to the baseline."""

    criterion: Annotated[str, one_of("criterion", CRITERIA, dotted=True)] = "magnitude_l1"
    granularity: Annotated[str, AfterValidator(check_granularity)] = "weight"
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
