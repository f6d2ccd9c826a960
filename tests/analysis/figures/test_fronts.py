"""Figures: what is drawn, tested unrendered; then that every figure of every study, however small, can be drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import Results, read
from analysis.figures import fronts, registry
from analysis.figures.life import life, life_data
from analysis.presentation import style
from analysis.presentation.looks import closeup_floor
from analysis.statistics import pareto
from analysis.statistics.objectives import abscissa, unit_of
from tests.results_folder import make


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(make(tmp_path_factory.mktemp("results") / "study"))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study of both granularities, with all that the figures can show."""
    folder = tmp_path_factory.mktemp("results") / "both"
    return read(make(folder, granularities=("weight", "channel"), measured=True, layers=20))


def test_front_data_marks_the_front(results: Results) -> None:
    rows = fronts.front_data(results)
    front = pareto.front(results.trials, results.objectives)
    assert len(rows) == 54
    assert rows["x"].is_monotonic_increasing
    assert set(rows.loc[rows["place"] == "front", "trial_id"]) == set(front["trial_id"])
    assert (rows["place"] == "dominated").sum() == 54 - len(front)
    drawn = rows.set_index("trial_id").loc[front["trial_id"]]
    assert drawn["x"].tolist() == front["sparsity"].tolist()
    assert drawn["test_accuracy"].tolist() == front["test_accuracy"].tolist()


def test_front_data_tells_what_broke_a_constraint(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 4, 1))
    results.trials.loc[2, "feasible"] = False
    places = fronts.front_data(results).set_index("trial_id")["place"]
    assert places["0002"] == "infeasible"
    assert "0000" not in places  # failed
    assert "c0000" not in places  # a control


@pytest.mark.parametrize(
    ("objectives", "expected"),
    [
        ({"accuracy": "max", "macs": "min"}, "macs"), ({"latency_ms": "min", "accuracy": "max"}, "latency_ms"),
        ({"accuracy": "max"}, "sparsity"), ({"sparsity": "max", "macs": "min"}, "sparsity"),
    ],
)  # fmt: skip
def test_the_front_is_drawn_against_the_other_objective(
    tmp_path: Path, objectives: dict[str, str], expected: str
) -> None:
    results = read(make(tmp_path / "study", 6, 0, latency_ms=2.5, objectives=objectives))
    assert abscissa(results) == expected
    rows = fronts.front_data(results)
    assert rows["x"].tolist() == sorted(results.trials[expected][:6].astype(float))
    axes = fronts.front(results).axes
    name, unit, _ = unit_of(expected)
    assert axes[-1].get_xlabel() == f"{name} ({unit})"


def test_accuracy_by_data_has_every_complete_network_once(results: Results) -> None:
    panels = fronts.accuracy_by_data(results, "schedule")
    assert list(panels) == ["one_shot", "iterative", "gradual"]
    ids = pd.concat(panels.values())["trial_id"]
    assert sorted(ids) == [f"{number:04d}" for number in range(6, 60)]
    schedule = results.trials.set_index("trial_id")["schedule"]
    assert all((schedule[rows["trial_id"]] == name).all() for name, rows in panels.items())


def test_life_data_is_the_fronts_history(results: Results) -> None:
    rows = life_data(results)
    front = pareto.front(results.trials, results.objectives)
    assert rows["trial_id"].unique().tolist() == sorted(front["trial_id"])
    assert rows["epoch"].tolist() == [1, 2, 3, 4, 5] * len(front)
    last = rows.groupby("trial_id")["sparsity"].last()
    assert last[front["trial_id"]].to_numpy() == pytest.approx(front["sparsity"].to_numpy())


@pytest.mark.parametrize(
    ("accuracies", "baseline", "expected"),
    [
        ([0.9, 0.91, 0.2], 0.92, 0.82), ([0.9, 0.91], 0.92, None), ([0.9, 0.2, 0.1], 0.92, None),
        ([0.9, 0.2], 0.92, 0.82), ([0.9, 0.2], None, None), ([0.1], 0.92, None), ([0.9, 0.91, 0.7], 0.92, None),
    ],
)  # fmt: skip
def test_a_close_up_only_where_few_collapse(
    accuracies: list[float], baseline: float | None, expected: float | None
) -> None:
    floor = closeup_floor(pd.Series(accuracies), baseline)
    assert floor == (None if expected is None else pytest.approx(expected))


