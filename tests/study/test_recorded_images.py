"""Commands that take a results folder read the images where the study had them, as it read them."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import models
from pruning.measure import latency
from study import evaluate, export, run
from study.config import StudyFile, parse
from study.config.columns import COLUMNS, HISTORY
from study.data import splits
from study.driver import dry_run
from study.results.files import write_rows, write_study
from study.search.trial_queue import TrialQueue

CLASSES = ("cat", "dog", "owl")
SPACE = {"criterion": ["magnitude_l1", "random"], "granularity": "weight", "schedule": "one_shot", "scope": "global"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with one network, of a study of images that lie in `images` and are read with 8 pixels."""
    random = np.random.default_rng(0)
    for part, count in (("train", 10), ("test", 4)):
        for number in range(count * len(CLASSES)):
            path = tmp_path / "images" / part / CLASSES[number % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(path)
    section = {"model": "resnet8", "dataset": "imagefolder", "image_size": 8, "epochs": 1}
    content = {"study": {"name": "mine", "trials": 2}, "baseline": section, "space": SPACE}
    file: StudyFile = parse(content, "mine.yaml")
    folder = tmp_path / "mine"
    folder.mkdir()
    write_study(folder, file.resolved(), {"schema_version": 1, "data_dir": str(tmp_path / "images")})
    write_rows(folder / "trials.csv", COLUMNS, [])
    write_rows(folder / "history.csv", HISTORY, [])
    card = {"model": "resnet8", "num_classes": 3, "in_shape": [3, 8, 8], "class_names": CLASSES, "mean": [0.5] * 3}
    torch.manual_seed(0)
    network = models.build("resnet8", 3, (3, 8, 8))
    for name in ("baseline", "models/0001"):
        models.save(folder / name, network, {**card, "std": [0.2] * 3, "dataset": "imagefolder"})
    TrialQueue(folder, file).store.close()
    return folder


@pytest.fixture
def commands(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(0.001, 0.001))
    monkeypatch.setattr(evaluate, "measure_latency", partial(latency.measure_latency, seconds=0.01))
    monkeypatch.setattr(export, "_export_and_time", lambda job: None)  # takes seconds
    return [
        [evaluate.main, folder],
        [evaluate.main, folder / "models" / "0001"],
        [evaluate.main, folder / "baseline", "--dataset", "imagefolder"],
        [export.main, folder, "--trial", "0001", "--format", "exported_program", "--out", tmp_path / "exported"],
        [run.main, "--resume", folder, "--dry-run"],
    ]


def code_of(command: list[Any], *more: Any) -> int:
    main, *arguments = command
    return int(main([str(argument) for argument in (*arguments, *more)]))


def test_the_images_are_found_where_they_were_and_a_flag_wins(
    folder: Path, tmp_path: Path, commands: list[list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    data = splits.load("imagefolder", data_dir=tmp_path / "images", image_size=8)
    accuracy = evaluate.evaluate(folder / "models" / "0001", data, torch.device("cpu"))["test accuracy"]
    for command in commands:
        assert code_of(command) == 0, capsys.readouterr().err
        assert command[0] is not evaluate.main or f"{accuracy:.4f}" in capsys.readouterr().out
    (tmp_path / "images").rename(tmp_path / "moved")
    for command in commands:
        capsys.readouterr()
        assert code_of(command) == 2
        error = capsys.readouterr().err
        said = (
            f"{folder / 'study.yaml'}: the images of this study were in {tmp_path / 'images'}, which is no folder now"
        )
        assert error == f"error: {said}; --data-dir DIR says where they are\n"
        assert code_of(command, "--data-dir", tmp_path / "moved") == 0, capsys.readouterr().err


def test_a_network_that_was_copied_out_is_told_its_images(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "models" / "0001", tmp_path / "elsewhere" / "net")
    assert evaluate.main([str(tmp_path / "elsewhere" / "net")]) == 2
    assert "imagefolder needs --data-dir DIR" in capsys.readouterr().err
    assert evaluate.main([str(tmp_path / "elsewhere" / "net"), "--data-dir", str(tmp_path / "images")]) == 0
