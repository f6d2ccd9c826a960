"""The command, end to end and from outside: a real study on Ray, killed and taken up again; and wrong input."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import models
from study import run
from tests.conftest import TINY

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SETTINGS = [part for setting in [*TINY, "space.scope=[global, layer]"] for part in ("--set", setting)]


def command(*arguments: Any) -> Any:
    return [sys.executable, "-m", "study.run", *map(str, arguments)]


def start(*arguments: Any) -> Any:
    return subprocess.Popen(command(*arguments), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def rows(folder: Any, name: Any = "trials.csv") -> Any:
    with open(folder / name) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def killed(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of 8 trials, killed with SIGKILL once three are written down, then resumed to its end."""
    out = tmp_path_factory.mktemp("out")
    folder = out / "quickstart"
    first = start("--space", "quickstart", "--out", out, "--trials", 8, *SETTINGS)
    lines = []
    for line in first.stdout:
        lines.append(line)
        if "(3/8)" in line:
            os.kill(first.pid, signal.SIGKILL)
            break
    first.wait()
    before = [line.split()[1] for line in lines if line.startswith("trial ")]
    time.sleep(1)  # Ray's processes follow their driver
    second = start("--resume", folder)
    output, _ = second.communicate(timeout=600)
    return folder, before, "".join(lines), output, second.returncode


def test_no_finished_trial_is_lost_and_none_runs_twice(killed: Any) -> None:
    folder, before, _, output, code = killed
    assert code == 0, output
    search = [row for row in rows(folder) if row["kind"] == "search"]
    assert len(search) == 8
    assert Counter(row["state"] for row in search) == {"complete": 8}
    after = [line.split()[1] for line in output.splitlines() if line.startswith("trial ")]
    assert len(before) == 3
    assert not set(before) & set(after)
    assert {row["trial_id"] for row in rows(folder)} == {*before, *after}


def test_the_baseline_is_trained_once(killed: Any) -> None:
    _, _, first, second, _ = killed
    assert "kept in" in first
    assert "epoch 1/" not in second


def test_the_results_folder_holds_what_it_should(killed: Any) -> None:
    folder = killed[0]
    content = yaml.safe_load((folder / "study.yaml").read_text())
    assert content["study"]["trials"] == 8
    assert {"versions", "git_commit", "hardware", "command", "baseline"} <= set(content["record"])
    history = rows(folder, "history.csv")
    assert {h["trial_id"] for h in history} == {r["trial_id"] for r in rows(folder)}
    front = rows(folder, "pareto.csv")
    assert front
    assert {p.name for p in (folder / "models").iterdir()} == {r["trial_id"] for r in front} | {"c0000"}
    dense, card = models.load(folder / "baseline")
    assert (
        sum(p.numel() for p in dense.parameters())
        == card["metrics"]["params"]
        == content["record"]["baseline"]["params"]
    )
    for name in ("front.png", "front.pdf", "accuracy_by_schedule.png"):
        assert (folder / "figures" / name).stat().st_size > 1000
    for name in ("summary.csv", "summary.md", "summary.tex"):
        assert (folder / "tables" / name).stat().st_size > 50


def test_the_dense_control_had_the_same_fine_tuning(killed: Any) -> None:
    (control,) = [row for row in rows(killed[0]) if row["kind"] == "control"]
    best = max((r for r in rows(killed[0]) if r["kind"] == "search"), key=lambda r: float(r["accuracy"]))
    assert (control["schedule"], float(control["sparsity"])) == ("dense", 0.0)
    assert control["finetune_lr"] == best["finetune_lr"]


def test_a_network_of_the_front_is_the_one_that_was_measured(killed: Any) -> None:
    import torch

    from study.baseline.training import read_data
    from study.config import read_study
    from study.training import device_data, evaluation

    folder = killed[0]
    row = rows(folder, "pareto.csv")[0]
    model, card = models.load(folder / "models" / row["trial_id"])
    data = read_data(read_study("quickstart", TINY).baseline, None)
    assert card["class_names"] == list(data.class_names)
    images = device_data.on_device(data, torch.device("cpu"))
    accuracy = evaluation.evaluate(model, images, torch.tensor(data.test))
    assert accuracy == pytest.approx(float(row["test_accuracy"]), abs=1e-9)


