"""The sections of a study file other than the space."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from models import MODELS, packages
from study.config.fields import Direction, Fraction, Section, Seed, one_of
from study.data.sources import DATASETS, MIRRORED
from study.data.transforms import Augmentation
from study.samplers.registry import SAMPLERS

DIRECTIONS = {
    "accuracy": "max",
    "sparsity": "max",
    "macs": "min",
    "params": "min",
    "size_bytes": "min",
    "latency_ms": "min",
}
BOUND = r"^(<=|>=) *-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"  # of a constraint: `<= 0.02`


def _bound(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(BOUND, value):
        raise ValueError(f"is a sign and a number, such as '<= 0.02' or '>= 0.5', not {value!r}")
    return value


Bound = Annotated[str, BeforeValidator(_bound), WithJsonSchema({"type": "string", "pattern": BOUND})]
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
    """Early stopping: from `min_epochs` after the last cut, the best 1/`reduction` of trials continue at each rung.

    With `promote` the others are paused, and go on if they are among the best later.
    """

    min_epochs: Annotated[int, Field(ge=1)] = 1
    reduction: Annotated[int, Field(ge=2)] = 3
    promote: bool = False


class Screen(Section):
    """Screening: of so many `candidates`, cut and recalibrated but not trained, one is trained."""

    candidates: Annotated[int, Field(ge=2, le=100)] = 8
    images: Annotated[int, Field(ge=1)] = 500


class StudySection(Section):
    """What is searched for, with which budget."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")] = Field(
        description="names the results folder; letters, digits, `-` and `_`"
    )
    objectives: Annotated[
        dict[Annotated[str, one_of("objective", DIRECTIONS)], Direction], Field(min_length=1, max_length=3)
    ] = Field(
        default={"accuracy": "max", "sparsity": "max"},
        description="one to three measures to optimise, each with its direction",
    )
    constraints: dict[str, Bound] = Field(
        default={},
        description="limits on columns, such as `{accuracy_drop: '<= 0.02'}`; a row outside is kept, never on the "
        "front",
    )
    search: Literal["optuna", "random", "grid"] = Field(
        default="optuna",
        description="how recipes are proposed; `grid` runs every combination (ranges then need `step`)",
    )
    sampler: Annotated[str, one_of("sampler", SAMPLERS)] = Field(
        default="tpe", description="Optuna sampler, with `search: optuna`"
    )
    repeats: Literal["new_seed", "stored"] = Field(
        default="new_seed",
        description="if a recipe is proposed twice: `new_seed` runs it with another seed; `stored` reuses the result",
    )
    start_with: tuple[dict[str, Any], ...] = Field(default=(), description="recipes to try first")
    start_from: str | None = Field(
        default=None,
        description="the results folder of an older study: its front is tried first, and `tpe` and `gp` learn from its "
        "trials; of axes that it lacks, and values that this space lacks, nothing is taken over",
    )
    trials: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="recipes to finish, those of a resumed study included; left out: 60, or the whole grid",
    )
    hours: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="start no trial after this many hours"
    )
    seeds: Annotated[int, Field(ge=1)] = Field(
        default=1, description="runs of every recipe with different seeds and calibration images, one row each"
    )
    confirm_seeds: Annotated[int, Field(ge=0)] = Field(
        default=0, description="after the search: further runs of the recipes on the front, with other seeds"
    )
    controls: tuple[Literal["dense", "scratch"], ...] = Field(
        default=("dense",),
        description="reference runs after the search. `dense`: fine-tuned, not pruned; "
        "`scratch`: cut networks of the front, trained from random weights",
    )
    stop_early: StopEarly | None = Field(
        default=None,
        description="for example `{min_epochs: 1, reduction: 3}`: end weak trials early; with `promote: true` they are "
        "paused, and go on if they are among the best later",
    )
    screen: Screen | None = Field(
        default=None,
        description="for example `{candidates: 8, images: 500}`: each trial of the search is the most promising of so "
        "many recipes, cut and recalibrated without training, on so many validation images; the others are rows in "
        "state `screened`",
    )
    trial_minutes: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="a trial that runs longer becomes `failed`, for one that hangs; left out: no limit"
    )
    max_losses: Annotated[int, Field(ge=1)] = Field(
        default=3,
        description="a trial becomes `failed` when it has ended its driver this often: killed within a minute of the "
        "trial's start, with no other running. Whatever else ran when a driver was killed runs again",
    )
    save: Literal["front", "all", "none"] = Field(
        default="front", description="which networks are saved: those on the front, all, or none"
    )
    seed: Seed = Field(default=0, description="of the search and of all trials")

    @model_validator(mode="after")
    def _check(self) -> StudySection:
        for name, direction in self.objectives.items():
            if direction != DIRECTIONS[name]:
                raise ValueError(f"objectives: {name} must be {DIRECTIONS[name]}, not {direction}")
        for name in self.constraints:
            if name not in CONSTRAINABLE:
                raise ValueError(f"constraints: unknown column {name!r}; choices: {', '.join(CONSTRAINABLE)}")
        if self.screen and self.search == "grid":
            raise ValueError("screen: search: grid trains every combination; remove screen, or search otherwise")
        if self.screen and self.repeats == "stored":
            raise ValueError("screen: repeats: stored goes without it")
        if self.start_from and self.search == "grid":
            raise ValueError("start_from: search: grid tries every combination anyway; remove it, or search otherwise")
        if "scratch" in self.controls and self.save == "none":
            raise ValueError("controls: scratch retrains networks of the front, so save is front or all, not none")
        return self


