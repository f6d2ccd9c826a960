"""Answers to single test images: read, and what the draw of the images adds to intervals, by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.results_folder import Results
from analysis.statistics import tested_images
from analysis.statistics.intervals import against, difference_interval, mean_interval, p_value
from study.results import files

IMAGES = 400


def results(folder: Path, **answers: np.ndarray) -> Results:
    for name, correct in answers.items():
        files.write_correct(folder, name, correct)
    return Results(folder, pd.DataFrame(), pd.DataFrame(), {}, {})


def test_shares_are_those_of_the_files(tmp_path: Path) -> None:
    one, other = np.array([True, True, False, False, True]), np.array([True, False, False, False, True])
    found = results(tmp_path, one=one, other=other, longer=np.ones(6, dtype=bool))
    assert tested_images.shares(found, ["one"]).tolist() == [1, 1, 0, 0, 1]
    assert tested_images.shares(found, ["one", "other"]).tolist() == [1, 0.5, 0, 0, 1]
    assert tested_images.shares(found, ["one", "missing"]) is None
    assert tested_images.shares(found, ["one", "longer"]) is None
    assert tested_images.shares(found, []) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no archive", b"\x80\x04N."])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    found = results(tmp_path, one=np.ones(3, dtype=bool))
    (tmp_path / "correct" / "one.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"correct/one\.npz: is damaged"):
        tested_images.shares(found, ["one"])


def test_the_variance_of_a_difference_is_mcnemars(tmp_path: Path) -> None:
    """Of two networks, b images that only the first gets right and c only the second: (b + c - (b - c)^2 / n) / n^2."""
    one, other = np.arange(100) < 60, (np.arange(100) >= 20) & (np.arange(100) < 65)
    b, c, n = 20, 5, 100
    gap = tested_images.difference(one.astype(float), other.astype(float))
    assert tested_images.variance(gap) == pytest.approx((b + c - (b - c) ** 2 / n) / n**2 * n / (n - 1))
    assert tested_images.of_difference(results(tmp_path, a=one, b=other))(["a"], ["b"]) == tested_images.variance(gap)
    assert tested_images.variance(None) == 0
    assert tested_images.difference(one.astype(float), None) is None


SPREAD = 0.1  # of the skills of runs


def draw(random: np.random.Generator, easy: np.ndarray, skills: np.ndarray) -> np.ndarray:
    """Answers of networks of these skills to images of this easiness."""
    return random.random((len(skills), len(easy))) < stats.norm.cdf(easy + skills[:, None])


@pytest.mark.parametrize("runs", [2, 4])
def test_nineteen_of_twenty_intervals_hold_what_new_runs_would_show_on_new_images(runs: int) -> None:
    random = np.random.default_rng(runs)
    truth = stats.norm.cdf(0.7 / np.sqrt(2 + SPREAD**2)) - stats.norm.cdf(1 / np.sqrt(2))  # easiness is N(1, 1)
    held: list[bool] = []
    without: list[bool] = []
    for _ in range(600):
        easy = random.normal(1, 1, IMAGES)
        cut, dense = draw(random, easy, random.normal(-0.3, SPREAD, runs)), draw(random, easy, np.zeros(1))
        images = tested_images.variance(cut.mean(0) - dense.mean(0))
        losses = cut.mean(1) - dense.mean()
        for found, extra in ((held, images), (without, 0.0)):
            interval = mean_interval(losses, extra)
            found.append(interval.low <= truth <= interval.high)
    assert np.mean(held) > 0.925  # 0.95, less three standard errors of 600 draws
    assert np.mean(without) < np.mean(held)


def test_without_spread_over_runs_the_images_remain() -> None:
    """With equal runs what is left is the normal interval over images; the p value is that of the z test."""
    found = mean_interval([0.02, 0.02], 0.01**2)
    assert found[1:] == pytest.approx((0.02 - 1.959964 * 0.01, 0.02 + 1.959964 * 0.01))
    assert p_value([0.02, 0.02], 0.01**2) == pytest.approx(2 * stats.norm.sf(2))
    gap = difference_interval([0.5, 0.5], [0.4, 0.4], 0.01**2)
    assert gap[1:] == pytest.approx((0.1 - 1.959964 * 0.01, 0.1 + 1.959964 * 0.01))


def test_without_images_the_p_value_is_scipys_and_with_them_the_intervals() -> None:
    values = [0.03, 0.01, 0.04, 0.02]
    assert p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    p = p_value(values, 0.008**2)
    low = mean_interval(values, 0.008**2, confidence=1 - p).low
    assert low == pytest.approx(0, abs=1e-9)
    assert p > p_value(values)
    assert p_value([0.0, 0.0]) == 1
    assert p_value([0.5, 0.5]) == 0
    assert np.isnan(p_value([0.5]))


def test_levels_are_compared_by_their_own_trials() -> None:
    rows = pd.DataFrame(
        {
            "trial_id": ["a", "b", "c", "d"], "criterion": ["random", "random", "l1", "l1"], "cell": 1,
            "test_accuracy": [0.5, 0.5, 0.7, 0.7],
        }
    )  # fmt: skip
    asked = []

    def images(one: list[str], other: list[str]) -> float:
        asked.append((one, other))
        return 0.1**2

    frame = against(rows, "criterion", "random", ["cell"], images)
    assert asked == [(["c", "d"], ["a", "b"])]
    assert frame.set_index("criterion").loc["l1", "low"] == pytest.approx(0.2 - 1.959964 * 0.1)
