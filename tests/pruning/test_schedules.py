"""Schedules: published cut points, and the properties every schedule has."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning import schedules
from pruning.schedules import SCHEDULES, cut_points

ends = st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)).map(sorted)
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


def test_the_examples_in_the_docstrings() -> None:
    results = doctest.testmod(schedules, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.attempted >= 4
    assert results.failed == 0


@pytest.mark.parametrize(
    ("schedule", "final", "steps", "initial", "points"),
    [
        ("one_shot", 0.9, 1, 0.0, [0.9]),
        ("one_shot", 0.9, 5, 0.1, [0.9]),
        ("iterative", 0.5, 5, 0.0, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("iterative", 0.5, 5, 0.1, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("iterative", 0.9, 3, 0.0, [0.3, 0.6, 0.9]),
        ("iterative", 0.5, 1, 0.1, [0.5]),
        ("gradual", 0.8, 2, 0.0, [0.7, 0.8]),
        ("gradual", 0.9, 4, 0.0, [0.5203125, 0.7875, 0.8859375, 0.9]),
        ("gradual", 0.5, 3, 0.1, [0.1, 0.45, 0.5]),
        ("iterative", 0.0, 2, 0.0, [0.0, 0.0]),
    ],
)
def test_cut_points_by_hand(schedule: str, final: float, steps: int, initial: float, points: list[float]) -> None:
    assert cut_points(schedule, final, steps, initial) == pytest.approx(points, abs=1e-12)


@each_schedule
@given(ends=ends, steps=st.integers(1, 40))
def test_cuts_never_shrink_and_end_exactly_at_the_target(schedule: str, ends: list[float], steps: int) -> None:
    initial, final = ends
    points = cut_points(schedule, final, steps, initial)
    assert len(points) == (1 if schedule == "one_shot" else steps)
    assert points[-1] == final
    assert points == sorted(points)
    assert all(initial - 1e-12 <= point for point in points)
    if len(points) > 1 and initial:
        assert points[0] == pytest.approx(initial)


@each_schedule
@given(ends=ends, progress=st.floats(0, 1))
def test_a_schedule_stays_between_its_ends(schedule: str, ends: list[float], progress: float) -> None:
    initial, final = ends
    sparsity = SCHEDULES[schedule]
    assert initial - 1e-12 <= sparsity(progress, final, initial) <= final + 1e-12
    assert sparsity(1.0, final, initial) == pytest.approx(final)


def test_gradual_is_ahead_of_iterative_and_flat_at_the_end() -> None:
    for progress in (0.1, 0.5, 0.9):
        assert schedules.gradual(progress, 0.9) > schedules.iterative(progress, 0.9)
    last_tenth = schedules.gradual(1.0, 0.9) - schedules.gradual(0.9, 0.9)
    assert last_tenth == pytest.approx(0.9 * 0.1**3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 0.5, 3), "unknown schedule 'cosine'; choose from one_shot, iterative, gradual"),
        (("gradual", 0.5, 0), "steps must be at least 1"),
        (("gradual", 1.0, 3), "0 <= initial <= final < 1"),
        (("one_shot", 0.5, 1, 0.6), "0 <= initial <= final < 1"),
        (("iterative", float("nan"), 3), "0 <= initial <= final < 1"),
    ],
)
def test_bad_schedules_are_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_points(*arguments)


@each_schedule
@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_out_of_range(schedule: str, progress: float) -> None:
    with pytest.raises(ValueError, match="progress"):
        SCHEDULES[schedule](progress, 0.5)
