"""Recipes that end in 8 bits: their rows, what is saved of them, and who is told what is missing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import models
from analysis import results_folder
from study import evaluate, export, run, trial
from study.baseline.network import save as save_baseline
from study.config import Recipe, read_study
from study.config.columns import COLUMNS, HISTORY
from study.data.transforms import normalise
from study.quantization import int8
from study.results.files import write_rows, write_study
from study.trials.context import Outcome
from study.trials.steps import run_trial
from tests.conftest import TINY
from tests.malformed.test_saved_networks import put

CPU = torch.device("cpu")


def outcome(shared: Any, quantize: str = "int8", **recipe: Any) -> Outcome:
    complete = {"granularity": "channel", "sparsity": 0.5, "finetune_epochs": 1, "calibration_samples": 64} | recipe
    return run_trial(Recipe(**complete, quantize=quantize), 0, shared, CPU)


@pytest.fixture(scope="module")
def quantized(shared: Any) -> Outcome:
    """A cut network in 8 bits."""
    return outcome(shared)


def answers(content: bytes, shared: Any, rows: np.ndarray) -> float:
    """Accuracy of an ONNX file, by onnxruntime alone."""
    images, labels = shared.data.images[rows], shared.data.labels[rows]
    inputs = normalise(torch.tensor(images), shared.data.mean, shared.data.std).contiguous().numpy()
    (logits,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"images": inputs})
    return float((logits.argmax(1) == labels).mean())


def test_a_row_tells_of_the_8_bits_and_of_the_network_before(shared: Any, quantized: Outcome) -> None:
    row, before = quantized.row, outcome(shared, "none").row
    assert (row["state"], row["quantize"], row["bits"], before["bits"]) == ("complete", "int8", 8, 32)
    assert set(row) <= set(COLUMNS)
    content = quantized.network.int8
    assert row["accuracy"] == answers(content, shared, shared.data.validation)
    assert row["test_accuracy"] == answers(content, shared, shared.data.test) == quantized.correct.mean()
    assert row["accuracy_drop"] == row["baseline_accuracy"] - row["accuracy"]
    for name in ("accuracy", "test_accuracy", "size_bytes"):
        assert row[f"float_{name}"] == before[name]
    for name in ("sparsity", "channel_sparsity", "params", "nonzero_params", "macs", "nonzero_macs"):
        assert row[name] == before[name]
    assert row["size_bytes"] == len(content)
    assert row["params"] < row["sparse_size_bytes"] < row["size_bytes"] < before["size_bytes"]
    json.dumps(row)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        {"granularity": "weight", "sparsity": 0.8},
        {"granularity": "hybrid", "sparsity": 0.7},
        {"granularity": "2:4", "sparsity": 0.5},
        {"granularity": "weight", "sparsity": 0.0, "finetune_epochs": 0},
    ],
)
def test_every_granularity_keeps_its_zeros_and_its_accuracy(shared: Any, recipe: Any) -> None:
    row, _, network, *_ = outcome(shared, **recipe)
    assert (row["state"], row["error"]) == ("complete", None)
    assert abs(row["accuracy"] - row["float_accuracy"]) < 0.03
    graph = onnx.load_model_from_string(network.int8).graph
    weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT8]
    zeros = sum(int((array == 0).sum()) for array in weights if array.ndim > 1)
    held = sum(array.size for array in weights if array.ndim > 1)
    floats = [array for name, array in network.state.items() if name.endswith("weight") and array.ndim > 1]
    pruned = sum(int(np.size(array)) - int(np.count_nonzero(array)) for array in floats)
    assert pruned <= zeros < pruned + 0.1 * held  # rounding adds some


@pytest.mark.slow
def test_a_timed_trial_is_measured_in_the_studys_runtime(shared: Any) -> None:
    timed = shared._replace(timed=True, runtime="onnxruntime")
    for quantize in ("int8", "none"):
        row = outcome(timed, quantize, finetune_epochs=0).row
        assert row["runtime"] == "onnxruntime"
        assert row["speedup"] == pytest.approx(row["baseline_latency_ms"] / row["latency_ms"])
        assert ("float_latency_ms" in row) == (quantize == "int8")


def test_what_cannot_be_quantized_is_a_failed_row(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr(int8, "quantize", refuse)
    row, history, network, traceback, _ = outcome(shared)
    assert (row["state"], row["error"]) == ("failed", "NotImplementedError: no kernel for this")
    assert "accuracy" not in row
    assert (len(history), network) == (1, None)
    assert "refuse" in traceback


@pytest.fixture(scope="module")
def results(shared: Any, quantized: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a study with one network, in 8 bits."""
    folder = tmp_path_factory.mktemp("results") / "quickstart"
    row = quantized.row | {"trial_id": "0000", "kind": "search", "feasible": True}
    write_study(folder, read_study("quickstart", TINY).resolved(), {"schema_version": 1, "data_dir": None})
    write_rows(folder / "trials.csv", COLUMNS, [row])
    write_rows(folder / "history.csv", HISTORY, [])
    save_baseline(folder / "baseline", shared.baseline, {})
    assert quantized.network is not None
    state, plan, _, content = quantized.network
    tensors = {name: torch.tensor(array) for name, array in state.items()}
    models.save(folder / "models" / "0000", tensors, shared.baseline.card | {"dataset": "digits"}, plan, content)
    return folder


