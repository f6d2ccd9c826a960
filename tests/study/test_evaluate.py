"""Saved networks, loaded in a fresh process, are what was measured."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from study import evaluate
from study.config import Recipe
from study.trials.steps import run_trial


@pytest.fixture(scope="module")
def saved(shared_in_both: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A masked and a cut network on disk, with their rows."""
    return networks(shared_in_both, tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def saved_in_fp32(shared: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return networks(shared, tmp_path_factory.mktemp("networks"))


def networks(shared: Any, folder: Path) -> Any:
    rows = {}
    for granularity in ("weight", "channel"):
        recipe = Recipe(granularity=granularity, sparsity=0.5, finetune_epochs=1, calibration_samples=64)
        rows[granularity], _, network, *_ = run_trial(recipe, 0, shared, torch.device("cpu"))
        card = {k: shared.baseline.card[k] for k in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
        tensors = {name: torch.tensor(array) for name, array in network.state.items()}
        models.save(folder / "models" / granularity, tensors, card | {"dataset": "digits"}, network.plan)
    return folder, rows


def test_a_fresh_process_finds_the_same_accuracy_and_cost(saved_in_fp32: Any) -> None:
    folder, rows = saved_in_fp32
    code = (
        "import json, sys, torch; from pathlib import Path; from study import evaluate; from study.data import splits\n"
        "torch.set_num_threads(1); d = splits.load('digits')\n"
        "print(json.dumps([evaluate.evaluate(Path(p), d, torch.device('cpu')) for p in sys.argv[1:]]))"
    )
    paths = [str(folder / "models" / name) for name in rows]
    output = subprocess.check_output([sys.executable, "-c", code, *paths], text=True)
    for measured, row in zip(json.loads(output.splitlines()[-1]), rows.values(), strict=True):
        assert measured["test accuracy"] == row["test_accuracy"]
        assert measured["parameters"] == row["params"]
        assert measured["nonzero"] == row["nonzero_params"]
        assert measured["MACs"] == row["macs"]


def test_the_command_shows_every_network_of_a_folder_and_that_zeros_save_no_time(
    saved: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rows = saved
    assert evaluate.main([str(folder), "--dataset", "digits"]) == 0
    shown = capsys.readouterr().out
    for name, row in rows.items():
        (line,) = [line for line in shown.splitlines() if line.startswith(name)]
        assert f"{row['test_accuracy']:.4f}" in line
        assert f"{row['macs']:,}" in line
    assert "dense kernels multiply them too" in shown


def truncated(folder: Any) -> None:
    path = folder / "weights.pt"
    path.write_bytes(path.read_bytes()[:1000])


def tampered(folder: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["num_classes"] = 7
    (folder / "card.json").write_text(json.dumps(card))


def foreign(folder: Any) -> None:
    (folder / "card.json").write_text("[1, 2]")


@pytest.mark.parametrize("harm", [truncated, tampered, foreign])
def test_damaged_files_get_one_message(
    saved: Any, tmp_path: Path, harm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, card = models.load(saved[0] / "models" / "weight")
    models.save(tmp_path / "x", model, card)
    harm(tmp_path / "x")
    assert evaluate.main([str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "x") in error
    assert len(error.strip().splitlines()) == 1


def test_a_folder_that_is_none_and_other_images_are_refused(
    saved: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main([str(tmp_path)]) == 2
    assert "card.json" in capsys.readouterr().err
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (8, 8)).save(tmp_path / part / name / f"{number}.png")
    arguments = [str(saved[0] / "models" / "weight"), "--dataset", "imagefolder", "--data-dir", str(tmp_path)]
    assert evaluate.main(arguments) == 2
    assert "the data set has" in capsys.readouterr().err
