"""Ranks of criteria: by hand, against scipy's test and Demsar's table, and which bars join what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import read
from analysis.comparisons.ranks import cliques, figure, rank, ranks, table
from analysis.presentation import style
from tests.questions import criteria, grid
from tests.results_folder import make


def test_ranks_by_hand() -> None:
    scores = pd.DataFrame({"a": [0.9, 0.8, 0.7], "b": [0.8, 0.8, 0.9], "c": [0.1, 0.2, 0.3]})
    found = rank(scores)
    assert found.mean.to_dict() == pytest.approx({"a": (1 + 1.5 + 2) / 3, "b": (2 + 1.5 + 1) / 3, "c": 3})
    assert found.cells == 3


@pytest.mark.parametrize(("count", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_demsars(count: int, q: float) -> None:
    scores = pd.DataFrame(np.random.default_rng(0).random((14, count)))
    assert rank(scores).critical == pytest.approx(q * (count * (count + 1) / (6 * 14)) ** 0.5, rel=1e-3)


def test_criteria_that_are_alike_are_rarely_told_apart() -> None:
    random = np.random.default_rng(0)
    found = [rank(pd.DataFrame(random.random((20, 4)))) for _ in range(400)]
    apart = np.mean([np.ptp(each.mean) > each.critical for each in found])
    assert apart == pytest.approx(0.05, abs=0.035)
    assert np.mean([each.p < 0.05 for each in found]) == pytest.approx(0.05, abs=0.035)


def test_too_little_to_rank_is_named() -> None:
    with pytest.raises(ValueError, match="ranks of 2 criteria in 5 cells"):
        rank(pd.DataFrame(np.eye(5)[:, :2]))


@pytest.mark.parametrize(
    ("values", "critical", "expected"),
    [
        ([1, 2, 3, 4], 1.0, [(0, 1), (1, 2), (2, 3)]), ([1, 2, 3, 4], 3.0, [(0, 3)]), ([1, 2, 3, 4], 0.5, []),
        ([1, 1.2, 1.4, 5, 5.1], 0.5, [(0, 2), (3, 4)]),
    ],
)  # fmt: skip
def test_bars_join_what_is_not_told_apart(values: list, critical: float, expected: list) -> None:
    assert cliques(np.array(values, dtype=float), critical) == expected


def test_every_granularity_has_its_ranks(tmp_path: Path) -> None:
    results = read(criteria(tmp_path / "study", seeds=2))
    found = ranks(results)
    assert list(found) == ["weight", "channel"]
    assert found["weight"].cells == 6  # two scopes at three sparsities
    frame, caption = table(results)
    assert frame.groupby("granularity")["mean_rank"].sum().eq(6).all()  # of three criteria: 1 + 2 + 3
    assert frame["behind"].eq(0).sum() == 2
    assert "Friedman" in caption
    drawn = figure(results)
    assert [ax.get_title("left") for ax in drawn.axes] == ["weight: 6 cells", "channel: 6 cells"]


def test_a_criterion_that_lacks_most_cells_does_not_cost_the_others_theirs(tmp_path: Path) -> None:
    results = read(criteria(tmp_path / "study", ["random", "saliency", "magnitude_l1", "thinet"], seeds=1))
    trials = results.trials
    rare = (trials["criterion"] == "thinet") & (trials["requested_sparsity"] > 0.3)
    assert ranks(results._replace(trials=trials[~rare]))["weight"].mean.size == 3
    assert ranks(results._replace(trials=trials[~rare]))["weight"].cells == 6


def test_without_enough_criteria_words_say_so(tmp_path: Path) -> None:
    two = read(grid(tmp_path / "two", {"criterion": ["random", "saliency"], "requested_sparsity": [0.3, 0.5, 0.7]}))
    for results in (two, read(make(tmp_path / "plain", 9, 0))):
        assert ranks(results) == {}
        assert table(results).frame.empty
        assert style.title(figure(results)).startswith("There are not 3 criteria")
