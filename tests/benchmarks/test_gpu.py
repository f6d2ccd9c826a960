"""The script for GPUs, at toy size on the CPU: it looks at everything by name, and what is wrong is not overlooked."""

import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_rows, gpu_speed
from benchmarks.gpu_checks import SKIPPED, TIME_IS_UP, WRONG, Check, Given
from pruning.allocation.scopes import SCOPES
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES
from pruning.weights.masks import prunable


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of all parts but the study: its exit code and its table."""
    out = tmp_path_factory.mktemp("gpu")
    code = gpu.main(["--toy", "--device", "cpu", "--only", "rows", "epochs", "latency", "--out", str(out)])
    with (out / "checks.csv").open(newline="") as file:
        return code, list(csv.DictReader(file)), (out / "README.md").read_text()


def test_all_is_right_on_the_cpu(toy: Any) -> None:
    code, rows, _ = toy
    assert [row for row in rows if row["verdict"] == WRONG] == []
    assert code == 0
    assert {row["part"] for row in rows} == {"rows", "epochs", "latency"}


def test_every_criterion_granularity_scope_and_schedule_has_its_lines(toy: Any) -> None:
    named = {row["what"] for row in toy[1] if row["part"] == "rows" and row["verdict"] != SKIPPED}
    expected = [f"criterion {name}, channel" for name in CRITERIA]
    expected += [f"criterion {name}, weight" for name, form in CRITERIA.items() if form.weight]
    expected += [f"scope {name}, weight" for name in SCOPES]
    expected += [f"scope {name}, channel" for name, form in SCOPES.items() if form.channels]
    expected += [f"schedule {name}, {kind}" for name in SCHEDULES for kind in ("weight", "channel")]
    expected += [f"granularity {name}" if name != "n:m" else "granularity n:m (2:4)" for name in GRANULARITIES]
    assert set(expected) <= named


def test_the_document_says_how_and_where_and_has_every_line(toy: Any) -> None:
    _, rows, text = toy
    for words in ("python -m benchmarks.gpu --toy", "driver", f"torch {torch.__version__}", "no GPU"):
        assert words in text
    assert sum(line.startswith("| ") for line in text.splitlines()) == len(rows) + 1


def broken(given: Given) -> Iterator[Check]:
    yield Check("broken", "before")
    raise RuntimeError("a kernel\nfailed")


def fine(given: Given) -> Iterator[Check]:
    yield Check("fine", "after")


def test_a_part_that_fails_is_a_line_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PARTS", {"broken": gpu.Part(broken, 0.5), "fine": gpu.Part(fine, 0.5)})
    assert gpu.main(["--toy", "--device", "cpu", "--out", str(tmp_path)]) == 1
    with (tmp_path / "checks.csv").open(newline="") as file:
        rows = [(row["what"], row["verdict"], row["why"]) for row in csv.DictReader(file)]
    assert rows == [("before", "ok", ""), ("the part", WRONG, "RuntimeError: a kernel failed"), ("after", "ok", "")]


def test_a_criterion_that_chooses_otherwise_on_the_device_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's trials are the second ones."""
    runs: list[int] = []

    def turned(model: Any, batches: Any, generator: Any) -> Any:
        runs.append(1)
        return {name: (-1) ** len(runs) * weight.detach().abs() for name, weight in prunable(model).items()}

    monkeypatch.setitem(CRITERIA, "magnitude_l2", CRITERIA["magnitude_l2"]._replace(weight=turned))
    only = [case for case in gpu_rows.cases() if case.what == "criterion magnitude_l2, weight"]
    monkeypatch.setattr(gpu_rows, "cases", lambda: only)
    assert gpu.main(["--toy", "--device", "cpu", "--only", "rows", "--out", str(tmp_path)]) == 1
    assert "it chose other weights or channels than the CPU" in (tmp_path / "README.md").read_text()


def test_where_no_time_is_left_the_lines_say_so() -> None:
    given = Given(torch.device("cpu"), True, time.monotonic() - 1, 1, 64, None)
    checks = list(gpu_rows.rows(given))
    assert len(checks) > 50
    assert {(check.verdict, check.why) for check in checks} == {(SKIPPED, TIME_IS_UP)}


@pytest.mark.parametrize(
    ("code", "seconds", "why"),
    [
        ("", 20, None),
        ("print('Segmentation'); sys.exit(3)", 20, "its process ended with 3: noise Segmentation"),
        ("import time; time.sleep(60)", 3, "its process had not ended after 3 s"),
    ],
    ids=["ends", "fails", "hangs"],
)
def test_a_parts_process_gives_what_it_printed_whatever_becomes_of_it(code: str, seconds: float, why: Any) -> None:
    line = gpu.MARK + json.dumps(Check("rows", "first", 1.5, "s"))
    program = f"import sys; print('noise'); print({line!r}, flush=True); {code}"
    checks = list(gpu.by_process("rows", [sys.executable, "-c", program], seconds))
    assert checks[0] == Check("rows", "first", 1.5, "s")
    assert [(check.verdict, check.why) for check in checks[1:]] == ([(WRONG, why)] if why else [])


def test_without_a_gpu_there_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == gpu.main(["--toy", "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("error: no CUDA GPU that torch can use")


@pytest.mark.parametrize(("code", "done", "verdict"), [(0, 4, "ok"), (130, 4, "ok"), (1, 4, WRONG), (0, 3, WRONG)])
def test_a_studys_rate_is_that_of_its_trials_and_none_may_be_missing(
    monkeypatch: pytest.MonkeyPatch, code: int, done: int, verdict: str
) -> None:
    def finished(command: list[str], seconds: float, log: Path) -> Any:
        table = log.with_name("quickstart") / "trials.csv"
        table.parent.mkdir()
        rows = [
            f"{'complete' if i < done else 'failed'},{'' if i < done else 'why'},{100 + 2 * i},1.5" for i in range(4)
        ]
        table.write_text("\n".join(["state,error,finished,wall_seconds", *rows]))
        return code, "the last words"

    monkeypatch.setattr(gpu_speed, "_finished", finished)
    given = Given(torch.device("cpu"), True, time.monotonic() + 60, 1, 64, None)
    *ways, both = gpu_speed.study(given)
    assert [way.verdict for way in ways] == [verdict] * 2
    assert (both.verdict, both.value) == (("ok", 1.0) if verdict == "ok" else (SKIPPED, ""))
    if verdict == "ok":
        assert ways[0].value == 30  # one every two seconds


@pytest.mark.slow
@pytest.mark.ray
def test_the_study_gives_its_rates(tmp_path: Path) -> None:
    assert gpu.main(["--toy", "--device", "cpu", "--only", "study", "--out", str(tmp_path)]) == 0
    assert "x the trials" in (tmp_path / "README.md").read_text()
