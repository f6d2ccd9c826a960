"""Axes, conditions, grids and draws."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from study.config import axes as space
from study.config.axes import Axis


def axes(**given: Any) -> Any:
    return space.ordered({key: Axis.model_validate(space.as_axis(value)) for key, value in given.items()})


def test_grid_is_the_product_and_conditions_take_axes_away() -> None:
    points = axes(
        schedule=["one_shot", "gradual"],
        steps={"choices": [3, 5], "when": {"schedule": "gradual"}},
        sparsity={"low": 0.1, "high": 0.3, "step": 0.1},
    )
    assert list(space.grid(points))[:4] == [
        {"schedule": "one_shot", "sparsity": 0.1},
        {"schedule": "one_shot", "sparsity": 0.2},
        {"schedule": "one_shot", "sparsity": 0.3},
        {"schedule": "gradual", "sparsity": 0.1, "steps": 3},
    ]
    assert space.size(points) == 3 + 3 * 2


def test_size_of_a_range_is_unknown_and_grid_refuses_it() -> None:
    points = axes(lr={"low": 1.0, "high": 2.0})
    assert space.size(points) is None
    with pytest.raises(ValueError, match=r"space\.lr: search grid needs a step"):
        list(space.grid(points))


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 2, "high": 1},
        {"low": 1},
        {"choices": []},
        {"choices": [1], "low": 1, "high": 2},
        {"low": 0, "high": 1, "log": True},
        {"low": 0, "high": 1, "step": 0},
        {"lower": 1, "high": 2},
    ],
)
def test_meaningless_axes_are_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        Axis.model_validate(wrong)


def test_axes_follow_those_they_depend_on_and_circles_are_refused() -> None:
    when_a, when_b = {"choices": [1, 2], "when": {"a": 1}}, {"choices": [1, 2], "when": {"b": 1}}
    assert list(axes(c=when_b, b=when_a, a=[1, 2])) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="circular condition"):
        axes(a=when_b, b=when_a)


def test_axes_come_with_all_that_their_conditions_name() -> None:
    points = axes(a=[1, 2], b={"choices": [1], "when": {"a": 1}}, c={"choices": [1], "when": {"b": 1}}, d=[1])
    assert list(space.with_parents(points, ["c", "nothing"])) == ["a", "b", "c"]
    assert list(space.with_parents(points, ["d", "a"])) == ["d", "a"]


@given(st.integers(0, 2**32), st.floats(1e-6, 1), st.floats(1, 1e3), st.booleans())
def test_draws_lie_inside_and_repeat_by_seed(seed: Any, low: Any, high: Any, log: Any) -> None:
    points = axes(x={"low": low, "high": high, "log": log}, kind=["a", "b"])
    drawn = space.draw(points, space.picker(seed))
    assert drawn == space.draw(points, space.picker(seed))
    assert low * (1 - 1e-9) <= drawn["x"] <= high * (1 + 1e-9)
    assert drawn["kind"] in ("a", "b")


def test_log_draws_are_uniform_in_the_exponent() -> None:
    points = axes(x={"low": 1e-4, "high": 1.0, "log": True})
    exponents = [np.log10(space.draw(points, space.picker(seed))["x"]) for seed in range(2000)]
    assert np.mean(exponents) == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("value", [3, [1, 2], {"low": 1.0, "high": 2.0}, {"choices": [3, 5], "when": {"a": [1]}}])
def test_compact_is_read_back_as_the_same_axis(value: Any) -> None:
    axis = Axis.model_validate(space.as_axis(value))
    assert Axis.model_validate(space.as_axis(space.compact(axis))) == axis
