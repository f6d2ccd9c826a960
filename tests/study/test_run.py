"""The command, end to end and from outside: a study on Ray, interrupted, killed and finished; and wrong input."""

import csv
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image

import models
from analysis.page.answer import answer
from analysis.results_folder import read
from analysis.statistics.tested_images import shares
from study import export, run
from study.driver import dry_run
from study.results.messages import duration
from tests.conftest import TINY

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SMALL = [*TINY, "space.granularity=channel", "space.criterion=magnitude_l1", "space.sparsity={low: 0.2, high: 0.6}"]
LATER = [
    "space.finetune_samples=300", "study.confirm_seeds=2", "study.controls=[dense, scratch]",
    "baseline.epochs=10",  # time to interrupt
    "study.screen={candidates: 3, images: 100}",
]  # fmt: skip
SETTINGS = [part for setting in [*SMALL, *LATER] for part in ("--set", setting)]
TRIALS = 4
RESUME = "python -m study.run --resume"


# The command, with two of the figures, and little time for each latency, as all takes long. Where it resumes, without
# Ray's dashboard, which takes a third of the computing of a start.
RUN = """if True:
    import sys
    from functools import partial
    import ray
    from study.driver import sweep
    sweep.speeds = partial(sweep.speeds, seconds=0.02)
    start = ray.init
    if "--resume" in sys.argv:
        ray.init = lambda **options: start(**options | {"include_dashboard": False})
    from analysis.figures.registry import FIGURES
    from study.run import main
    for name in set(FIGURES) - {"front", "accuracy_by_schedule"}:
        del FIGURES[name]
    sys.exit(main())
"""


def command(*arguments: Any) -> Any:
    return [sys.executable, "-c", RUN, *map(str, arguments)]


