"""What a single layer costs: rows of scans found, in order, drawn, and kept out of everything else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import Results, read, tables
from analysis.figures import registry
from analysis.figures.fronts import front_data
from analysis.figures.life import life_data
from analysis.layers.sensitivity import heatmap, lines, sensitivity_data
from analysis.page.answer import answer
from analysis.presentation import style
from analysis.report import report
from analysis.results_folder import networks, scans
from analysis.statistics import pareto
from study.config.columns import COLUMNS
from study.results.files import write_rows
from tests.questions import layer_names, scan, scan_rows, write_scores
from tests.results_folder import make


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(scan(tmp_path_factory.mktemp("results") / "study", 54, groups=37))


def test_rows_go_through_the_network_weights_first(results: Results) -> None:
    rows = sensitivity_data(results)
    assert len(rows) == (54 + 37) * 9
    assert rows["granularity"].tolist() == ["weight"] * 54 * 9 + ["channel"] * 37 * 9
    assert rows["layer"].drop_duplicates().tolist() == layer_names(54)
    assert rows["ratio"].tolist()[:9] == pytest.approx(np.arange(1, 10) / 10)
    expected = [(0.125 - 0.01) * 0.8 * 0.5, (0.125 - 0.01) * 0.8 * 0.5 / 54, (0.125 - 0.01) * 0.8]
    half = rows[rows["ratio"] == 0.5].reset_index()
    assert half["drop"][[0, 53, 54]].tolist() == pytest.approx(expected)


def test_the_scan_before_a_study_is_found_and_repeats_are_averaged(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 6, 0)
    assert sensitivity_data(read(folder)).empty
    rows = scan_rows(3)
    again = [{**row, "trial_id": f"b{row['trial_id']}", "accuracy_drop": row["accuracy_drop"] + 0.1} for row in rows]
    failed = [{**row, "trial_id": f"f{row['trial_id']}", "state": "failed", "accuracy_drop": 1.0} for row in rows]
    (folder / "scan").mkdir()
    write_rows(folder / "scan" / "trials.csv", COLUMNS, rows + again + failed)
    found = sensitivity_data(read(folder))
    assert found["n"].eq(2).all()
    assert found["drop"].iloc[0] == pytest.approx(rows[0]["accuracy_drop"] + 0.05)


def test_layers_stand_as_layer_scores_has_them(tmp_path: Path) -> None:
    folder = scan(tmp_path / "study", 3)
    trials = pd.read_csv(folder / "trials.csv", dtype=str)
    trials.assign(trial_id=trials["trial_id"].to_numpy()[::-1]).to_csv(folder / "trials.csv", index=False)
    assert sensitivity_data(read(folder))["layer"].iloc[0] == "layer1.1.conv"  # the last group was scanned first
    write_scores(folder, 3)
    assert sensitivity_data(read(folder))["layer"].iloc[0] == layer_names(3)[0]


def test_the_heatmap_has_a_panel_for_weights_and_one_for_channels(results: Results) -> None:
    figure = heatmap(results)
    weights, channels, bar = figure.axes
    rows = sensitivity_data(results)
    drawn = np.asarray(weights.collections[0].get_array())
    assert drawn.shape == (54, 9)
    assert drawn[3].tolist() == pytest.approx((100 * rows["drop"][27:36]).tolist())
    assert np.asarray(channels.collections[0].get_array()).shape == (37, 9)
    assert weights.get_ylim() == (54, 0)
    assert weights.get_title("left") == "weights, magnitude l1"
    assert [label.get_text() for label in weights.get_xticklabels()] == [str(10 * n) for n in range(1, 10)]
    assert "points" in bar.get_ylabel()
    assert weights.collections[0].norm.vmax == channels.collections[0].norm.vmax


def test_every_layer_has_its_lines_on_the_same_axes(results: Results) -> None:
    figure = lines(results)
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title("left") for ax in shown] == layer_names(54)
    assert [len(ax.lines[0].get_xdata()) for ax in shown] == [9] * 54
    assert len({ax.get_ylim() for ax in shown}) == 1
    drops = shown[0].lines[1].get_ydata()
    channel = sensitivity_data(results).query("granularity == 'channel'")["drop"][:9]
    assert np.asarray(drops).tolist() == pytest.approx((100 * channel.clip(lower=0)).tolist())


@pytest.mark.parametrize("count", [1, 8, 54])
def test_nothing_overlaps(tmp_path: Path, count: int) -> None:
    results = read(scan(tmp_path / "study", count))
    for draw in (heatmap, lines):
        figure = draw(results)
        figure.draw_without_rendering()
        for ax in figure.axes:
            for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
                boxes = [label.get_window_extent() for label in labels if label.get_text() and label.get_visible()]
                assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        titles = [ax.title.get_window_extent() for ax in figure.axes if ax.get_visible()]
        assert not any(one.overlaps(other) for one, other in pairwise(titles) if one.width and other.width)


def test_scans_are_no_candidates(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 12, 0)
    before = read(folder)
    text = (folder / "trials.csv").read_text()
    write_rows(folder / "scan.csv", COLUMNS, [{**row, "trial_id": f"s{row['trial_id']}"} for row in scan_rows(5)])
    (folder / "trials.csv").write_text(text + (folder / "scan.csv").read_text().partition("\n")[2])
    after = read(folder)
    assert len(after.trials) == len(before.trials) + 81
    assert len(scans(after)) == 81
    assert networks(after.trials)["trial_id"].tolist() == networks(before.trials)["trial_id"].tolist()
    assert answer(after) == answer(before)
    both = [pareto.front(results.trials, results.objectives)["trial_id"].tolist() for results in (before, after)]
    assert both[0] == both[1]
    for draw in (front_data, life_data):
        pd.testing.assert_frame_equal(draw(before), draw(after))
    assert {"sensitivity_heatmap", "sensitivity_lines", "front"} <= set(registry.applicable(after))


def test_a_mere_scan_shows_what_it_has_and_no_empty_pages(tmp_path: Path) -> None:
    folder = scan(tmp_path / "study", 4)
    results = read(folder)
    assert registry.applicable(results) == ["sensitivity_heatmap", "sensitivity_lines"]
    assert tables.applicable(results) == {}
    sentence, limits = answer(results)
    assert sentence == (
        "Pruning 50.0 % of a single layer's weights costs most in layer1.0.conv (4.6 points of validation accuracy) "
        "and least in layer1.3.conv (1.1)."
    )
    assert "do not add up" in limits
    report(folder)
    assert sorted(path.stem for path in (folder / "figures").glob("*.png")) == registry.applicable(results)
    page = (folder / "report.html").read_text(encoding="utf-8").partition("<script>")[0]
    assert "There is no" not in page
    assert "Pareto front" not in page


def test_a_study_without_a_scan_says_so(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 3, 0))
    for draw in (heatmap, lines):
        assert style.title(draw(results)).startswith("No sensitivity scan")
    assert not {"sensitivity_heatmap", "sensitivity_lines"} & set(registry.applicable(results))
