"""Accuracy against the sparsity asked for: which studies have such lines, what they are called, what they show."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import read
from analysis.figures.ratios import ratios, ratios_data
from analysis.presentation import style
from tests.questions import grid
from tests.results_folder import make

AXES = {
    "granularity": ["weight", "channel"], "sparsity_of": ["params"], "finetune_epochs": [0, 5],
    "requested_sparsity": [0.1, 0.3, 0.5],
}  # fmt: skip


def test_a_line_for_each_recipe_and_a_point_for_each_sparsity(tmp_path: Path) -> None:
    results = read(grid(tmp_path / "study", AXES, seeds=3))
    rows = ratios_data(results)
    names = {f"{kind}, finetune epochs {epochs}" for kind in ("weight", "channel") for epochs in (0, 5)}
    assert set(rows["recipe"]) == names
    assert rows.groupby("recipe")["requested_sparsity"].apply(list).map(tuple).unique().tolist() == [(0.1, 0.3, 0.5)]
    trials = results.trials
    own = trials[(trials["granularity"] == "channel") & (trials["finetune_epochs"] == 5)]
    values = own.loc[own["requested_sparsity"] == 0.3, "test_accuracy"].astype(float)
    row = rows[(rows["recipe"] == "channel, finetune epochs 5") & (rows["requested_sparsity"] == 0.3)].iloc[0]
    assert row["n"] == 3
    assert row["test_accuracy"] == pytest.approx(np.mean(values))
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (row["low"], row["high"]) == pytest.approx((low, high))


def test_an_axis_that_another_decides_is_not_named(tmp_path: Path) -> None:
    axes = {"granularity": ["weight", "channel"], "requested_sparsity": [0.3, 0.5]}
    results = read(grid(tmp_path / "study", axes))
    results.trials.loc[results.trials["granularity"] == "channel", "scope"] = "layer"
    assert set(ratios_data(results)["recipe"]) == {"weight", "channel"}


@pytest.mark.parametrize(
    "axes",
    [
        {"granularity": ["weight", "channel"]},  # a single sparsity
        {"requested_sparsity": [0.3, 0.5]},  # a single recipe
        {"finetune_epochs": list(range(9)), "requested_sparsity": [0.3, 0.5]},  # a tangle
    ],
)
def test_what_is_no_such_grid_has_no_lines(tmp_path: Path, axes: dict) -> None:
    results = read(grid(tmp_path / "study", axes))
    assert ratios_data(results).empty
    assert "no grid" in style.title(ratios(results))


def test_a_search_has_no_lines(tmp_path: Path) -> None:
    assert ratios_data(read(make(tmp_path / "study"))).empty
    assert ratios_data(read(make(tmp_path / "failed", 3, 3))).empty


def test_beyond_90_percent_the_axis_is_that_of_compression(tmp_path: Path) -> None:
    axes = {"criterion": ["taylor", "random"], "requested_sparsity": [0.5, 0.75, 0.875, 0.9375, 0.96875]}
    ax = ratios(read(grid(tmp_path / "study", axes))).axes[0]
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()][-2:] == ["93.8 %\n16 ×", "96.9 %\n32 ×"]
    places = ax.lines[0].get_xdata()
    assert np.diff(np.log2(np.asarray(places, float))) == pytest.approx(1)  # each halves what is left
