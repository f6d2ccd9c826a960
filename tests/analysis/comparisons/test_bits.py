"""Networks in 8 bits beside those in 32: what is drawn, and the table of ways, by hand-made rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import Results, read
from analysis.comparisons.bits import quantization, quantization_data, ways
from analysis.comparisons.effects import effects
from analysis.figures import registry
from analysis.tables import applicable
from study.config.columns import COLUMNS
from study.results.files import write_rows
from tests.questions import grid
from tests.results_folder import BASELINE, make

AXES = {"quantize": ["none", "int8"], "distil": [0.0, 0.5], "requested_sparsity": [0.0, 0.5, 0.75]}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A grid in which 8 bits take a quarter of the bytes and a point of accuracy, and a teacher gives two points."""
    folder = grid(tmp_path / "study", AXES, seeds=1, noise=0)
    rows = pd.read_csv(folder / "trials.csv", dtype={"trial_id": str}).to_dict("records")
    write_rows(folder / "trials.csv", COLUMNS, [changed(row) for row in rows])
    return read(folder)


def changed(row: dict[Any, Any]) -> dict[str, Any]:
    taught = {name: row[name] + 0.02 * (row["distil"] > 0) for name in ("accuracy", "test_accuracy")}
    row = {key: value for key, value in row.items() if not pd.isna(value)} | taught | {"bits": 32, "latency_ms": 2.0}
    if row["quantize"] == "none":
        return row
    before = {f"float_{name}": row[name] for name in ("accuracy", "test_accuracy", "size_bytes", "latency_ms")}
    small = {name: row[name] // 4 for name in ("size_bytes", "sparse_size_bytes")}
    after = {name: row[name] - 0.01 for name in ("accuracy", "test_accuracy")}
    return row | before | small | after | {"bits": 8, "latency_ms": 1.0}


def test_a_quantized_network_is_drawn_twice_and_joined(results: Results) -> None:
    rows = quantization_data(results)
    assert rows.groupby(["cost", "bits"]).size().to_dict() == {
        ("latency_ms", 8): 6, ("latency_ms", 32): 12, ("size_bytes", 8): 6, ("size_bytes", 32): 12,
    }  # fmt: skip
    pairs = rows[rows["cost"] == "latency_ms"].groupby("trial_id").filter(lambda both: len(both) == 2)
    wide = pairs.pivot(index="trial_id", columns="bits")
    assert wide["value"].to_numpy().tolist() == [[1.0, 2.0]] * 6
    assert (wide["test_accuracy"][32] - wide["test_accuracy"][8]).to_numpy() == pytest.approx([0.01] * 6)
    figure = quantization(results)
    assert [ax.get_xlabel() for ax in figure.axes] == ["size (MB)", "latency (ms)"]
    joined = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 0.5]
    assert len(joined) == 6
    for line in joined:
        assert line.get_xdata()[0] == pytest.approx(4 * line.get_xdata()[1], rel=1e-3)


def test_a_machine_that_slows_down_slows_no_network_down(results: Results) -> None:
    """Half of the networks were timed while everything took twice as long, the dense network beside them too."""
    slow = np.where(np.arange(len(results.trials)) % 2, 2.0, 1.0)
    timed = {name: results.trials[name] * slow for name in ("latency_ms", "float_latency_ms")}
    rows = quantization_data(results._replace(trials=results.trials.assign(**timed, baseline_latency_ms=3.0 * slow)))
    latencies = rows[rows["cost"] == "latency_ms"]
    assert latencies.groupby("bits")["value"].nunique().to_dict() == {8: 1, 32: 1}
    ratios = latencies.groupby("bits")["value"].first()
    assert ratios[32] / ratios[8] == pytest.approx(2)


def test_ways_are_compared_in_ranges_of_size(results: Results) -> None:
    frame = ways(results).frame
    trials = results.trials.set_index("trial_id")
    for row in frame.to_dict("records"):
        best = trials.loc[row["trial_id"]]
        assert (best["bits"] == 8) == ("quantized" in row["way"])
        assert (best["sparsity"] > 0) == ("pruned" in row["way"])
        assert (best["distil"] > 0) == row["way"].endswith(", with teacher")
        low = {"1/32 to 1/16": 1 / 32, "1/16 to 1/8": 1 / 16, "1/8 to 1/4": 1 / 8, "1/4 to 1/2": 1 / 4}
        share = row["sparse_size_bytes"] / BASELINE["size_bytes"]
        floor = low.get(row["size_range"], 1 / 2)
        assert floor <= share < (2 * floor if floor < 1 / 2 else 2)
    assert frame["networks"].sum() == len(trials)
    found = {(row["size_range"], row["way"]): row["mean"] for row in frame.to_dict("records")}
    taught = {key: mean for key, mean in found.items() if key[1].endswith(", with teacher")}
    assert len(taught) == len(found) / 2
    for (size, way), mean in taught.items():
        assert mean - found[size, way.removesuffix(", with teacher")] == pytest.approx(0.02)


def test_effects_pair_recipes_with_and_without(results: Results) -> None:
    frame = effects(results).frame.set_index("axis")
    assert (frame.loc["distil", "level"], frame.loc["distil", "other"]) == ("0.5", "0")
    assert frame.loc["distil", "difference"] == pytest.approx(0.02)
    assert frame.loc["quantize", "level"] == "none"
    assert frame.loc["quantize", "difference"] == pytest.approx(0.01)


def test_a_study_without_either_shows_neither(tmp_path: Path) -> None:
    plain = read(make(tmp_path / "plain", measured=True))
    assert "quantization" not in registry.applicable(plain)
    assert "ways" not in applicable(plain)