def start(*arguments: Any) -> Any:
    return subprocess.Popen(command(*arguments), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def rows(folder: Any, name: Any = "trials.csv", *, screened: bool = False) -> Any:
    """The rows of a table; of trials.csv either those that were trained, or the candidates that were only screened."""
    with open(folder / name) as file:
        return [row for row in csv.DictReader(file) if (row.get("state") == "screened") == screened]


class Lived(NamedTuple):
    """A study that was interrupted, killed and then finished: its folder; output and exit code of each process."""

    folder: Path
    outputs: list[str]
    codes: list[int]


def until(process: Any, mark: str, sent: signal.Signals | None) -> Any:
    """Reads a process's output to its end; sends the signal once a line contains `mark`. Output and exit code."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if sent and mark in line:
            process.send_signal(sent)
            sent = None
    return "".join(lines), process.wait(timeout=600)


@pytest.fixture(scope="module")
def lived(cache: Any, tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """A study of channels: Ctrl-C while its baseline is trained, SIGKILL after two trials, then finished."""
    out = tmp_path_factory.mktemp("out")
    folder = out / "quickstart"
    process = start("--space", "quickstart", "--out", out, "--trials", TRIALS, *SETTINGS)
    ended = [until(process, "epoch 1/", signal.SIGINT)]
    for mark, sent in ((f"(2/{TRIALS})", signal.SIGKILL), ("", None)):
        ended.append(until(start("--resume", folder), mark, sent))
        time.sleep(1)  # Ray's processes follow their driver
    return Lived(folder, [output for output, _ in ended], [code for _, code in ended])


def finished(output: str) -> list[str]:
    """Ids of the trials whose lines are in a process's output."""
    return [line.split()[1] for line in output.splitlines() if line.startswith("trial ")]


def of(lived: Lived, kind: str, **columns: Any) -> Any:
    return [row for row in rows(lived.folder) if row["kind"] == kind and all(row[c] == v for c, v in columns.items())]


def test_no_finished_trial_is_lost_and_none_runs_twice(lived: Lived) -> None:
    assert lived.codes == [130, -signal.SIGKILL, 0], lived.outputs
    search = of(lived, "search")
    assert len(search) == TRIALS
    assert Counter(row["state"] for row in search) == {"complete": TRIALS}
    told = [trial_id for output in lived.outputs for trial_id in finished(output)]
    assert len(finished(lived.outputs[1])) >= 2
    assert len(set(told)) == len(told)
    assert {row["trial_id"] for row in rows(lived.folder)} == set(told)


def test_of_three_candidates_one_is_trained(lived: Lived) -> None:
    """Those that were lost before they were screened left no row; a chosen one that was lost was not screened again."""
    others, trained = rows(lived.folder, screened=True), of(lived, "search")
    assert 0 <= 2 * TRIALS - len(others) <= 2  # a kill between one row and the next leaves no row of the other
    assert sum(row["screened_accuracy"] == "" for row in trained) <= 2  # as many run at once
    for row in [*others, *trained]:
        assert 0 <= float(row["screened_accuracy"] or 0) <= 1
        assert 0 < float(row["sparsity"]) < 1
    assert {(row["accuracy"], row["test_accuracy"], row["feasible"]) for row in others} == {("", "", "False")}


def test_ctrl_c_while_the_baseline_is_trained_ends_it_in_order(lived: Lived) -> None:
    output = lived.outputs[0]
    assert output.endswith(f"interrupted; all finished trials are kept. Continue with:\n  {RESUME} {lived.folder}\n")
    assert "Traceback" not in output
    assert "epoch 10/" not in output
    assert "   dashboard: http://127.0.0.1:" in output


def test_the_baseline_is_trained_once(lived: Lived) -> None:
    assert "kept in" in lived.outputs[1]  # by the process that came to the end of it
    assert "epoch 1/" not in lived.outputs[2]


def test_the_results_folder_holds_what_it_should(lived: Lived) -> None:
    folder = lived.folder
    content = yaml.safe_load((folder / "study.yaml").read_text())
    assert content["study"]["trials"] == TRIALS
    assert {"versions", "git_commit", "hardware", "command", "baseline"} <= set(content["record"])
    history = rows(folder, "history.csv")
    assert {h["trial_id"] for h in history} == {r["trial_id"] for r in rows(folder)}
    front = rows(folder, "pareto.csv")
    assert front
    saved = {r["trial_id"] for r in front} | {r["trial_id"] for r in of(lived, "control")}
    assert {p.name for p in (folder / "models").iterdir()} == saved
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


def test_the_dense_control_had_the_same_fine_tuning(lived: Lived) -> None:
    (control,) = of(lived, "control", schedule="dense")
    best = max(of(lived, "search"), key=lambda r: float(r["accuracy"]))
    assert (control["schedule"], float(control["sparsity"])) == ("dense", 0.0)
    assert control["finetune_lr"] == best["finetune_lr"]
    assert control["finetune_samples"] == "300"


def test_a_network_of_the_front_is_the_one_that_was_measured(lived: Lived) -> None:
    import torch

    from study.baseline.training import read_data
    from study.config import read_study
    from study.training import device_data, evaluation

    folder = lived.folder
    row = rows(folder, "pareto.csv")[0]
    model, card = models.load(folder / "models" / row["trial_id"])
    data = read_data(read_study("quickstart", TINY).baseline, None)
    assert card["class_names"] == list(data.class_names)
    images = device_data.on_device(data, torch.device("cpu"))
    accuracy = evaluation.evaluate(model, images, torch.tensor(data.test))
    assert accuracy == pytest.approx(float(row["test_accuracy"]), abs=1e-9)


def test_it_ends_with_the_answer_the_page_and_a_command_that_works(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dict(line.split(": ", 1) for line in lived.outputs[2].splitlines()[-3:])
    assert list(said) == ["answer", "report", "next"]
    assert said["answer"] == answer(read(lived.folder))[0]
    assert Path(said["report"]).is_file()
    _, _, name, *arguments = shlex.split(said["next"], comments=True)
    assert name == "study.export"
    assert export.main([*arguments, "--out", str(tmp_path / "network.pt2")]) == 0, capsys.readouterr()
    assert (tmp_path / "network.pt2").is_file()


def test_answers_to_every_test_image_are_kept_of_every_network_and_of_the_baseline(lived: Lived) -> None:
    results = read(lived.folder)
    tested = results.trials.set_index("trial_id")["test_accuracy"].dropna()
    assert {path.stem for path in (lived.folder / "correct").iterdir()} == {*tested.index, "baseline"}
    for name, accuracy in [*tested.items(), ("baseline", results.record["baseline"]["test_accuracy"])]:
        found = shares(results, [str(name)])
        assert found is not None
        assert float(np.mean(found)) == pytest.approx(accuracy)


def test_a_finished_study_can_be_given_more_trials_and_its_folder_is_not_taken_twice(
    lived: Lived, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lived.folder
    assert run.main(["--space", "quickstart", "--out", str(folder.parent)]) == 2
    assert f"--resume {folder}" in capsys.readouterr().err


def test_every_point_of_the_front_runs_with_two_more_seeds(lived: Lived) -> None:
    front = [row["trial_id"] for row in rows(lived.folder, "pareto.csv")]
    assert front
    assert len(of(lived, "search")) == TRIALS
    assert len(of(lived, "confirm")) == 2 * len(front)
    by_id = {row["trial_id"]: row for row in rows(lived.folder)}
    for trial_id in front:
        again = of(lived, "confirm", confirms=trial_id)
        assert len({row["seed"] for row in [*again, by_id[trial_id]]}) == 3
        for row in again:
            assert row["state"] == "complete"
            same = ("criterion", "scope", "schedule", "requested_sparsity", "finetune_lr", "steps")
            assert [row[key] for key in same] == [by_id[trial_id][key] for key in same]


def test_cut_networks_of_the_front_are_trained_anew(lived: Lived) -> None:
    anew = of(lived, "control", schedule="scratch")
    by_id = {row["trial_id"]: row for row in rows(lived.folder)}
    assert sorted(row["confirms"] for row in anew) == sorted(
        row["trial_id"] for row in rows(lived.folder, "pareto.csv")
    )
    for row in anew:
        assert row["state"] == "complete"
        assert row["params"] == by_id[row["confirms"]]["params"]
    assert len(of(lived, "control", schedule="dense")) == 1


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
        (["--space", "quickstart", "--set", "space.finetune_samples=[64, 5000]"], "space.finetune_samples: 5000, but"),
        (["--space", "quickstart", "--set", "space.finetune_samples=0"], "space: finetune_samples: input should be"),
        (["--space", "quickstart", "--set", "space.protect=[nothing]"], "there is no module 'nothing'; choices: conv1"),
        (["--space", "quickstart", "--set", "space.criterion=nowhere:f"], "criterion nowhere:f: nowhere cannot be"),
        (["--space", "quickstart", "--address", "head"], "--address 'head': expected auto, or HOST:PORT"),
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


def test_a_dry_run_counts_the_candidates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The quickstart calibrates on 256 images; digits have 144 for validation, fewer than screening asks for."""
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(1e-9, 1.0))
    took = []
    for screen in ("null", "{candidates: 5}"):
        run.main(["--space", "quickstart", "--dry-run", "--set", f"study.screen={screen}"])
        said = capsys.readouterr().out
        took.append(re.search(r"\), (\d+) min a trial", said)[1])
        assert ("each the best of 5 candidates" in said) == (screen != "null")
    assert int(took[1]) - int(took[0]) == pytest.approx(5 * (256 + 144) / 60, abs=1)


def test_a_dry_run_counts_the_images_of_fine_tuning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits: 1,438 images for training, of which 144 are for validation and 1,294 remain; one second for each."""
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(1.0, 1e-9))
    given = ["--space", "quickstart", "--dry-run", "--set", "space.finetune_epochs=3"]
    for samples, hours in (("null", 3 * 1294 / 3600), ("{low: 100, high: 300}", 3 * 200 / 3600)):
        assert run.main([*given, "--set", f"space.finetune_samples={samples}"]) == 0
        assert f" for the baseline (none if it is cached), {duration(3600 * hours)} a trial" in capsys.readouterr().out


def test_a_dry_run_runs_no_more_at_once_than_the_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(1.0, 1e-9))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for settings, at_once in (((), 8), (("cpus=3",), 2), (("concurrency=5",), 5), (("cpus=3", "concurrency=5"), 2)):
        given = [part for setting in settings for part in ("--set", f"resources.{setting}")]
        assert run.main(["--space", "quickstart", "--dry-run", *given]) == 0
        assert f" for all, {at_once} at once\n" in capsys.readouterr().out


def test_a_dry_run_counts_the_evaluation_in_8_bits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digits: 144 images for validation and 359 for tests, 100 for calibration; one second for each."""
    monkeypatch.setattr(dry_run, "_pace", lambda *_: dry_run.Pace(1e-9, 1.0))
    given = ["--space", "quickstart", "--dry-run", "--set", "space.finetune_epochs=0"]
    given += ["--set", "space.calibration_samples=100"]
    for kinds, seconds in (("none", 503), ("int8", 2 * 503 + 100), ("[none, int8]", 1.5 * 503 + 50)):
        assert run.main([*given, "--set", f"space.quantize={kinds}"]) == 0
        assert f" {duration(seconds)} a trial" in capsys.readouterr().out