def test_the_front_figure_shows_every_network(results: Results) -> None:
    figure = fronts.front(results)
    near, everything = figure.axes
    assert points(everything) == points_of(fronts.front_data(results)) | {(0.0, 92.9)}
    low, high = near.get_ylim()
    assert 82 <= low + 0.5 <= 83
    assert {y for _, y in points(near)} == {y for _, y in points(everything) if y > 82.4}
    assert high > max(y for _, y in points(everything))
    assert {line.get_ydata()[0] for line in everything.lines if line.get_linestyle() == "--"} == {92.4}
    assert "validation accuracy" in caption(figure)
    assert "6 failed" in caption(figure)


def test_three_objectives_are_not_joined_by_a_line(tmp_path: Path) -> None:
    objectives = {"accuracy": "max", "sparsity": "max", "macs": "min"}
    for chosen, lines in ((objectives, 0), ({"accuracy": "max", "sparsity": "max"}, 1)):
        folder = make(tmp_path / str(lines), 9, 0, objectives=chosen)
        ax = fronts.front(read(folder)).axes[-1]
        assert sum(line.get_linestyle() == "-" for line in ax.lines) == lines


def test_every_panel_shows_all_networks_and_says_what_it_cannot(results: Results) -> None:
    figure = fronts.accuracy_by(results, "schedule")
    below = [int(ax.get_title("left").split(", ")[1].split()[0]) for ax in figure.axes]
    panels = fronts.accuracy_by_data(results, "schedule")
    assert below == [int((rows["test_accuracy"] < 0.824).sum()) for rows in panels.values()]
    assert [len(points(ax)) for ax in figure.axes] == [54 - sum(below)] * 3
    assert [ax.get_ylabel() for ax in figure.axes] == ["test accuracy (%)", "", ""]


def test_more_schedules_than_fit_a_row(tmp_path: Path) -> None:
    results = read(make(tmp_path / "many", 30, 0))
    results.trials.loc[:29, "schedule"] = [f"kind {number % 5}" for number in range(30)]
    axes = fronts.accuracy_by(results, "schedule").axes
    assert [ax.get_visible() for ax in axes] == [True] * 5 + [False]
    assert [bool(ax.get_xlabel()) for ax in axes[:5]] == [False, False, True, True, True]
    assert [bool(ax.get_ylabel()) for ax in axes[:5]] == [True, False, False, True, False]


STUDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "one trial": {"trials": 1, "failed": 0},
    "all failed": {"trials": 4, "failed": 4, "control": False},
    "nothing yet": {"trials": 0, "failed": 0, "control": False},
    "no front": {"trials": 4, "failed": 0, "feasible": False},
    "no history": {"trials": 4, "failed": 1, "history": False},
    "no scope": {"trials": 4, "failed": 0, "scope": None},
    "nothing measured": {"trials": 4, "failed": 0, "test_accuracy": None},
    "equal": {"trials": 4, "failed": 0, "sparsity": 0.5, "accuracy": 0.5, "test_accuracy": 0.5},
    "dollars": {"trials": 4, "failed": 0, "scope": "$x_{", "schedule": "a$b$"},
    "both granularities": {"trials": 12, "granularities": ("weight", "channel"), "measured": True, "layers": 5},
    "one network": {"trials": 1, "failed": 0, "measured": True, "layers": 1},
    "channels, deep": {"trials": 4, "failed": 0, "granularity": "channel", "layers": 130},
    "no granularity": {"trials": 4, "failed": 0, "granularity": None, "measured": True, "layers": 3, "control": False},
    "another measure": {"trials": 4, "failed": 0, "objectives": {"accuracy": "max", "compression_ratio": "max"}},
}


# Of each kind of study one in `make test`; what differs from one of them in a single value, nightly.
NIGHTLY = ("one trial", "no scope", "equal", "one network", "no granularity", "another measure")
RENDERED = ("both granularities", *NIGHTLY)  # of which the first has most to draw
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in NIGHTLY else []) for name in STUDIES]


@pytest.mark.parametrize("study", EACH)
@pytest.mark.filterwarnings("error")
def test_every_figure_of_every_study_is_drawn(tmp_path: Path, study: str) -> None:
    results = read(make(tmp_path / "study", **STUDIES[study]))
    before = dict(matplotlib.rcParams)
    for name, draw in registry.FIGURES.items():
        figure = draw(results)
        assert style.title(figure)
        axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
        assert name == "recipes" or all(ax.get_xlabel() or ax.get_shared_x_axes().joined(ax, axes[-1]) for ax in axes)
        if study not in RENDERED:
            figure.draw_without_rendering()  # lays out everything, and sets no pixel
            continue
        with Image.open(io.BytesIO(style.render(figure, "png"))) as image:
            # Whole pixels: matplotlib cuts fractions off before 3.11, and rounds since.
            assert np.abs(image.size - figure.get_size_inches() * 200).max() < 1
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", ["all failed", "nothing yet"])
def test_where_there_is_nothing_to_draw_words_say_so(tmp_path: Path, name: str) -> None:
    results = read(make(tmp_path / "study", **STUDIES[name]))
    assert not set(registry.REQUIRED_DATA) & set(registry.applicable(results))
    for draw in registry.FIGURES.values():
        figure = draw(results)
        assert not figure.axes
        assert style.title(figure).startswith(("There is no ", "There are ", "No "))


