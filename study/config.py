"""The study file and the recipe as validated, frozen models. Everything wrong is said here, not in a worker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

import search_spaces
from models import MODELS
from pruning.criteria import CRITERIA
from pruning.cutting import GRANULARITIES
from pruning.schedules import SCHEDULES
from pruning.scopes import SCOPES
from study import space as spaces
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
SAMPLERS = ("tpe",)
PLANNED = {  # the vocabulary of a later version: refused by a message of its own, not as a typing error
    "scope": ["erk", "lamp", "uniform_plus", "sensitivity"],
    "granularity": ["n:m", "hybrid"],
    "sampler": ["nsga2", "nsga3", "gp", "qmc"],
}


class Refused(ValueError):
    """What the user asked for turned out, once the study had begun, not to be had; the message says what there is."""


def _one_of(what: str, choices: Iterable[str], *, dotted: bool = False) -> AfterValidator:
    """Accepts a name among `choices`, or (dotted) a user's own `package.module:function`."""
    listed = ", ".join(choices)

    def check(name: str) -> str:
        if name in choices or (dotted and re.fullmatch(r"[\w.]+:\w+", name)):
            return name
        if name in PLANNED.get(what, ()):
            raise ValueError(f"{what} {name!r} is not built yet; choices now: {listed}")
        raise ValueError(f"unknown {what} {name!r}; choices: {listed}" + dotted * ", or package.module:function")

    return AfterValidator(check)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Direction = Literal["max", "min"]


class StudySection(_Section):
    """What is searched for, and how long."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    objectives: Annotated[
        dict[Annotated[str, _one_of("objective", DIRECTIONS)], Direction], Field(min_length=1, max_length=3)
    ] = {"accuracy": "max", "sparsity": "max"}
    constraints: dict[str, Annotated[str, Field(pattern=r"^(<=|>=) *-?[0-9.]+([eE]-?[0-9]+)?$")]] = {}
    search: Literal["optuna", "random", "grid"] = "optuna"
    sampler: Annotated[str, _one_of("sampler", SAMPLERS)] = "tpe"
    repeats: Literal["new_seed", "stored"] = "new_seed"
    start_with: tuple[dict[str, Any], ...] = ()
    trials: Annotated[int, Field(ge=1)] | None = None
    hours: Annotated[float, Field(gt=0)] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1
    confirm_seeds: Annotated[int, Field(ge=0)] = 0
    controls: tuple[Literal["dense", "scratch"], ...] = ("dense",)
    stop_early: dict[str, int] | None = None
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
        unbuilt = {
            "objectives: latency_ms": "latency_ms" in self.objectives,
            "confirm_seeds": self.confirm_seeds,
            "controls: scratch": "scratch" in self.controls,
            "stop_early": self.stop_early,
        }
        for key, asked in unbuilt.items():
            if asked:
                raise ValueError(f"{key} is not built yet; leave it at its default")
        return self


class Resources(_Section):
    """What one trial gets."""

    cpus: Annotated[int, Field(ge=1)] = 1
    gpus: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"


class BaselineSection(_Section):
    """The dense network that trials start from, and the data it saw."""

    model: Annotated[str, _one_of("model", MODELS, dotted=True)] = "resnet18"
    checkpoint: str | None = None
    dataset: Annotated[str, _one_of("dataset", DATASETS)] = "cifar10"
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
        if self.bn_l1:
            raise ValueError("bn_l1 is not built yet; leave it at 0")
        if self.dataset == "imagefolder" and self.image_size is None:
            raise ValueError("image_size: dataset imagefolder needs one, in pixels")
        return self


class Recipe(_Section):
    """One point of the space, complete: what a trial does to the baseline."""

    criterion: Annotated[str, _one_of("criterion", CRITERIA, dotted=True)] = "magnitude_l1"
    granularity: Annotated[str, _one_of("granularity", GRANULARITIES)] = "weight"
    reduce: Literal["sum", "mean"] = "sum"
    scope: Annotated[str, _one_of("scope", SCOPES)] = "global"
    schedule: Annotated[str, _one_of("schedule", SCHEDULES)] = "one_shot"
    sparsity: Fraction
    sparsity_of: Literal["params", "channels", "macs"] = "params"
    initial_sparsity: Fraction = 0.0
    steps: Annotated[int, Field(ge=1, le=1000)] = 3
    finetune_epochs: Annotated[int, Field(ge=0)] = 4
    epochs_per_step: Annotated[int, Field(ge=0)] | None = None
    finetune_lr: Annotated[float, Field(gt=0)] = 0.01
    lr_schedule: Annotated[str, _one_of("lr_schedule", LR_SCHEDULES)] = "cosine"
    optimizer: Annotated[str, _one_of("optimizer", OPTIMIZERS)] = "sgd"
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    recalibrate: bool = True
    calibration_samples: Annotated[int, Field(ge=2)] = 512
    min_channels: Annotated[int, Field(ge=1)] = 1
    round_to: Annotated[int, Field(ge=1)] = 1
    protect: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _one_shot_has_one_cut(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("schedule", "one_shot") == "one_shot":
            return {**given, "steps": 1, "initial_sparsity": 0.0}
        return given

    @model_validator(mode="after")
    def _starts_below_its_end(self) -> Recipe:
        if self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity {self.initial_sparsity:g} is above the final sparsity {self.sparsity:g}"
            )
        return self

    @property
    def epochs(self) -> int:
        """Fine-tuning epochs in all."""
        return self.finetune_epochs if self.epochs_per_step is None else self.epochs_per_step * self.steps


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
DEFAULT_SPACE: dict[str, Any] = {
    "criterion": ["magnitude_l1", "random"],
    "granularity": ["weight", "channel"],
    "scope": ["global", "layer"],
    "schedule": ["one_shot", "iterative", "gradual"],
    "sparsity": {"low": 0.1, "high": 0.95},
    "steps": {"choices": [3, 5], "when": {"schedule": ["iterative", "gradual"]}},
    "finetune_lr": {"low": 1e-4, "high": 1e-1, "log": True},
}


def _read_space(space: Any) -> Any:
    """The axes of a study file, defaults added, every value checked and of its key's type."""
    if not isinstance(space, Mapping):
        raise ValueError(f"expected axes, found {space!r}")
    if unknown := [key for key in space if key not in Recipe.model_fields]:
        raise ValueError(f"{unknown[0]}: unknown key; choices: {', '.join(Recipe.model_fields)}")
    if "finetune_epochs" in space and space.get("epochs_per_step") is not None:
        raise ValueError("epochs_per_step: stands instead of finetune_epochs; give one of them")
    return {key: _read_axis(key, value) for key, value in {**DEFAULT_SPACE, **space}.items()}


