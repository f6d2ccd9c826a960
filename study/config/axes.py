"""The space of recipes: each axis is a constant, a list of choices or a range, optionally conditional (`when`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

Axes = Mapping[str, "Axis"]
MOST_VALUES = 10_000  # of a range with a step
COUNTED = 100_000  # points of a space


class Axis(BaseModel):
    """One key of a recipe: `choices`, or a range from `low` to `high`; active only if `when` holds.

    `when` maps other keys to the values that activate this axis.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    choices: tuple[Any, ...] | None = None
    low: float | None = None  # int for integer keys of the recipe
    high: float | None = None
    log: bool = False
    step: float | None = None
    when: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _check(self) -> Axis:
        if self.choices is not None:
            if (self.low, self.high, self.step) != (None, None, None):
                raise ValueError("give either choices or low and high, not both")
            if not self.choices:
                raise ValueError("an empty list of choices")
        elif self.low is None or self.high is None:
            raise ValueError("a range needs both low and high")
        elif self.low > self.high:
            raise ValueError(f"an empty range: low {self.low:g} is above high {self.high:g}")
        elif self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range needs low > 0 and no step")
        elif self.step is not None and not 0 < self.step < np.inf:
            raise ValueError(f"step must be above 0, not {self.step:g}")
        elif self.step is not None and (self.high - self.low) / self.step > MOST_VALUES:
            raise ValueError(f"step {self.step:g} makes more than {MOST_VALUES:,} values")
        return self

    def values(self) -> tuple[Any, ...] | None:
        """All values, or None for a range without step."""
        if self.choices is not None:
            return self.choices
        if self.step is None:
            return None
        assert self.low is not None
        assert self.high is not None
        count = int(np.floor((self.high - self.low) / self.step + 1e-9)) + 1
        return tuple(round(self.low + i * self.step, 12) for i in range(count))

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of the choices or within the range."""
        if self.choices is not None:
            return value in self.choices
        return bool(self.low <= value <= self.high)


def as_axis(value: Any, listed: bool = False) -> Any:
    """Input for `Axis.model_validate` from a value in the study file.

    listed: the key's type is itself a list of strings (`protect`), so a list of strings is one constant.
    """
    if isinstance(value, Mapping):
        given = dict(value)
        if "when" in given and isinstance(given["when"], Mapping):
            given["when"] = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in given["when"].items()}
        return given
    if isinstance(value, list) and not (listed and all(isinstance(item, str) for item in value)):
        return {"choices": value}
    return {"choices": [value]}


def compact(axis: Axis) -> Any:
    """The shortest notation of an axis for a study file; `as_axis` parses it back."""
    given = axis.model_dump(mode="json", exclude_defaults=True)
    if list(given) != ["choices"]:
        return given
    return given["choices"][0] if len(given["choices"]) == 1 else given["choices"]


def ordered(axes: Axes) -> dict[str, Axis]:
    """The axes in dependency order: parents named in `when` first. Raises ValueError for unknown keys or cycles."""
    done: dict[str, Axis] = {}
    waiting = dict(axes)
    while waiting:
        ready = [key for key, axis in waiting.items() if all(parent in done for parent in axis.when)]
        if not ready:
            key, axis = next(iter(waiting.items()))
            parents = ", ".join(axis.when)
            raise ValueError(f"{key}: its `when` names {parents}: unknown key or circular condition")
        done |= {key: waiting.pop(key) for key in ready}
    return done


def with_parents(axes: Axes, keys: Iterable[str]) -> dict[str, Axis]:
    """The axes of those `keys` that exist, plus all their `when` ancestors, in dependency order (see `ordered`)."""
    chosen = {key: axes[key] for key in keys if key in axes}
    while parents := {parent for axis in chosen.values() for parent in axis.when} - set(chosen):
        chosen |= {key: axes[key] for key in parents}
    return ordered(chosen)


def draw(axes: Axes, pick: Callable[[str, Axis], Any]) -> dict[str, Any]:
    """A point of the space: `pick(key, axis)` for every active axis.

    axes: in dependency order, see `ordered`. Axes with a single choice are not passed to `pick`.
    """
    chosen: dict[str, Any] = {}
    for key, axis in axes.items():
        if _active(axis, chosen):
            chosen[key] = axis.choices[0] if axis.choices and len(axis.choices) == 1 else pick(key, axis)
    return chosen


def picker(seed: int) -> Callable[[str, Axis], Any]:
    """A `pick` function for `draw`: uniform random, or log-uniform for `log` axes, seeded by `seed`."""
    generator = np.random.default_rng(seed)

    def pick(key: str, axis: Axis) -> Any:
        if (values := axis.values()) is not None:
            return values[generator.integers(len(values))]
        low, high = np.array([axis.low, axis.high], float)
        drawn = float(
            np.exp(generator.uniform(np.log(low), np.log(high))) if axis.log else generator.uniform(low, high)
        )
        return round(drawn) if isinstance(axis.low, int) else drawn

    return pick


def grid(axes: Axes) -> Iterator[dict[str, Any]]:
    """Every point of the space; the last axis varies fastest. Raises ValueError for a range without step."""

    def expand(keys: list[str], chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if not keys:
            yield chosen
            return
        key, *rest = keys
        values = axes[key].values()
        if values is None:
            raise ValueError(f"space.{key}: search grid needs a step for a range")
        for value in values if _active(axes[key], chosen) else ():
            yield from expand(rest, {**chosen, key: value})
        if not _active(axes[key], chosen):
            yield from expand(rest, chosen)

    return expand(list(axes), {})


def size(axes: Axes) -> int | None:
    """Number of points in the space, counted up to COUNTED + 1; None if it has a range without step."""
    if any(axis.values() is None for axis in axes.values()):
        return None
    return sum(1 for _ in islice(grid(axes), COUNTED + 1))


def label(value: Any) -> Any:
    """A choice as a value that Optuna's categorical distribution accepts: lists become JSON text."""
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def _active(axis: Axis, chosen: Mapping[str, Any]) -> bool:
    return all(chosen.get(parent) in allowed for parent, allowed in axis.when.items())
