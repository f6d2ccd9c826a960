"""The command `pruning-study`, from folders with packages of the project's names; functions named by their file."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from study import cli

ROOT = Path(__file__).parents[2]
SCRIPT = "import sys; from study.cli import main; sys.exit(main())"  # as pip writes it
NO_FIGURES = "from analysis.figures.registry import FIGURES; FIGURES.clear(); "  # drawing all takes 10 seconds
MINE = """
import os
from pathlib import Path

from torch import nn
from pruning import prunable

class Net(nn.Sequential):
    pass  # a class that exists in this file only

def net(num_classes, in_shape):
    return Net(nn.Conv2d(in_shape[0], 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes))

def value(model, batches, generator):
    Path(__file__).with_name("niceness").write_text(str(os.nice(0)))
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}
"""
BY_FILE = ["baseline.model=nets/mine.py:net", "space.criterion=nets/mine.py:value"]
SMALL = ["baseline.epochs=1", "baseline.train_samples=400", "space.finetune_epochs=1", "space.calibration_samples=64"]
ONE = ["space.granularity=weight", "space.scope=global", "space.schedule=one_shot", "space.sparsity=0.5"]


def settings(*changes: Any) -> Any:
    return [part for change in changes for part in ("--set", change)]


def typed(where: Any, *start: Any) -> Any:
    """Runs a command in a folder, with the project on the path behind it, as if installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *start], cwd=where, env=environment, text=True, capture_output=True)


def script(where: Any, *arguments: Any, code: str = SCRIPT) -> Any:
    return typed(where, "-P", "-c", code, *arguments)


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    """A folder with a user's own packages, two of the project's names among them."""
    for name in ("models", "analysis", "nets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')" * (name != "nets"))
    (tmp_path / "nets" / "mine.py").write_text(MINE)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str], arguments: Any) -> None:
    assert cli.main(arguments) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert listed == ["run", "trial", "report", "compare", "evaluate", "export", "replay"] == list(cli.COMMANDS)


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert f'version = "{capsys.readouterr().out.split()[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_an_unknown_command_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rum"]) == 2
    assert capsys.readouterr().err.startswith("error: unknown command 'rum'; choices: run, trial, report,")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_called_what_was_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["pruning-study", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pruning-study {name} [-h]")


def test_the_code_of_the_command_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pruning-study"])
    assert cli.main(["run", "--space", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["replay", "--no-such-flag"])
    assert ended.value.code == 2


def test_only_the_command_that_is_needed_is_imported() -> None:
    code = "import sys; from study import cli; cli.main([]); print([n for n in ('torch', 'ray') if n in sys.modules])"
    assert typed(ROOT, "-c", code).stdout.endswith("\n[]\n")


def test_what_shadows_the_project_is_named(mine: Any) -> None:
    run = typed(mine, "-m", "study.run", "--space", "quickstart", "--dry-run")
    assert run.returncode == 2
    assert run.stderr == (
        "error: ./models shadows this project's package `models`; rename it, run the command in another folder, "
        "or type `pruning-study` instead of `python -m`\n"
    )


def test_a_folder_without_modules_shadows_nothing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    run = typed(tmp_path, "-m", "study.cli", "--help")
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.ray
def test_the_script_and_its_workers_run_where_packages_have_the_projects_names_also_in_bf16(
    mine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_PRECISION", "bf16")
    (mine / "study").mkdir()
    (mine / "study" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    changes = [*BY_FILE, *SMALL, *ONE, "study.controls=[]", "resources.niceness=3", "resources.concurrency=1"]
    run = script(mine, "run", "--space", "quickstart", "--trials", "2", *settings(*changes), code=NO_FIGURES + SCRIPT)
    assert run.returncode == 0, run.stdout + run.stderr
    with (mine / "results/quickstart/trials.csv").open() as file:
        assert [row["state"] for row in csv.DictReader(file)] == ["complete"] * 2
    assert int((mine / "nets" / "niceness").read_text()) == os.nice(0) + 3
    assert "command: pruning-study run --space quickstart" in (mine / "results/quickstart/study.yaml").read_text()


def test_a_trial_takes_a_network_and_a_criterion_by_their_file(
    mine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(mine)
    monkeypatch.setattr(sys, "argv", ["pruning-study"])
    assert cli.main(["trial", "--space", "quickstart", *settings(*BY_FILE, *SMALL, *ONE)]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (row["state"], row["criterion"]) == ("complete", "nets/mine.py:value")
    assert row["sparsity"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("baseline.model=nets/other.py:net", "model nets/other.py:net: .*there is no file .*/nets/other.py"),
        ("baseline.model=nets/mine.py:other", "model nets/mine.py:other: .*/nets/mine.py has no function 'other'"),
        ("space.criterion=nets/other.py:value", "criterion nets/other.py:value: .*there is no file"),
        ("space.criterion=nets/mine.py:other", "criterion nets/mine.py:other: .* has no function 'other'"),
        ("baseline.model=net", "unknown model 'net'; choices: .*or package.module:function, or path/file.py:function"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_message(
    mine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], change: Any, reason: Any
) -> None:
    monkeypatch.chdir(mine)
    monkeypatch.setattr(sys, "argv", ["pruning-study"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["trial", "--space", "quickstart", "--set", change]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") < 4
    assert re.search(reason, told), told


def test_a_baseline_is_trained_anew_when_its_file_changes(mine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from study.baseline import disk_cache, training
    from study.config import read_study

    monkeypatch.chdir(mine)
    section = read_study("quickstart", [BY_FILE[0]]).baseline
    data = training.read_data(section, None)
    before = disk_cache.key(section, data)
    assert disk_cache.key(section, data) == before
    (mine / "nets" / "mine.py").write_text(MINE + "\n# another\n")
    assert disk_cache.key(section, data) != before


def test_help_and_a_misspelt_flag_need_not_wait_for_torch() -> None:
    program = "import sys; from study.run import main\ntry: main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    for arguments, code in ((["--help"], 0), (["--space", "quickstart", "--sed", "1"], 2)):
        command = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (code, "False"), done.stderr