@pytest.mark.parametrize("name", ["front", "accuracy_by_schedule", "life", "latency"])
@pytest.mark.parametrize("study", ["results", "both"])
def test_the_legend_covers_no_axes(name: str, study: str, request: pytest.FixtureRequest) -> None:
    figure = registry.FIGURES[name](request.getfixturevalue(study))
    figure.draw_without_rendering()
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert all(ax.get_window_extent().x1 < box.x0 for ax in figure.axes)
        assert box.x1 <= figure.bbox.x1


def test_a_pdf_is_the_same_each_time_and_keeps_its_letters(results: Results) -> None:
    first, second = (style.render(life(results), "pdf") for _ in range(2))
    assert first == second
    assert first.startswith(b"%PDF")
    assert b"/Type3" not in first  # outlines instead of letters


def test_a_schedule_has_one_colour_in_all_figures(results: Results) -> None:
    front = fronts.front_data(results)
    absent = front.loc[(front["place"] == "front") & (front["schedule"] == "one_shot"), "trial_id"]
    fewer = results._replace(history=results.history[~results.history["trial_id"].isin(absent)])
    one, other = (
        {line.get_label(): line.get_color() for line in figure.legends[0].get_lines() if line.get_marker() == "o"}
        for figure in (fronts.front(fewer), life(fewer))
    )
    assert "one shot" in one
    assert "one shot" not in other
    assert {name: one[name] for name in other} == other
    assert one["iterative"] == "#D55E00"


@pytest.mark.parametrize(("study", "told", "untold"), [("both", "granularity", "scope"), ("results", "scope", None)])
def test_shapes_tell_granularity_where_there_are_several(
    study: str, told: str, untold: str | None, request: pytest.FixtureRequest
) -> None:
    results = request.getfixturevalue(study)
    usual = {"weight": "o", "channel": "s", "global": "o", "layer": "s"}
    rows = fronts.front_data(results)
    figure = fronts.front(results)
    for name, group in rows.groupby(told):
        assert points_of(group) <= points(figure.axes[-1], usual[name])
    for drawn in (figure, life(results)):
        headings = [text.get_text() for text in drawn.legends[0].get_texts()]
        assert told in headings
        assert untold not in headings


def test_schedules_tell_scope_by_colour_and_granularity_by_shape(both: Results) -> None:
    figure = fronts.accuracy_by(both, "schedule")
    colour = {"global": "#0072B2", "layer": "#D55E00"}
    marker = {"weight": "o", "channel": "s"}
    drawn = [
        {(round(float(x), 6), line.get_marker(), line.get_color()) for line in ax.lines for x in line.get_xdata()}
        for ax in figure.axes
    ]
    for panel, rows in zip(drawn, fronts.accuracy_by_data(both, "schedule").values(), strict=True):
        for row in rows[rows["test_accuracy"] > 0.824].to_dict("records"):
            look = (round(100 * row["sparsity"], 6), marker[row["granularity"]], colour[row["scope"]])
            assert look in panel
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:6] == ["scope", "global", "layer", "granularity", "weight", "channel"]


def test_one_scope_leaves_colours_to_granularity(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 12, 0, granularities=("weight", "channel"), scope="global")
    handles = fronts.accuracy_by(read(folder), "schedule").legends[0].get_lines()
    looks = {line.get_label(): (line.get_marker(), line.get_color()) for line in handles}
    assert looks["weight"] == ("o", "#0072B2")
    assert looks["channel"] == ("s", "#D55E00")
    assert "scope" not in looks


def test_names_beyond_the_last_colour_begin_anew() -> None:
    assert len(set(style.assign(range(20), style.COLOURS).values())) == len(style.COLOURS)


def points(ax: Any, marker: str | None = None) -> set[tuple[float, float]]:
    """What is marked in `ax` (with `marker`), in its units."""
    marked = [line for line in ax.lines if line.get_linestyle() == "None" and marker in (None, line.get_marker())]
    return {(round(x, 6), round(y, 6)) for line in marked for x, y in zip(*line.get_data(), strict=True)}


def points_of(rows: pd.DataFrame) -> set[tuple[float, float]]:
    return {(round(100 * x, 6), round(100 * y, 6)) for x, y in zip(rows["x"], rows["test_accuracy"], strict=True)}


def caption(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())
