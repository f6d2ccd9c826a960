"""Criteria and scopes at matched sparsity: tables and figure, and that scans and controls stay out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis import Results, read
from analysis.comparisons.criteria import accuracies, criteria_data, scopes
from analysis.comparisons.criteria import criteria as table
from analysis.presentation import style
from tests.questions import criteria, grid
from tests.results_folder import make

SCOPES = ["global", "layer", "erk", "lamp", "uniform_plus", "sensitivity"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(criteria(tmp_path_factory.mktemp("results") / "study", seeds=3))


def test_every_criterion_is_held_against_random_in_its_own_cell(results: Results) -> None:
    frame, caption = table(results)
    assert len(frame) == 3 * 2 * 2 * 3
    assert frame.columns[:5].tolist() == ["criterion", "granularity", "scope", "requested_sparsity", "n"]
    assert frame["n"].eq(3).all()
    trials = results.trials
    here = trials[(trials["granularity"] == "channel") & (trials["scope"] == "layer")]
    accuracy = here[here["requested_sparsity"] == 0.7].groupby("criterion")["test_accuracy"].mean()
    lines = frame.query("criterion == 'saliency' and granularity == 'channel' and scope == 'layer'")
    line = lines[lines["requested_sparsity"] == 0.7].iloc[0]
    assert line["mean"] == pytest.approx(accuracy["saliency"])
    assert line["difference"] == pytest.approx(accuracy["saliency"] - accuracy["random"])
    assert line["beats_random"] == "yes"
    assert "Welch" in caption
    assert "also differ" not in caption


def test_random_has_no_difference_to_itself(results: Results) -> None:
    frame = table(results).frame
    assert (
        frame.loc[frame["criterion"] == "random", ["difference", "low", "high", "beats_random"]].isna().all(axis=None)
    )
    assert frame.loc[frame["criterion"] != "random", "difference"].notna().all()


def test_one_seed_shows_nothing_clearly(tmp_path: Path) -> None:
    frame = table(read(criteria(tmp_path / "study", seeds=1))).frame
    assert set(frame["beats_random"].dropna()) == {"one run"}
    assert frame["std"].isna().all()


def test_the_caption_tells_what_else_differs(tmp_path: Path) -> None:
    axes = {"criterion": ["random", "saliency"], "schedule": ["one_shot", "gradual"], "requested_sparsity": [0.5]}
    assert "Runs in a cell also differ in schedule." in table(read(grid(tmp_path / "study", axes))).caption


def test_shares_of_channels_are_not_matched_with_shares_of_weights(tmp_path: Path) -> None:
    axes = {"criterion": ["random", "saliency"], "granularity": ["channel"], "sparsity_of": ["params", "channels"]}
    frame = table(read(grid(tmp_path / "study", axes))).frame
    assert frame[["criterion", "sparsity_of", "n"]].drop_duplicates().shape == (4, 3)


def test_scopes_are_held_against_global(tmp_path: Path) -> None:
    worth = {"layer": 0.8, "global": 0.9}
    folder = grid(tmp_path / "study", {"scope": SCOPES, "requested_sparsity": [0.5, 0.8]}, seeds=4, worth=worth)
    frame = scopes(read(folder)).frame
    assert frame.columns[:4].tolist() == ["scope", "granularity", "criterion", "requested_sparsity"]
    assert set(frame["scope"]) == set(SCOPES)
    sparse = frame[frame["requested_sparsity"] == 0.8].set_index("scope")
    assert sparse.index[0] == "global"
    assert sparse.loc["layer", "beats_global"] == "worse"
    assert pd.isna(sparse.loc["global", "beats_global"])


def test_a_study_that_matches_nothing_has_no_rows(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study"))  # every trial at a sparsity of its own, one criterion
    assert table(results).frame.empty
    assert criteria_data(results).empty
    assert "54 networks at sparsities with a single criterion" in table(results).caption
    assert style.title(accuracies(results)).startswith("No two criteria have networks")


def test_the_figure_draws_means_and_ranges(results: Results) -> None:
    rows = criteria_data(results)
    assert rows["criterion"].unique().tolist() == ["saliency", "magnitude_l1", "random"]
    figure = accuracies(results)
    panels = [ax.get_title("left") for ax in figure.axes]
    assert panels == ["weight, global", "weight, layer", "channel, global", "channel, layer"]
    one = rows[(rows["granularity"] == "weight") & (rows["scope"] == "layer")]
    assert means(figure.axes[1]) == pytest.approx(sorted(100 * one["mean"]))
    collections: Any = figure.axes[1].collections
    spans = [segment[:, 0] for bars in collections for segment in bars.get_segments()]
    assert sorted(low for low, _ in spans) == pytest.approx(sorted(100 * one["lowest"]))
    assert all(ax.get_xlim() == figure.axes[0].get_xlim() for ax in figure.axes)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][-1] == "random"


def test_of_many_sparsities_some_are_drawn(tmp_path: Path) -> None:
    axes = {"criterion": ["random", "saliency"], "requested_sparsity": [float(x) for x in np.arange(1, 20) / 20]}
    levels = sorted(criteria_data(read(grid(tmp_path / "study", axes, seeds=1)))["requested_sparsity"].unique())
    assert len(levels) == 6
    assert (levels[0], levels[-1]) == (0.05, 0.95)


def test_nothing_is_clipped_of_fourteen_criteria(tmp_path: Path) -> None:
    names = [f"criterion_number_{i}" for i in range(13)]
    figure = accuracies(read(criteria(tmp_path / "study", [*names, "random"], seeds=2)))
    figure.draw_without_rendering()
    labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(box.x0 >= 0 for box in labels)
    assert all(one.y0 >= other.y1 for one, other in zip(labels, labels[1:], strict=False))


def means(ax: Axes) -> list[float]:
    return sorted(float(x) for line in ax.lines if line.get_linestyle() == "None" for x in line.get_xdata())
