"""The figure of latency: what is drawn of which networks, and what is said where little or nothing was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from analysis import Results, read
from analysis.figures.speedup import latency, latency_data, zeros
from analysis.presentation import style
from analysis.statistics import pareto
from tests.results_folder import make


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return read(make(tmp_path / "study", granularities=("weight", "channel"), measured=True))


def test_a_row_for_every_network_and_batch(results: Results) -> None:
    rows = latency_data(results)
    front = pareto.front(results.trials, results.objectives)
    assert rows.columns.tolist() == ["trial_id", "granularity", "batch", "theoretical_speedup", "speedup"]
    assert rows["batch"].tolist() == [1] * 10 + [64] * 10
    one = rows[:10].set_index("trial_id")
    assert set(one.index) == {"c0000", *front["trial_id"]}
    assert one.loc["c0000"].tolist() == ["dense", 1, pytest.approx(1, abs=1e-4), 1.0]
    assert one.loc[front["trial_id"], "speedup"].tolist() == front["speedup"].tolist()
    large = rows[10:].set_index("trial_id").loc[front["trial_id"], "speedup"]
    assert large.tolist() == front["batch_speedup"].tolist()


def test_what_was_not_measured_has_no_row(results: Results) -> None:
    front = pareto.front(results.trials, results.objectives)
    results.trials.loc[front.index[0], ["speedup", "batch_speedup"]] = np.nan
    results.trials.loc[front.index[1], "batch_speedup"] = np.nan
    results.trials.loc[front.index[2], "theoretical_speedup"] = np.inf
    rows = latency_data(results)
    assert not {front["trial_id"].iloc[0], front["trial_id"].iloc[2]} & set(rows["trial_id"])
    assert rows.loc[rows["trial_id"] == front["trial_id"].iloc[1], "batch"].tolist() == [1]
    figure = latency(results)
    assert "Not measured: 2 networks." in figure.get_supxlabel().replace("\n", " ")
    assert style.title(figure) == "Measured speedup: 7 networks on the front"


def test_points_stand_by_granularity_and_batch(results: Results) -> None:
    figure = latency(results)
    assert [ax.get_title("left") for ax in figure.axes] == ["batch 1", "batch 64"]
    rows = latency_data(results)
    for ax, (_, group) in zip(figure.axes, rows.groupby("batch"), strict=True):
        for granularity, marker in {"weight": "o", "channel": "s", "dense": "*"}.items():
            own = group[group["granularity"] == granularity]
            assert points(ax, marker) == set(zip(own["theoretical_speedup"], own["speedup"], strict=True))
    assert {y for _, y in points(figure.axes[1], "o")} == {1.0}


def test_all_points_and_the_lines_are_on_the_axes(results: Results) -> None:
    figure = latency(results)
    figure.draw_without_rendering()
    for ax in figure.axes:
        left, right, low, high = *ax.get_xlim(), *ax.get_ylim()
        assert all(left < x < right and low < y < high for x, y in points(ax))
        assert left < 1 < right
        assert low < 1 < 2 < high
        lines = [line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() != "None"]
        assert lines == [[[left, left], [right, right]], [[0, 1], [1, 1]]]  # y = x, and 1 all across the axes
        labels = [text for text in ax.get_xticklabels() if left <= text.get_position()[0] <= right]
        boxes = [text.get_window_extent() for text in labels]
        assert len(boxes) > 2
        assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize("study", [{}, {"trials": 4, "failed": 4, "control": False}, {"feasible": False, "trials": 8}])
def test_where_nothing_was_measured_it_says_so(tmp_path: Path, study: dict[str, Any]) -> None:
    results = read(make(tmp_path / "study", **study))
    assert latency_data(results).empty
    assert style.title(latency(results)).startswith("No network on the front has a measured latency.")


def test_a_measured_control_alone_is_nothing_to_draw(results: Results) -> None:
    results.trials.loc[results.trials["kind"] == "search", ["speedup", "batch_speedup"]] = np.nan
    assert set(latency_data(results)["granularity"]) == {"dense"}
    assert not latency(results).axes


def test_one_network_at_batch_1_alone(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 1, 0, measured=True, control=False))
    results.trials[["large_batch", "batch_speedup"]] = pd.NA
    figure = latency(results)
    assert [ax.get_title("left") for ax in figure.axes] == ["batch 1"]
    assert len(points(figure.axes[0])) == 1
    assert "control" not in figure.get_supxlabel()
    assert "dense control" not in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ({"trials": 1, "failed": 0}, "On the front 1 of 1 network has single weights masked: dense kernels multiply"),
        ({}, "On the front 9 of 9 networks have single weights masked"),
        ({"granularities": ("channel", "2:4", "hybrid")}, "On the front 8 of 9 networks have single weights masked"),
        ({"granularities": ("channel", "weight")}, "On the front 4 of 9 networks have single weights masked"),
        ({"granularities": ("channel",)}, ""),
        ({"trials": 2, "failed": 2}, ""),
    ],
)
def test_what_is_said_of_zeros(tmp_path: Path, study: dict[str, Any], expected: str) -> None:
    said = zeros(read(make(tmp_path / "study", **study)))
    assert said.startswith(expected)
    assert bool(said) == bool(expected)


def points(ax: Axes, marker: str | None = None) -> set[tuple[float, float]]:
    marked = [line for line in ax.lines if line.get_linestyle() == "None" and marker in (None, line.get_marker())]
    return {(float(x), float(y)) for line in marked for x, y in zip(*line.get_data(), strict=True)}
