"""A study on Ray whose recipes quantize and learn from the dense network."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from analysis import results_folder
from models.formats import open_onnx
from study.baseline.training import read_data
from study.config import read_study
from study.quantization import runtime
from study.training import device_data
from tests.conftest import TINY

pytestmark = [pytest.mark.ray, pytest.mark.slow]
SETTINGS = [
    *TINY, "study.search=grid", "study.trials=2", "study.save=all", "study.objectives={accuracy: max, size_bytes: min}",
    "space.granularity=channel", "space.criterion=magnitude_l1", "space.scope=layer", "space.schedule=one_shot",
    "space.sparsity=0.5", "space.steps=1", "space.finetune_lr=0.01", "space.distil=0.5", "space.quantize=[none,int8]",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "study.run", "--space", "quickstart", "--out", str(out), *settings]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return out / "quickstart"


def test_rows_have_accuracy_bytes_and_latency_of_the_8_bits(folder: Path) -> None:
    trials = results_folder.read(folder).trials.set_index("trial_id")
    search = trials[trials["kind"] == "search"].set_index("quantize")
    floats, int8 = search.loc["none"], search.loc["int8"]
    assert (floats["bits"], int8["bits"]) == (32, 8)
    assert int8["size_bytes"] < floats["size_bytes"] == int8["float_size_bytes"]
    assert set(trials["runtime"]) == {"onnxruntime"}
    assert int8["speedup"] == pytest.approx(int8["baseline_latency_ms"] / int8["latency_ms"])
    assert int8["float_latency_ms"] > 0


def test_the_dense_control_had_the_same_teacher_and_32_bits(folder: Path) -> None:
    trials = results_folder.read(folder).trials
    (control,) = trials[trials["kind"] == "control"].to_dict("records")
    assert (control["distil"], control["temperature"], control["quantize"], control["bits"]) == (0.5, 4.0, "none", 32)


def test_the_network_that_came_through_ray_is_the_one_that_was_measured(folder: Path) -> None:
    trials = results_folder.read(folder).trials
    (row,) = trials[trials["quantize"] == "int8"].to_dict("records")
    content = models.load_onnx(folder / "models" / row["trial_id"])
    assert len(content) == row["size_bytes"]
    data = read_data(read_study("quickstart", TINY).baseline, None)
    placed = device_data.place(data, torch.device("cpu"))
    assert runtime.correct(open_onnx(content), placed.images, placed.test).mean() == row["test_accuracy"]
    saved = {path.name for path in folder.glob("models/*/network.onnx")}
    assert (len(list(folder.glob("models/*/network.onnx"))), saved) == (1, {"network.onnx"})