def test_both_networks_come_back(results: Path, quantized: Outcome) -> None:
    network, card = models.load(results / "models" / "0000")
    assert models.load_onnx(results / "models" / "0000") == quantized.network.int8
    assert models.load_onnx(results / "baseline") is None
    assert sum(p.numel() for p in network.parameters()) == quantized.row["params"]
    assert set(card["sha256"]) == {"weights.pt", "plan.json", "network.onnx"}
    assert results_folder.read(results).trials["bits"].tolist() == [8]


def test_the_saved_network_is_evaluated_in_8_bits(
    results: Path, quantized: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(results / "models" / "0000")]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    row = quantized.row
    expected = f"{row['test_accuracy']:.4f}", f"{row['size_bytes']:,}", f"{row['sparse_size_bytes']:,}", "cut, int8"
    assert [part for part in expected if part not in line] == []


def test_a_table_of_both_kinds_says_that_two_runtimes_were_timed(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for paths, said in ((["baseline", "models/0000"], True), (["baseline"], False), (["models/0000"], False)):
        assert evaluate.main([str(results / path) for path in paths]) == 0
        assert ("Latencies of int8 networks are onnxruntime's" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "onnxruntime cannot run it"), (b"\x08\x0a" * 100, "onnxruntime cannot run it"), (None, "cannot be read")],
)
def test_a_damaged_file_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, reason: str
) -> None:
    folder = Path(shutil.copytree(results / "models" / "0000", tmp_path / "net"))
    if content is None:
        (folder / "network.onnx").unlink()
    else:
        put(folder, "network.onnx", content)
    assert evaluate.main([str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {folder / 'network.onnx'}: {reason}")


def test_a_changed_file_and_one_that_nobody_vouches_for_are_refused(results: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(results / "models" / "0000", tmp_path / "net"))
    with (folder / "network.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"network.onnx: sha256 of its"):
        models.load(folder)
    other = Path(shutil.copytree(results / "baseline", tmp_path / "other"))
    shutil.copy(results / "models" / "0000" / "network.onnx", other)
    with pytest.raises(ValueError, match=r"network.onnx: is not part of"):
        models.load_onnx(other)
    model, card = models.load(results / "baseline")
    models.save(other, model, card)
    assert not (other / "network.onnx").exists()


def test_the_export_takes_normalised_images_or_pixels(
    results: Path, shared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "latencies", lambda job: [{"ms": ""}])
    rows, accuracies = shared.data.test, []
    for name, flags in (("plain", []), ("pixels", ["--normalise"])):
        path = tmp_path / f"{name}.onnx"
        given = [str(results), "--trial", "best", "--format", "onnx", "--out", str(path), *flags]
        assert export.main(given) == 0
        assert f"the file against the study's own: same top-1 on all {len(rows)} test" in capsys.readouterr().out
        content = path.read_bytes()
        about = {p.key: p.value for p in onnx.load_model_from_string(content).metadata_props}
        assert json.loads(about["mean"]) == pytest.approx(shared.data.mean.tolist())
        if flags:
            pixels = np.moveaxis(shared.data.images[rows], -1, 1).copy()
            logits = onnxruntime.InferenceSession(content).run(None, {"images": pixels})[0]
            accuracies.append(float((logits.argmax(1) == shared.data.labels[rows]).mean()))
        else:
            accuracies.append(answers(content, shared, rows))
    assert accuracies == [results_folder.read(results).trials["test_accuracy"][0]] * 2


@pytest.mark.parametrize("command", [["run"], ["run", "--dry-run"], ["trial"]])
def test_a_study_that_quantizes_names_what_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else there(name))
    main = {"run": run.main, "trial": trial.main}[command[0]]
    out = ["--out", str(tmp_path / "out")] if command[0] == "run" else []
    assert main(["--space", "quickstart", "--set", "space.quantize=[none,int8]", *command[1:], *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: space.quantize int8 needs onnxruntime; install the extra: pip install '.[export]'"
    assert not (tmp_path / "out").exists()


def test_an_exported_program_is_the_network_before_and_takes_pixels_too(
    results: Path, shared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "latencies", lambda job: [{"ms": ""}])
    path, rows = tmp_path / "net.pt2", shared.data.test
    given = [str(results), "--trial", "0000", "--format", "exported_program", "--out", str(path), "--normalise"]
    assert export.main(given) == 0
    images = torch.tensor(shared.data.images[rows])
    logits = torch.export.load(path).module()(images.permute(0, 3, 1, 2).contiguous())
    expected = models.load(results / "models" / "0000")[0](normalise(images, shared.data.mean, shared.data.std))
    assert torch.allclose(logits, expected, atol=1e-4)
