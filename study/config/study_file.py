"""The whole study file: its sections and the space of recipes, fully validated before any worker starts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

import search_spaces
from study.config import axes as spaces
from study.config.fields import RefusedError, Section
from study.config.recipe import EACH, Recipe, implied_by, sketch
from study.config.sections import BaselineSection, Resources, StudySection

__all__ = ["EACH", "BaselineSection", "Recipe", "RefusedError", "Resources", "StudyFile", "parse", "read_study"]

LARGEST = 10**12
MOST_POINTS = 50_000  # of a space, where all are looked at

# Sets of axes with incompatible combinations of values.
_INTERDEPENDENT = (
    ("criterion", "granularity", "scope", "schedule", "sparsity", "sparsity_of", "layer", "group"),
    ("granularity", "finetune_epochs", "epochs_per_step", "sparse_epochs", "distil"),
)
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
    """The axes of a study file with defaults added, every value validated and converted to its key's type."""
    if not isinstance(space, Mapping):
        raise ValueError(f"expected axes, found {space!r}")
    if unknown := [key for key in space if key not in Recipe.model_fields]:
        raise ValueError(f"{unknown[0]}: unknown key; choices: {', '.join(Recipe.model_fields)}")
    if "finetune_epochs" in space and space.get("epochs_per_step") is not None:
        raise ValueError("epochs_per_step: replaces finetune_epochs; give only one of them")
    return _restrict_implied({key: _read_axis(key, value) for key, value in {**DEFAULT_SPACE, **space}.items()})


def _restrict_implied(axes: dict[str, spaces.Axis]) -> dict[str, spaces.Axis]:
    """The axes, with those that n:m fixes (sparsity, scope, ...) restricted to the other granularities.

    Left as they are, for `Recipe` to validate: axes with a single value and axes already conditional on granularity.
    """
    implied = {g: implied_by(g) for g in axes["granularity"].choices or ()}
    others = tuple(g for g, keys in implied.items() if not keys)
    for key in {key for keys in implied.values() for key in keys if key in axes}:
        axis = axes[key]
        if "granularity" in axis.when or (axis.choices and len(axis.choices) == 1):
            continue
        values = {keys[key] for keys in implied.values() if keys}
        if others:
            axes[key] = axis.model_copy(update={"when": axis.when | {"granularity": others}})
        elif len(values) == 1:
            axes[key] = spaces.Axis(choices=tuple(values))
        else:
            del axes[key]
    return axes


def _read_axis(key: str, value: Any) -> spaces.Axis:
    try:
        axis = spaces.Axis.model_validate(spaces.as_axis(value, listed=key == "protect"))
    except ValidationError as error:
        raise ValueError(f"{key}: {_message(error.errors()[0], spaces.Axis.model_fields)}") from None
    if axis.choices is None and not _is_number(key):
        raise ValueError(f"{key}: takes choices, not a range")
    if axis.low is not None and isinstance(_validated(key, axis.low, key), int) and (axis.step or 1) % 1:
        raise ValueError(f"{key}: takes whole numbers, so step is one too, not {axis.step:g}")
    parents = {name: name for name in axis.when if name in Recipe.model_fields}
    return axis.model_copy(
        update={
            "choices": axis.choices and tuple(_validated(key, v, key) for v in axis.choices),
            "low": None if axis.low is None else _validated(key, axis.low, key),
            "high": None if axis.high is None else _validated(key, axis.high, key),
            "when": axis.when
            | {name: tuple(_validated(name, v, f"{key}.when.{name}") for v in axis.when[name]) for name in parents},
        }
    )


