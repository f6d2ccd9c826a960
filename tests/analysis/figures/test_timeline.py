"""When each trial ran: lanes by hand, and no two trials on one at a time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import Results, read
from analysis.figures.timeline import timeline, timeline_data
from analysis.presentation import style
from tests.results_folder import make


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(make(tmp_path_factory.mktemp("results") / "study", 6))


def times(results: Results, spans: Any) -> Results:
    """The study's first trials, run from and to these seconds."""
    rows = results.trials.iloc[: len(spans)]
    begins, ends = zip(*spans, strict=True)
    return results._replace(trials=rows.assign(started=begins, finished=ends, state="complete", kind="search"))


def test_a_trial_gets_the_first_lane_that_is_free_and_long_gaps_are_left_out(results: Results) -> None:
    found = timeline_data(times(results, [(100.0, 110.0), (101.0, 104.0), (105.0, 120.0), (900.0, 905.0)]))
    assert found["lane"].tolist() == [0, 1, 1, 0]
    assert found["begin"].tolist() == [0, 1, 5, 20]
    assert found["end"].tolist() == [10, 4, 20, 25]
    assert found["after_gap"].tolist() == [False, False, False, True]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=6))
def test_no_lane_holds_two_trials_at_once_and_no_more_lanes_are_used_than_trials_overlap(
    results: Results, spans: list[tuple[int, int]]
) -> None:
    found = timeline_data(times(results, [(float(begin), float(begin + length)) for begin, length in spans]))
    assert (found["begin"] >= 0).all()
    assert sorted((found["end"] - found["begin"]).round()) == sorted(length for _, length in spans)
    for _, lane in found.groupby("lane"):
        assert (lane["begin"].to_numpy()[1:] >= lane["end"].to_numpy()[:-1] - 1e-9).all()
    most = max(sum(b <= at < b + length for b, length in spans) for at, _ in spans)
    assert found["lane"].max() + 1 == most


def test_the_figure_has_a_bar_for_each_trial_and_says_how_much_of_the_time_was_used(results: Results) -> None:
    figure = timeline(times(results, [(0.0, 10.0), (0.0, 5.0)]))
    (ax,) = figure.axes
    assert len(ax.patches) == 2
    assert "2 ran at once" in figure.get_supxlabel()
    assert "75%" in figure.get_supxlabel()
    empty = results._replace(trials=results.trials.iloc[:0])
    assert timeline_data(empty).empty
    assert style.title(timeline(empty)).startswith("No trial")
