"""How far a search has come: areas and sparsities by hand, against shapely-free geometry, and over the trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import read, tables
from analysis.figures.progress import hypervolume_data, search, search_data
from analysis.statistics import measures
from tests.results_folder import make


def test_worked_by_hand() -> None:
    """A dense network of 90 %: what counts lies above 80 %."""
    accuracy, sparsity = [0.79, 0.85, np.nan, 0.89, 0.88, 0.895], [0.9, 0.6, 0.5, 0.3, 0.5, 0.1]
    found = measures.progress(accuracy, sparsity, 0.9)
    assert measures.NAMES == ("near", "within_1", "within_2", "within_5")
    assert found[:, 0] == pytest.approx(np.cumsum([0, 0.05 * 0.6, 0, 0.04 * 0.3, 0.03 * 0.2, 0.005 * 0.1]), abs=1e-12)
    assert found[:, 1].tolist() == [0, 0, 0, 0.3, 0.3, 0.3]
    assert found[:, 2].tolist() == [0, 0, 0, 0.3, 0.5, 0.5]
    assert found[:, 3].tolist() == [0, 0.6, 0.6, 0.6, 0.6, 0.6]
    assert np.isnan(measures.progress(accuracy, sparsity, np.nan)).all()
    assert measures.progress([], [], 0.9).shape == (0, 4)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.99)), min_size=1, max_size=12), st.floats(0.2, 1))
def test_the_area_is_that_of_a_fine_grid_and_the_order_does_not_matter(
    points: list[tuple[float, float]], dense: float
) -> None:
    array = np.array(points)
    found = measures.progress(array[:, 0], array[:, 1], dense)
    assert (np.diff(found, axis=0) >= -1e-12).all()
    assert found[-1] == pytest.approx(measures.progress(array[::-1, 0], array[::-1, 1], dense)[-1])
    floor = dense - measures.MARGIN
    accuracies = np.linspace(floor, max(1.0, floor + 0.01), 4001)
    widest = [max((s for a, s in points if a > at), default=0.0) for at in accuracies]
    assert found[-1, 0] == pytest.approx(np.trapezoid(widest, accuracies), abs=2e-3)


def test_the_dense_network_is_the_better_of_baseline_and_control(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 6, 0))
    control = float(results.trials.loc[results.trials["kind"] == "control", "accuracy"].iloc[0])
    for baseline, expected in ((control - 0.1, control), (control + 0.05, control + 0.05)):
        results.record["baseline"]["accuracy"] = baseline
        assert measures.dense_accuracy(results) == pytest.approx(expected)
    results.record["baseline"].pop("accuracy")
    assert measures.dense_accuracy(results) == pytest.approx(control)
    without = results._replace(trials=results.trials[results.trials["kind"] != "control"])
    assert np.isnan(measures.dense_accuracy(without))
    assert search_data(without).empty
    assert tables.search(without).frame.empty


def test_the_table_is_what_was_found_by_then(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 20, 2))
    rows, frame = hypervolume_data(results), tables.search(results).frame
    assert frame["trials"].tolist() == [5, 10, 20]
    for _, line in frame.iterrows():
        at = rows.set_index("trials").loc[line["trials"]]
        assert line[["seconds", *measures.NAMES]].tolist() == at[["seconds", *measures.NAMES]].tolist()
    known = results.trials[(results.trials["kind"] == "search") & (results.trials["state"] == "complete")]
    near = known[known["accuracy"] >= measures.dense_accuracy(results) - 0.02]
    assert frame["within_2"].iloc[-1] == pytest.approx(near["sparsity"].max())
    assert "better of baseline and dense control" in " ".join(search(results).get_supxlabel().split())