def test_a_finished_study_can_be_given_more_trials_and_its_folder_is_not_taken_twice(
    killed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = killed[0]
    assert run.main(["--space", "quickstart", "--out", str(folder.parent)]) == 2
    assert f"--resume {folder}" in capsys.readouterr().err


def test_ctrl_c_keeps_everything_and_prints_how_to_go_on(cache: Any, tmp_path: Path) -> None:
    process = start("--space", "quickstart", "--out", tmp_path, "--trials", 50, *SETTINGS)
    output = ""
    for line in process.stdout:
        output += line
        if "(2/50)" in line:
            process.send_signal(signal.SIGINT)
            break
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert f"python -m study.run --resume {tmp_path / 'quickstart'}" in output
    assert "Traceback" not in output
    assert len(rows(tmp_path / "quickstart")) >= 2


def broken(path: Any, text: Any) -> Any:
    path.write_text(text)
    return path


def image_folder(folder: Any, classes: Any) -> Any:
    for name in classes:
        (folder / "train" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "train" / name / "0.png")
    (folder / "train").mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "nowhere.yaml"], "nowhere.yaml: no such study file"),
        (["--space", lambda t: broken(t / "b.yaml", "study: [")], "b.yaml: not readable as YAML"),
        (["--space", lambda t: broken(t / "e.yaml", "")], "e.yaml: is empty"),
        (["--space", "quickstart", "--set", "baseline.epoch=3"], "baseline.epoch: unknown key"),
        (["--space", "quickstart", "--set", "space.criterion=size"], "unknown criterion 'size'; choices: magnitude_l1"),
        (["--space", "quickstart", "--set", "space.sparsity={low: 0.9, high: 0.2}"], "low 0.9 is above high 0.2"),
        (["--space", "quickstart", "--set", "space.sparsity=1.5"], "sparsity"),
        (["--space", "quickstart", "--trials", "0"], "study.trials"),
        (["--space", "quickstart", "--set", "baseline.model=nowhere:net"], "nowhere cannot be imported"),
        (["--space", "quickstart", "--set", "baseline.checkpoint=nowhere.pt"], "nowhere.pt"),
        (["--space", "quickstart", "--set", "baseline.model=vgg11_bn"], "too small"),
        (["--space", "quickstart", "--set", "baseline.train_samples=9999"], "train_samples 9999"),
        (
            ["--space", "schedules", "--set", "baseline.dataset=imagefolder", "--set", "baseline.image_size=8"],
            "--data-dir",
        ),
        (
            ["--space", "schedules", "--set", "baseline.dataset=imagefolder", "--set", "baseline.image_size=8",
             "--data-dir", lambda t: image_folder(t, ["cat"])],
            "one class only (cat)",
        ),
        (
            ["--space", "schedules", "--set", "baseline.dataset=imagefolder", "--set", "baseline.image_size=8",
             "--data-dir", lambda t: image_folder(t, [])],
            "no class",
        ),
        (["--space", "quickstart", "--set", "space.calibration_samples=5000"], "space.calibration_samples: 5000"),
        (["--space", "quickstart", "--set", "space.protect=[nothing]"], "there is no module 'nothing'; choices: conv1"),
        (["--space", "quickstart", "--set", "space.criterion=nowhere:f"], "criterion nowhere:f: nowhere cannot be"),
        (["--resume", lambda t: t], "no results folder of a study"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_message_and_exit_code_2(
    arguments: Any, message: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(a(tmp_path)) if callable(a) else a for a in arguments]
    out = tmp_path / "out"
    code = run.main([*given, "--out", str(out)])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists() or not any(out.rglob("*"))


def test_a_dry_run_shows_the_study_and_its_cost_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run.main(["--space", "schedules", "--dry-run", "--out", str(tmp_path), "--set", "baseline.model=resnet20"]) == 0
    )
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown.split("recipes:")[0])["baseline"]["model"] == "resnet20"
    assert "60 trials" in shown
    assert not any(tmp_path.iterdir())


def test_a_dry_run_counts_epochs_where_the_schedule_depends_on_the_granularity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run.main(["--space", "quickstart", "--dry-run", "--set", "space.granularity=[weight, 2:4, hybrid]"]) == 0
    assert "24 trials of 3.0 fine-tuning epochs on average" in capsys.readouterr().out


def test_a_whole_study_runs_in_bf16(cache: Any, tmp_path: Path) -> None:
    settings = [*SETTINGS, "--set", "study.controls=[]", "--trials", 2]
    environment = os.environ | {"STUDY_PRECISION": "bf16", "STUDY_CACHE": str(tmp_path / "cache")}
    arguments = command("--space", "quickstart", "--out", tmp_path, *settings)
    done = subprocess.run(arguments, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert [row["state"] for row in rows(tmp_path / "quickstart")] == ["complete"] * 2
