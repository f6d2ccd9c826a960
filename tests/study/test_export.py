"""A file is written where it is the saved network on all test images; what is not, or is wrongly asked, leaves none."""

import copy
import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
import pruning
from analysis import results_folder as frame
from models.formats import FORMATS, write_program
from study import export
from study.baseline.network import save as save_baseline
from study.config import read_study
from study.config.columns import COLUMNS, HISTORY
from study.results.files import write_rows, write_study
from study.training import device_data
from tests.conftest import TINY

CPU = torch.device("cpu")
ROWS = {  # trial: granularity, sparsity, accuracy, feasible, saved
    "0000": ("weight", 0.5, 0.95, True, True),
    "0001": ("channel", 0.8, 0.90, True, True),
    "0002": ("channel", 0.9, 0.30, True, False),
    "0003": ("weight", 0.4, 0.99, False, True),
    "0004": ("weight", 0.1, 0.97, True, False),
}


class Branching(nn.Module):
    """What torch cannot export: it goes where the pixels say."""

    def __init__(self, num_classes: Any, in_shape: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(math.prod(in_shape), num_classes)

    def forward(self, images: Any) -> Any:
        logits = self.fc(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


@pytest.fixture(scope="module")
def folder(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A results folder: a masked network, a cut one, one that broke a constraint, and two that were not kept."""
    folder = tmp_path_factory.mktemp("results") / "quickstart"
    folder.mkdir()
    common = {"kind": "search", "state": "complete", "schedule": "one_shot", "accuracy_drop": 0, "test_accuracy": 0.9}
    rows = [
        {**common, "trial_id": trial, "granularity": kind, "requested_sparsity": sparsity, "sparsity": sparsity}
        | {"accuracy": accuracy, "feasible": feasible}
        for trial, (kind, sparsity, accuracy, feasible, _) in ROWS.items()
    ]
    write_rows(folder / "trials.csv", COLUMNS, rows)
    write_rows(folder / "history.csv", HISTORY, [])
    write_study(folder, read_study("quickstart", TINY).resolved(), {"schema_version": 1, "data_dir": None})
    save_baseline(folder / "baseline", shared.baseline, {})
    for trial, (kind, sparsity, *_, saved) in ROWS.items():
        if saved:
            dense = shared.baseline.network(CPU).eval()
            network, cut = pruning.prune(dense, torch.zeros(1, 1, 8, 8), sparsity=sparsity, granularity=kind)
            models.save(folder / "models" / trial, network, shared.baseline.card, cut if kind == "channel" else None)
    return folder


def test_agreement_counts_images_and_takes_the_largest_difference() -> None:
    """1,200 images of two pixels (three batches); the logits are the pixels, of which the other program swaps five."""
    pixels = torch.tensor([[0, 255], [255, 0]], dtype=torch.uint8).repeat(600, 1).view(1200, 1, 2, 1)
    images = device_data.Images(pixels, torch.zeros(1200, dtype=torch.int64), torch.zeros(1), torch.ones(1))
    seen = 0

    def other(inputs: Any) -> Any:
        nonlocal seen
        logits, first = inputs.flatten(1).clone(), seen
        seen += len(logits)
        for image in (0, 499, 500, 1000, 1199):
            if first <= image < seen:
                logits[image - first] = logits[image - first].flip(0)
        return logits

    found = export.compare(nn.Flatten(), other, images, torch.arange(1200))
    assert found == (1200, 5, 1.0)
    assert math.isnan(export.compare(nn.Flatten(), lambda x: x.flatten(1) * math.nan, images, torch.arange(3))[2])


@pytest.mark.parametrize(("trial", "expected"), [("best", "0000"), ("knee", "0001"), ("0003", "0003")])
def test_which_trial_is_meant(folder: Any, trial: Any, expected: Any) -> None:
    """The most accurate that is feasible and saved; of the front 0004, 0000, 0001, 0002 the one farthest out."""
    assert export.chosen(frame.read(folder), trial) == expected


def command(folder: Any, *arguments: Any) -> Any:
    return export.main([str(folder), *map(str, arguments)])


def test_the_command_checks_on_all_test_images_and_times_both_networks(
    folder: Any, shared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(folder, "--trial", "best", "--format", "onnx", "--out", tmp_path / "new") == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["quickstart_0000.onnx"]
    lines = capsys.readouterr().out.splitlines()
    assert f"same top-1 on all {len(shared.data.test)} test images" in lines[1]
    assert lines[2].split() == ["ms", "PyTorch", "onnxruntime"]
    numbers = np.array([[float(cell) for cell in line.split()[1:]] for line in lines[3:6]])
    assert [line.split()[0] for line in lines[3:6]] == ["dense", "pruned", "speedup"]
    assert numbers[2] == pytest.approx(numbers[0] / numbers[1], rel=0.01)


def test_all_networks_of_the_search_by_names_made_of_their_columns(
    folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "latencies", lambda job: [{"ms": "pruned", "PyTorch": 1.0}])
    every = ("--trial", "all", "--format", "exported_program", "--out")
    assert command(folder, *every, f"{tmp_path}/{{granularity}}_{{requested_sparsity:.0%}}.pt2") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"weight_50%.pt2", "channel_80%.pt2", "weight_40%.pt2"}
    for name, message in (
        ("{granularity}.pt2", "several networks would be written to"),
        ("{colour}.pt2", "'colour' of trial 0000 cannot be filled in; columns: trial_id, "),
        ("{confirms}.pt2", "'confirms' of trial 0000 cannot be filled in"),
        ("{sparsity.pt2", "cannot be filled in"),
    ):
        capsys.readouterr()
        assert command(folder, *every, f"{tmp_path}/new/{name}") == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_without_the_baseline_the_dense_row_is_left_out_and_that_is_said(
    folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(own / "baseline")
    path = tmp_path / "net.pt2"
    assert command(own, "--trial", "knee", "--format", "exported_program", "--out", path) == 0
    out = capsys.readouterr().out
    assert "dense: left out" in out
    assert "speedup" not in out
    extra = {"mean": "", "std": "", "trial_id": ""}
    torch.export.load(path, extra_files=extra)
    card = models.load(folder / "models" / "0001")[1]
    assert [json.loads(extra["mean"]), json.loads(extra["std"])] == [card["mean"], card["std"]]
    assert extra["trial_id"] == "0001"


def other_classes(network: Any, example: Any, about: Any, path: Any) -> None:
    """An exporter that gets one thing wrong: the classes are in another order."""
    network[-1].weight.data = network[-1].weight.data.roll(1, 0)
    write_program(network, example, about, path)


def no_numbers(network: Any, example: Any, about: Any, path: Any) -> None:
    network[-1].bias.data = network[-1].bias.data * math.nan
    write_program(network, example, about, path)


@pytest.mark.parametrize(("write", "said"), [(other_classes, "top-1 differs on"), (no_numbers, "nan")])
def test_a_file_that_is_another_network_does_not_replace_what_was_there(
    folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    write: Any,
    said: Any,
) -> None:
    def wrong(network: Any, *rest: Any) -> None:
        write(copy.deepcopy(network), *rest)

    monkeypatch.setitem(FORMATS, "exported_program", FORMATS["exported_program"]._replace(write=wrong))
    path = tmp_path / "net.pt2"
    path.write_text("of yesterday")
    assert command(folder, "--trial", "0000", "--format", "exported_program", "--out", path) == 1
    assert said in refusal(capsys)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of yesterday"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_that_torch_cannot_export_gets_one_message(
    folder: Any, shared: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: Any
) -> None:
    own = shutil.copytree(folder, tmp_path / "copy")
    card = shared.baseline.card | {"model": "tests.study.test_export:Branching"}
    models.save(own / "models" / "0009", Branching(10, (1, 8, 8)), card)
    assert command(own, "--trial", "0009", "--format", form, "--out", tmp_path / "files") == 1
    assert "the export of trial 0009 failed" in refusal(capsys)
    assert list((tmp_path / "files").iterdir()) == []


def refusal(capsys: pytest.CaptureFixture[str]) -> Any:
    """The one line on stderr."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def no_networks(folder: Any) -> None:
    shutil.rmtree(folder / "models")


def only_the_infeasible(folder: Any) -> None:
    shutil.rmtree(folder / "models" / "0000")
    shutil.rmtree(folder / "models" / "0001")


def no_front(folder: Any) -> None:
    write_rows(folder / "trials.csv", COLUMNS, [{"trial_id": "0000", "kind": "search", "state": "failed"}])


def damaged(folder: Any) -> None:
    (folder / "models" / "0000" / "weights.pt").write_bytes(b"")


@pytest.mark.parametrize(
    ("harm", "arguments", "said"),
    [
        (shutil.rmtree, {}, "no results folder"),
        (no_networks, {}, "holds no saved networks"),
        (damaged, {}, "weights.pt"),
        (None, {"--trial": "0099"}, "there is no such trial; saved: 0000, 0001, 0003"),
        (None, {"--trial": "../0000"}, "there is no such trial"),
        (None, {"--trial": "0002"}, "0002 was not kept; saved: 0000, 0001, 0003"),
        (only_the_infeasible, {"--trial": "best"}, "no feasible network is saved; saved: 0003"),
        (no_front, {"--trial": "knee"}, "no knee"),
        (None, {"--out": "net.onnx"}, "should end in .pt2"),
        (None, {"--out": "a file/net.pt2"}, "a file"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    folder: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    harm: Any,
    arguments: Any,
    said: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").write_text("")
    own = shutil.copytree(folder, tmp_path / "copy")
    if harm:
        harm(own)
    given = {"--trial": "0000", "--format": "exported_program", "--out": "files"} | arguments
    assert command(own, *[part for pair in given.items() for part in pair]) == 2
    assert said in refusal(capsys)
    assert not list(tmp_path.rglob("*.pt2"))


def test_a_missing_extra_is_named(
    folder: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else there(name))
    assert command(folder, "--trial", "best", "--format", "onnx") == 2
    assert "--format onnx needs onnxscript; install the extra: pip install '.[export]'" in refusal(capsys)


def test_an_unknown_format_names_the_choices(folder: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command(folder, "--trial", "best", "--format", "tensorrt")
    assert stopped.value.code == 2
    assert "exported_program" in capsys.readouterr().err