class StudyFile(Section):
    """A resolved study file: every key has a value."""

    study: StudySection
    resources: Resources = Resources()
    baseline: BaselineSection = BaselineSection()
    space: Annotated[dict[str, spaces.Axis], BeforeValidator(_read_space)] = Field({}, validate_default=True)

    @model_validator(mode="after")
    def _check(self) -> StudyFile:
        axes = self.axes
        for number, recipe in enumerate(self.study.start_with):
            self._check_start(number, recipe)
        final, start = axes.get("sparsity"), axes.get("initial_sparsity")
        if final and start and _bounds(start)[1] > _bounds(final)[0]:
            raise ValueError(
                f"space.initial_sparsity: up to {_bounds(start)[1]:g}, above the lowest sparsity {_bounds(final)[0]:g}"
            )
        self._check_pairs()
        if self.study.search == "grid":
            next(spaces.grid(axes))
            if (spaces.size(axes) or 0) > spaces.COUNTED:
                raise ValueError(f"space: a grid of more than {spaces.COUNTED:,} recipes")
        return self

    def _check_pairs(self) -> None:
        """Validate every combination of the axes with incompatible values as a recipe."""
        for names in _INTERDEPENDENT:
            self._check_combinations(names)

    def _check_combinations(self, names: Sequence[str]) -> None:
        axes = spaces.with_parents(self.axes, names)
        finite = {k: a if a.values() else a.model_copy(update={"choices": (a.low,)}) for k, a in axes.items()}
        if axis := axes.get("sparsity"):
            finite["sparsity"] = axis.model_copy(update={"choices": _bounds(axis)})  # the ends cover all between
        for number, point in enumerate(spaces.grid(finite)):
            if number == MOST_POINTS:
                raise ValueError(f"space: more than {MOST_POINTS:,} combinations of {', '.join(finite)}")
            try:
                sketch(point)
            except ValidationError as error:
                raise ValueError(
                    f"space: {_message(error.errors()[0])}; use `when` to separate incompatible values"
                ) from None

    def values(self, key: str) -> tuple[Any, ...]:
        """Possible values of a recipe key: its choices, the ends of its range, or its default."""
        axis = self.space.get(key)
        if axis is None:
            return (Recipe.model_fields[key].default,)
        return axis.choices or (axis.low, axis.high)

    def with_parts(self, layers: Sequence[str], groups: Sequence[str]) -> StudyFile:
        """A copy in which `each` stands for all these layers or groups. Raises ValueError for unknown names."""
        space = dict(self.space)
        for key, names in (("layer", layers), ("group", groups)):
            if key not in space:
                continue
            choices = tuple(names) if space[key].choices == (EACH,) else space[key].choices or ()
            if unknown := [name for name in choices if name is not None and name not in names]:
                raise ValueError(f"space.{key}: there is no {key} {unknown[0]!r}; choices: {', '.join(names)}")
            space[key] = space[key].model_copy(update={"choices": choices})
        return self.model_copy(update={"space": space})

    def _check_start(self, number: int, recipe: Mapping[str, Any]) -> None:
        for key, value in recipe.items():
            where = f"study.start_with[{number}].{key}"
            if key not in self.space:
                raise ValueError(f"{where}: not an axis of this space; choices: {', '.join(self.space)}")
            if not self.space[key].holds(_validated(key, value, where)):
                raise ValueError(f"{where}: {value!r} is outside the space")

    @property
    def axes(self) -> dict[str, spaces.Axis]:
        """The axes in dependency order: each after those its `when` names."""
        return spaces.ordered(self.space)

    @property
    def trials(self) -> int:
        """Number of recipes to finish."""
        if self.study.trials is not None:
            return self.study.trials
        return (spaces.size(self.axes) or 0) if self.study.search == "grid" else 60

    def resolved(self) -> dict[str, Any]:
        """The file as a mapping with every key, ready for YAML."""
        content = self.model_dump(mode="json", exclude={"space"})
        content["study"]["trials"] = self.trials
        return content | {"space": {key: spaces.compact(axis) for key, axis in self.axes.items()}}


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    field = Recipe.model_fields[key]
    return TypeAdapter(Annotated[field.annotation, Field(), *field.metadata])  # type: ignore[arg-type]


def _is_number(key: str) -> bool:
    schema = _adapter(key).json_schema()
    return any(kind.get("type") in ("number", "integer") for kind in schema.get("anyOf", [schema]))


def _validated(key: str, value: Any, where: str) -> Any:
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
    """Validate `content`. Raises ValueError with one message that names `origin`, the key and the choices."""
    if huge := next(_huge(content, ""), None):
        raise ValueError(f"{origin}: {huge}: beyond {LARGEST:.0e}, the largest number of a study file")
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]")
        section = StudyFile.model_fields.get(str(first["loc"][0])) if len(first["loc"]) > 1 else None
        known = section.annotation.model_fields if section else StudyFile.model_fields  # type: ignore[union-attr]
        raise ValueError(f"{origin}: {where}{': ' if where else ''}{_message(first, known)}") from None


def _huge(content: Any, where: str) -> Iterator[str]:
    """The keys of numbers that cannot be meant, which would overflow somewhere."""
    if isinstance(content, (int, float)) and LARGEST < abs(content) < float("inf"):
        yield where
    inner = dict(enumerate(content)) if isinstance(content, (list, tuple)) else content
    for key, value in inner.items() if isinstance(inner, Mapping) else ():
        yield from _huge(value, f"{where}.{key}".lstrip("."))


def read_study(space: str, settings: Iterable[str] = ()) -> StudyFile:
    """Read the study file named `space` and apply each `a.b=value` of `settings`. Raises ValueError for wrong input."""
    path = search_spaces.find(space)
    return parse(search_spaces.override(search_spaces.read(path), settings), str(path))