def _read_axis(key: str, value: Any) -> spaces.Axis:
    try:
        axis = spaces.Axis.model_validate(spaces.as_axis(value, listed=key == "protect"))
    except ValidationError as error:
        raise ValueError(f"{key}: {_message(error.errors()[0], spaces.Axis.model_fields)}") from None
    if axis.choices is None and _adapter(key).json_schema().get("type") not in ("number", "integer"):
        raise ValueError(f"{key}: takes choices, not a range")
    parents = {name: name for name in axis.when if name in Recipe.model_fields}
    return axis.model_copy(
        update={
            "choices": axis.choices and tuple(_checked(key, v, key) for v in axis.choices),
            "low": None if axis.low is None else _checked(key, axis.low, key),
            "high": None if axis.high is None else _checked(key, axis.high, key),
            "when": axis.when
            | {name: tuple(_checked(name, v, f"{key}.when.{name}") for v in axis.when[name]) for name in parents},
        }
    )


class StudyFile(_Section):
    """A whole study file, resolved: every key has its value."""

    study: StudySection
    resources: Resources = Resources()
    baseline: BaselineSection = BaselineSection()
    space: Annotated[dict[str, spaces.Axis], BeforeValidator(_read_space)] = Field({}, validate_default=True)

    @model_validator(mode="after")
    def _is_meaningful(self) -> StudyFile:
        axes = self.axes
        for number, recipe in enumerate(self.study.start_with):
            self._check_start(number, recipe)
        lowest, start = _bounds(axes["sparsity"])[0], axes.get("initial_sparsity")
        if start is not None and _bounds(start)[1] > lowest:
            raise ValueError(
                f"space.initial_sparsity: up to {_bounds(start)[1]:g}, above the lowest sparsity {lowest:g}"
            )
        granularities = axes["granularity"].choices or ()
        for name in axes["criterion"].choices or ():
            form = CRITERIA.get(name)
            if form and form.weight is None and "weight" in granularities:
                raise ValueError(f"space.criterion: {name} values channels only; with it, granularity is channel")
        if self.study.search == "grid":
            next(spaces.grid(axes))
        return self

    def _check_start(self, number: int, recipe: Mapping[str, Any]) -> None:
        for key, value in recipe.items():
            where = f"study.start_with[{number}].{key}"
            if key not in self.space:
                raise ValueError(f"{where}: no axis of this space; choices: {', '.join(self.space)}")
            if not self.space[key].holds(_checked(key, value, where)):
                raise ValueError(f"{where}: {value!r} lies outside the space")

    @property
    def axes(self) -> dict[str, spaces.Axis]:
        """The axes, each after those its condition names."""
        return spaces.ordered(self.space)

    @property
    def trials(self) -> int:
        """Recipes to finish."""
        if self.study.trials is not None:
            return self.study.trials
        return (spaces.size(self.axes) or 0) if self.study.search == "grid" else 60

    def resolved(self) -> dict[str, Any]:
        """The file as a mapping with every key written out, ready for YAML."""
        content = self.model_dump(mode="json", exclude={"space"})
        content["study"]["trials"] = self.trials
        return content | {"space": {key: spaces.compact(axis) for key, axis in self.axes.items()}}


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    field = Recipe.model_fields[key]
    return TypeAdapter(Annotated[field.annotation, Field(), *field.metadata])  # type: ignore[arg-type]


def _checked(key: str, value: Any, where: str) -> Any:
    try:
        return _adapter(key).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{where}: {_message(error.errors()[0])}") from None


def _bounds(axis: spaces.Axis) -> tuple[float, float]:
    values = [float(v) for v in (axis.choices or (axis.low, axis.high)) if v is not None]
    return min(values), max(values)


def _message(error: Any, keys: Iterable[str] = ()) -> str:
    match error["type"]:
        case "value_error":
            return str(error["msg"]).removeprefix("Value error, ")
        case "extra_forbidden":
            return f"unknown key {error['loc'][-1]!r}; choices: {', '.join(keys)}"
        case "missing":
            return "required"
        case _:
            return f"{error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}"


def parse(content: Mapping[str, Any], origin: str) -> StudyFile:
    """The study file in `content`. Raises ValueError: one message with `origin`, the key and the choices."""
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        section = StudyFile.model_fields.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        known = section.annotation.model_fields if section else StudyFile.model_fields  # type: ignore[union-attr]
        raise ValueError(f"{origin}: {where}{': ' if where else ''}{_message(first, known)}") from None


def read_study(space: str, settings: Iterable[str] = ()) -> StudyFile:
    """The study file that `space` names, with each `a.b=value` of `settings` put in place. Raises ValueError."""
    path = search_spaces.find(space)
    return parse(search_spaces.override(search_spaces.read(path), settings), str(path))