class Resources(Section):
    """Resources of one trial."""

    cpus: Annotated[int, Field(ge=1)] = Field(default=1, description="cores of one trial")
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="GPUs of one trial; may be a fraction. `auto`: one where there are any"
    )
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="concurrent trials. `auto`: as many as fit"
    )
    niceness: Annotated[int, Field(ge=0, le=19)] = Field(
        default=0,
        description="how far the workers of a local run stand back for other programs, as with `nice`; at 15, beside "
        "as many busy processes as cores, they hardly advance",
    )


class Augment(Section):
    """Random changes to training images."""

    pad_crop: bool = Field(default=False, description="pad by an eighth of the height, and cut out the old size")
    flip: bool = Field(default=False, description="mirror every second image, left to right")
    resized_crop: bool = Field(
        default=False, description="cut out 25 to 100 % of the area and resize it; instead of `pad_crop`"
    )

    @model_validator(mode="after")
    def _check(self) -> Augment:
        if self.pad_crop and self.resized_crop:
            raise ValueError("pad_crop and resized_crop exclude each other; give only one of them")
        return self


class BaselineSection(Section):
    """The dense network that trials start from, its training and its data."""

    model: Annotated[str, one_of("model", MODELS, dotted=True, packaged=True)] = Field(
        default="resnet18",
        description="the network; also `torchvision/name`, `timm/name`, and a function of your own, "
        "`package.module:factory` or `path/file.py:factory`",
    )
    checkpoint: str | None = Field(
        default=None, description="a file with the trained weights (a state_dict); nothing is trained then"
    )
    init_from: str | None = Field(
        default=None,
        description="a file with weights to start from; a head of other classes is new, then all is trained",
    )
    weights: str | None = Field(
        default=None,
        description="weights of a `torchvision/` or `timm/` network to start from, such as `DEFAULT`; downloaded once",
    )
    init_missing: Literal["head", "any"] = Field(
        default="head", description="with `init_from` or `weights`: which layers may be missing or have other shapes"
    )
    freeze: Annotated[int, Field(ge=0)] = Field(
        default=0, description="with `init_from` or `weights`: first epochs in which only the new layers are trained"
    )
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        default=None,
        description="of the images given to the network, a number per channel in [0, 1]; left out: the training data's",
    )
    std: tuple[Annotated[float, Field(ge=1e-3, le=1)], ...] | None = Field(
        default=None, description="their standard deviation, likewise; goes with `mean`"
    )
    dataset: Annotated[str, one_of("dataset", DATASETS, dotted=True)] = Field(
        default="cifar10",
        description="the images; `imagefolder` needs `--data-dir`; also a function of your own, "
        "`package.module:function` or `path/file.py:function`",
    )
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        default=None,
        description="`imagefolder` and data sets of your own only, and required there: pixels to which images are "
        "resized",
    )
    resize: Literal["squeeze", "crop"] = Field(
        default="squeeze",
        description="how: `squeeze` changes proportions; `crop` resizes the shorter side and cuts out the centre",
    )
    labels: str | None = Field(
        default=None,
        description="`imagefolder` only: a CSV file in `--data-dir` with the images' names and classes, instead of a "
        "folder per class",
    )
    store: Literal["auto", "decoded", "jpeg"] = Field(
        default="auto",
        description="how resized images are kept in the cache: as pixels (`decoded`) or as `jpeg` of quality 95, "
        "smaller and slower to read; `auto`: as pixels up to 64 GiB",
    )
    train_samples: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="use only this many training images, stratified by class and the same for every trial"
    )
    validation: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="share of the training images set aside for validation, stratified by class"
    )
    epochs: Annotated[int, Field(ge=0)] = Field(default=30, description="epochs of the baseline's training")
    batch_size: Annotated[int, Field(ge=2)] = Field(default=128, description="of the baseline and of fine-tuning")
    lr: Annotated[float, Field(gt=0)] = Field(
        default=0.1, description="highest learning rate of the baseline's training"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=5e-4, description="of the baseline's training")
    label_smoothing: Fraction = Field(default=0.0, description="of the baseline's training")
    augment: bool | Augment | None = Field(
        default=None,
        description="random changes to training images, for fine-tuning too: `{pad_crop, flip, resized_crop}`. `true`: "
        "pad_crop and flip; `false`: none; left out: pad_crop, and flip for CIFAR (a mirrored digit is another one)",
    )
    bn_l1: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="L1 penalty on batch norm's scale (gamma), for network slimming"
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_augmentation(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("augment") is not None:
            return values
        dataset = values.get("dataset", cls.model_fields["dataset"].default)
        return {**values, "augment": {"pad_crop": True, "flip": any(dataset == name for name in MIRRORED)}}

    @property
    def augmentation(self) -> Augmentation:
        """What is changed at random about training images."""
        if isinstance(self.augment, Augment):
            return Augmentation(**self.augment.model_dump())
        return Augmentation(pad_crop=bool(self.augment), flip=bool(self.augment))

    @model_validator(mode="after")
    def _check(self) -> BaselineSection:
        resized = self.dataset == "imagefolder" or ":" in self.dataset
        if resized and self.image_size is None:
            raise ValueError(f"image_size: dataset {self.dataset} needs one, in pixels")
        if self.resize != "squeeze" and not resized:
            raise ValueError(f"resize: dataset {self.dataset} has images of one size, which are not resized")
        if self.labels and self.dataset != "imagefolder":
            raise ValueError(f"labels: goes with dataset imagefolder, not {self.dataset}")
        given = [key for key in ("checkpoint", "init_from", "weights") if getattr(self, key)]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other; give only one of them")
        if self.weights and not packages.holds(self.model):
            raise ValueError(f"weights: are of networks of packages ({packages.FORMS}), which {self.model} is not")
        if self.freeze and not (self.init_from or self.weights):
            raise ValueError("freeze: goes with init_from or weights, beside which there are new layers")
        if self.freeze > self.epochs:
            raise ValueError(f"freeze: {self.freeze} epochs of {self.epochs}; epochs includes them")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std: give both, a number per channel each")
        return self
