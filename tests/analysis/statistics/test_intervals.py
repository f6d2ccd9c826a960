"""Intervals against scipy's own and by simulation; levels beside each other, worked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.intervals import against, difference_interval, matched, mean_interval, verdict

SAMPLES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(SAMPLES)
@settings(deadline=None)
def test_the_interval_of_a_mean_is_scipys(values: list[float]) -> None:
    found = mean_interval([*values, np.nan])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values))
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(SAMPLES, SAMPLES)
@settings(deadline=None)
def test_the_interval_of_a_difference_is_scipys(one: list[float], other: list[float]) -> None:
    found = difference_interval(one, other)
    if np.ptp(one) < 1e-9 or np.ptp(other) < 1e-9:  # where scipy's own loses all digits
        assert found.low <= found.value <= found.high
        return
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert found[1:] == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-9)


def test_one_run_has_no_interval() -> None:
    assert mean_interval([0.5])[0] == 0.5
    assert np.isnan(mean_interval([0.5])[1:]).all()
    assert np.isnan(mean_interval([])).all()
    assert difference_interval([0.5], [0.25, 0.25])[0] == 0.25
    assert np.isnan(difference_interval([0.5], [0.25, 0.25])[1:]).all()
    assert np.isnan(difference_interval([], [1.0])).all()
    assert difference_interval([0.5, 0.5], [0.25, 0.25]) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_nineteen_of_twenty_intervals_hold_the_mean(count: int) -> None:
    random = np.random.default_rng(count)
    found = [mean_interval(random.normal(0.7, 0.02, count)) for _ in range(2000)]
    held = np.mean([low <= 0.7 <= high for _, low, high in found])
    assert held == pytest.approx(0.95, abs=0.015)  # three standard errors of 2000 draws


@pytest.mark.parametrize(("sizes", "spreads"), [((3, 3), (0.01, 0.01)), ((5, 5), (0.01, 0.05)), ((4, 8), (0.05, 0.01))])
def test_intervals_of_differences_hold_theirs(sizes: tuple[int, int], spreads: tuple[float, float]) -> None:
    random = np.random.default_rng(0)
    draws = [
        difference_interval(random.normal(0.9, spreads[0], sizes[0]), random.normal(0.7, spreads[1], sizes[1]))
        for _ in range(2000)
    ]
    held = np.mean([low <= 0.2 <= high for _, low, high in draws])
    assert 0.935 <= held <= 0.985  # Welch's is a little too wide for few runs, never much too narrow


ROWS = pd.DataFrame(
    [
        ("random", 0.5, 0.60), ("random", 0.5, 0.62), ("taylor", 0.5, 0.80), ("taylor", 0.5, 0.82),
        ("l1", 0.5, 0.60), ("l1", 0.5, np.nan), ("random", 0.9, 0.2), ("taylor", 0.9, 0.1), ("l1", 0.7, 0.9),
    ],
    columns=["criterion", "requested_sparsity", "test_accuracy"],
).assign(trial_id=list("abcdefghi"))  # fmt: skip


def test_levels_beside_a_reference_by_hand() -> None:
    frame = against(ROWS, "criterion", "random", ["requested_sparsity"])
    assert frame["criterion"].tolist() == ["taylor", "random", "l1", "l1", "random", "taylor"]
    assert frame["n"].tolist() == [2, 2, 1, 1, 1, 1]
    assert frame["mean"].tolist() == pytest.approx([0.81, 0.61, 0.60, 0.9, 0.2, 0.1])
    assert frame["std"].tolist()[:2] == pytest.approx([0.01 * 2**0.5] * 2)
    gains = frame["difference"].tolist()
    assert gains[0] == pytest.approx(0.2)
    assert gains[2] == pytest.approx(-0.01)
    assert gains[5] == pytest.approx(-0.1)
    assert np.isnan([gains[1], gains[3], gains[4]]).all()  # the reference itself, and where it did not run
    half = 4.302653 * (2 * 0.0002 / 2) ** 0.5  # t of two degrees of freedom
    assert frame.loc[0, ["low", "high"]].tolist() == pytest.approx([0.2 - half, 0.2 + half])
    assert frame["clear"].fillna("").tolist() == ["yes", "", "one run", "", "", "one run"]


def test_what_has_no_rival_at_its_sparsity_is_not_matched() -> None:
    rows = ROWS.assign(requested_sparsity=ROWS["requested_sparsity"] + 1e-9)
    kept = matched(rows, "criterion", ["requested_sparsity"])
    assert sorted(kept["requested_sparsity"].unique()) == [0.5, 0.9]
    assert matched(rows[:0], "criterion", ["requested_sparsity"]).empty


def test_an_interval_in_words() -> None:
    nan = float("nan")
    assert [verdict(1, 0.5, 1.5), verdict(1, -0.5, 2.5), verdict(-1, -2, -0.1)] == ["yes", "not clear", "worse"]
    assert [verdict(1, nan, nan), verdict(nan, nan, nan)] == ["one run", None]
