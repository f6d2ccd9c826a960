"""The latencies of layers are measured once, and read again as they were."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import models
from pruning.channels.graph import dependency_graph
from study.baseline import layer_latencies
from study.config import Recipe
from study.trials.steps import run_trial
from tests.pruning.measure.test_layer_latency import by_macs

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def tables() -> Any:
    return layer_latencies.measure(models.build("resnet8", 10, SHAPE), SHAPE, torch.device("cpu"))


def never() -> Any:
    raise AssertionError("measured again")


def test_what_was_measured_is_read_again(tables: Any, tmp_path: Path) -> None:
    path = tmp_path / "layer_latencies.csv"
    assert layer_latencies.kept(path, lambda: tables) is tables
    again = layer_latencies.kept(path, never)
    assert list(again) == list(tables)
    for name, table in tables.items():
        assert (again[name].outputs, again[name].inputs) == (table.outputs, table.inputs)
        assert np.array_equal(again[name].nanoseconds, table.nanoseconds)


@pytest.mark.parametrize(("old", "new"), [("layer,", "name,"), (".0,", ".0,x"), (",1,", ",,"), ("\n", "\nx,1,1,nan\n")])
def test_a_damaged_file_is_refused(tables: Any, tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "layer_latencies.csv"
    layer_latencies.kept(path, lambda: tables)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"layer_latencies\.csv: not the layers' latencies .*measured again"):
        layer_latencies.kept(path, never)
    shutil.rmtree(tmp_path)


def test_a_trial_counts_what_its_study_measured(shared: Any) -> None:
    """Where a multiply-add takes a nanosecond, a target of time is one of multiply-adds."""
    network = shared.baseline.network(torch.device("cpu"))
    graph = by_macs(dependency_graph(network, torch.zeros(1, *shared.data.in_shape)))
    common = {"granularity": "channel", "sparsity": 0.4, "finetune_epochs": 0, "calibration_samples": 64}
    rows = [
        run_trial(
            Recipe(**common, sparsity_of=what), 0, shared._replace(latencies=graph.latencies), torch.device("cpu")
        ).row
        for what in ("macs", "latency")
    ]
    assert rows[0]["macs"] == rows[1]["macs"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
