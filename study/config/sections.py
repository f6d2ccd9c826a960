"""The sections of a study file other than the space."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from models import MODELS
from study.config.fields import Direction, Fraction, Section, one_of
from study.data.sources import DATASETS

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
