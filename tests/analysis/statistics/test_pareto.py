"""The front and its volume, against pairwise definitions, a grid, and Optuna's own."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna._hypervolume import compute_hypervolume

from analysis import read
from analysis.statistics.pareto import front, hypervolume, is_nondominated
from tests.results_folder import make

Values = npt.NDArray[np.float64]
MAX2 = ["max", "max"]


def few_values(columns: int) -> st.SearchStrategy[Values]:
    """Up to 30 rows of small integers, so that ties and equal rows are the rule; -0.0 and NaN among them."""
    numbers = st.sampled_from([-0.0, 0.0, 1.0, 2.0, 3.0, 4.0, np.nan])
    return st.integers(0, 30).flatmap(lambda rows: arrays(float, (rows, columns), elements=numbers))


def by_definition(values: Values, directions: list[str]) -> list[bool]:
    gains = [[v if d == "max" else -v for v, d in zip(row, directions, strict=True)] for row in values]

    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))

    return [all(v == v for v in row) and not any(dominates(other, row) for other in gains) for row in gains]


@pytest.mark.parametrize(
    ("values", "directions", "expected"),
    [
        ([[0.9, 0.5], [0.8, 0.8], [0.8, 0.7]], MAX2, [True, True, False]),
        ([[1, 1], [1, 1], [0, 2]], MAX2, [True, True, True]),
        ([[1, 1], [1, 2]], MAX2, [False, True]),
        ([[1, 1], [1, 2]], ["max", "min"], [True, False]),
        ([[1.0, np.nan], [0.5, 0.5]], MAX2, [False, True]),
        ([[np.inf, 1.0], [0.5, 0.5]], MAX2, [False, True]),
        ([[np.nan, np.nan]], MAX2, [False]),
        ([[3.0], [5.0], [5.0]], ["max"], [False, True, True]),
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]], ["max"] * 3, [True, True, True, False]),
        ([[7, 7]], MAX2, [True]),
        ([], MAX2, []),
    ],
)
def test_nondominated_by_hand(values: list[list[float]], directions: list[str], expected: list[bool]) -> None:
    assert is_nondominated(values, directions).tolist() == expected


def test_of_equal_rows_the_first_is_kept() -> None:
    values = [[0, 0], [1, 1], [1, 1], [0, 2], [1, 1]]
    assert is_nondominated(values, MAX2, keep_duplicates=False).tolist() == [False, True, False, True, False]
    assert is_nondominated([[0.0, 1], [-0.0, 1]], MAX2, keep_duplicates=False).tolist() == [True, False]


@pytest.mark.parametrize("columns", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_nondominated_is_its_definition(columns: int, data: st.DataObject) -> None:
    values = data.draw(few_values(columns))
    directions = data.draw(st.lists(st.sampled_from(["max", "min"]), min_size=columns, max_size=columns))
    mask = is_nondominated(values, directions)
    assert mask.tolist() == by_definition(values, directions)
    single = is_nondominated(values, directions, keep_duplicates=False)
    kept = values[mask] + 0.0
    assert sorted(map(tuple, values[single] + 0.0)) == sorted(set(map(tuple, kept)))


@pytest.mark.parametrize("columns", [2, 3])
def test_many_rows_are_theirs_by_definition(columns: int) -> None:
    values = np.random.default_rng(0).integers(0, 40, (1500, columns)).astype(float)
    assert is_nondominated(values, ["max"] * columns).tolist() == by_definition(values, ["max"] * columns)


def test_ten_thousand_rows_are_quick() -> None:
    random = np.random.default_rng(0).random(10_000)
    worst = np.stack([random, 1 - random], axis=1)  # every row is on the front
    started = time.perf_counter()
    assert is_nondominated(worst, MAX2).all()
    assert time.perf_counter() - started < 0.5  # 0.01 s measured


@pytest.mark.parametrize(
    ("values", "directions", "reference", "expected"),
    [
        ([[0.9, 0.5], [0.8, 0.8]], MAX2, [0, 0], 0.8 * 0.8 + 0.1 * 0.5),
        ([[0.9, 0.5], [0.8, 0.8], [0.7, 0.7], [0.9, 0.5]], MAX2, [0, 0], 0.69),
        ([[0.9, 2.0], [0.5, 1.0]], ["max", "min"], [0, 4], 0.9 * 2 + 0.5 * 1),
        ([[3.0], [5.0]], ["min"], [10], 7.0),
        ([[1, 1, 1], [2, 2, 0.5]], ["max"] * 3, [0, 0, 0], 2 * 2 * 0.5 + 0.5),
        ([[0.5, 0.0], [0.0, 0.5], [-1, 9]], MAX2, [0, 0], 0.0),
        ([[np.nan, 1], [np.inf, 1], [0.5, 0.5]], MAX2, [0, 0], 0.25),
        ([], MAX2, [0, 0], 0.0),
    ],
)
def test_volume_by_hand(
    values: list[list[float]], directions: list[str], reference: list[float], expected: float
) -> None:
    assert hypervolume(values, directions, reference) == pytest.approx(expected)


@pytest.mark.parametrize("columns", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_volume_counts_the_cells_of_a_grid(columns: int, data: st.DataObject) -> None:
    values = data.draw(few_values(columns))
    values = values[~np.isnan(values).any(axis=1)]
    cells = np.stack(np.meshgrid(*[np.arange(4) + 0.5] * columns), axis=-1).reshape(-1, columns)
    dominated = sum(any((cell < row).all() for row in values) for cell in cells)
    assert hypervolume(values, ["max"] * columns, [0] * columns) == pytest.approx(dominated)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_volume_is_optunas(columns: int) -> None:
    values = np.random.default_rng(columns).random((60, columns))
    values = np.vstack([values, values[:15], values[:15] + 0.01])  # with equal and with dominated rows
    ours = hypervolume(values, ["min"] * columns, [1.1] * columns)
    assert ours == pytest.approx(compute_hypervolume(values, np.full(columns, 1.1)), rel=1e-12)


def test_a_row_more_never_shrinks_the_volume() -> None:
    values = np.random.default_rng(3).random((40, 3))
    volumes = [hypervolume(values[:n], ["max"] * 3, [0, 0, 0]) for n in range(41)]
    assert np.diff(volumes).min() > -1e-12
    assert volumes[-1] < 1


@pytest.mark.parametrize(
    ("values", "directions", "message"),
    [
        ([[1, 2]], ["max", "up"], "expected one of max, min"),
        ([[1, 2]], ["max"], r"shape \(1, 2\)"),
        ([1, 2], MAX2, r"shape \(2,\)"),
        ([[1, 2]], [], "directions"),
    ],
)
def test_wrong_input_is_named(values: list, directions: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        is_nondominated(values, directions)


def test_a_reference_must_be_finite_and_of_the_right_length() -> None:
    with pytest.raises(ValueError, match="reference: .* is not finite"):
        hypervolume([[1, 2]], MAX2, [0, -np.inf])
    with pytest.raises(ValueError, match="shape"):
        hypervolume([[1, 2]], MAX2, [0])


def test_the_front_of_a_study(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study"))
    rows = front(results.trials, results.objectives)
    assert rows["sparsity"].is_monotonic_increasing
    assert rows["accuracy"].is_monotonic_decreasing  # with two objectives, the one is paid for with the other
    complete = results.trials[results.trials["state"].eq("complete") & results.trials["kind"].eq("search")]
    for _, other in complete.iterrows():
        covered = (rows["sparsity"] >= other["sparsity"]) & (rows["accuracy"] >= other["accuracy"])
        assert covered.any()


def test_what_is_not_eligible_for_the_front(tmp_path: Path) -> None:
    trials = read(make(tmp_path / "study", 8, 0, control=True)).trials
    trials["accuracy"] = [0.99, 0.98, 0.97, 0.96, 0.95, 0.5, 0.4, 0.3, 0.999]  # the last is the dense control
    trials["sparsity"] = [0.9, 0.9, 0.9, 0.9, np.nan, 0.6, 0.7, 0.8, 0.9]
    trials.loc[0, "state"] = "stopped"
    trials.loc[1, "state"] = "failed"
    trials.loc[2, "feasible"] = False
    trials.loc[3, "kind"] = "control"
    trials["feasible"] = trials["feasible"].mask(trials.index == 5)  # not known to be broken
    objectives = {"accuracy": "max", "sparsity": "max"}
    assert front(trials, objectives)["trial_id"].tolist() == ["0005", "0006", "0007"]
    assert front(trials, {"accuracy": "max"})["trial_id"].tolist() == ["0004"]
    trials.loc[7, "kind"] = "confirm"
    assert front(trials, {"sparsity": "max"})["trial_id"].tolist() == ["0006"]  # that run only confirms a row
    assert front(trials[trials["state"] == "failed"], objectives).empty


def test_an_objective_that_is_no_column(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="objective 'speed' is not a column; choices: trial_id"):
        front(read(make(tmp_path / "study", 2, 0)).trials, {"speed": "max"})
