"""Results folders with anything in their files: each command is right or refuses the folder, and leaves it as it is."""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from analysis import compare, report, results_folder
from analysis.figures import registry
from analysis.refusal import refused
from study import replay, run
from study.driver import dry_run
from study.search import journal
from tests.malformed import mutations
from tests.malformed.rule import Ending, end_of

SOUND = Path(__file__).parents[1] / "data" / "quickstart"
TRIALS = ["0000", "0001", "0002", "0003", "c0000"]


def read_all(arguments: list[str]) -> int:
    """What the report reads, without its tables, figures and page, which take seconds."""
    try:
        results = results_folder.read(arguments[0])
        for read in (results_folder.scores_of, results_folder.importance_of, results_folder.scans):
            read(results)
        results_folder.layers_of(results, results.trials)
    except (ValueError, OSError) as error:
        return refused(error)
    return 0


COMMANDS: dict[str, Callable[[Path], Ending]] = {
    "read": lambda folder: end_of(read_all, [str(folder)], folder),
    "report": lambda folder: end_of(report.main, [str(folder)], folder),
    "compare": lambda folder: end_of(compare.main, [str(folder), str(SOUND)], folder),
    "replay": lambda folder: end_of(replay.main, [str(folder), "--sampler", "random", "--trials", "3"], folder),
    "resume": lambda folder: end_of(run.main, ["--resume", str(folder), "--dry-run"], folder),
}
MANY, FEW = ["read", "compare", "replay", "resume"], ["report", "compare", "replay", "resume"]  # commands for cases
CSVS = ["trials.csv", "history.csv", "layer_scores.csv", "importance.csv", "models/0002/layers.csv"]


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "estimate", lambda file, data_dir: "")  # takes seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fresh(tmp_path / "study")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOUND, folder)
    return folder


def by_line(content: bytes, draw: random.Random) -> bytes:
    """A journal in which a line holds something else."""
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json.dumps(mutations.changed_tree(json.loads(lines[at]), draw)).encode(errors="surrogatepass")
    return b"\n".join(lines) + b"\n"


def by_tree(content: bytes, draw: random.Random) -> bytes:
    return yaml.safe_dump(mutations.changed_tree(yaml.safe_load(content), draw)).encode()


def by_cell(content: bytes, draw: random.Random) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode())))
    for _ in range(draw.choice((1, 1, 3))):
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = str(draw.choice((*mutations.HOSTILE, *draw.choice(rows))))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def spoil(path: Path, draw: random.Random, content: Callable[[bytes, random.Random], bytes]) -> None:
    change = draw.choice((content, content, mutations.changed_lines, mutations.changed_bytes))
    path.write_bytes(change(path.read_bytes(), draw))


def check(ending: Ending, command: str, case: int, path: Path) -> None:
    text = path.read_bytes()[:3000].decode(errors="replace")
    assert not ending.broken, f"case {case}: {command}: {ending.broken}\n{text}"
    if ending.code == 2:
        assert path.name in ending.err, f"case {case}: {command}: {ending.err}"


@pytest.mark.parametrize(
    ("seed", "cases", "commands"),
    [
        (0, 30, MANY),
        pytest.param(1, 1000, MANY, marks=pytest.mark.slow),
        pytest.param(2, 100, FEW, marks=pytest.mark.slow),
    ],
)
def test_any_study_yaml_is_right_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, cases: int, commands: list[str]
) -> None:
    monkeypatch.setattr(registry, "FIGURES", {})  # which take seconds
    draw = random.Random(seed)
    for case in range(cases):
        folder = fresh(tmp_path / "study")
        spoil(folder / "study.yaml", draw, by_tree)
        command = draw.choice(commands)
        check(COMMANDS[command](folder), command, case, folder / "study.yaml")


@pytest.mark.parametrize(("seed", "cases"), [(0, 60), pytest.param(1, 2000, marks=pytest.mark.slow)])
def test_any_journal_is_right_or_refused(tmp_path: Path, seed: int, cases: int) -> None:
    draw = random.Random(seed)
    for case in range(cases):
        folder = fresh(tmp_path / "study")
        spoil(folder / "optuna.journal", draw, by_line)
        ending = COMMANDS["resume"](folder)
        check(ending, "resume", case, folder / "optuna.journal")
        if ending.code == 0:
            lines = (folder / "optuna.journal").read_bytes().splitlines(keepends=True)
            logs = [json.loads(line) for line in lines if journal._is_line(line)]
            rows = [log["user_attr"]["record"]["row"] for log in logs if "record" in log.get("user_attr", {})]
            assert list(dict.fromkeys(row["trial_id"] for row in rows)) == TRIALS, (
                f"case {case}: a trial was lost in silence"
            )
        else:
            assert " line " in ending.err or "was changed after the study began" in ending.err, ending.err


@pytest.mark.parametrize(("seed", "cases"), [(0, 30), pytest.param(1, 1000, marks=pytest.mark.slow)])
def test_any_table_is_right_or_refused(tmp_path: Path, seed: int, cases: int) -> None:
    draw = random.Random(seed)
    for case in range(cases):
        folder = fresh(tmp_path / "study")
        name = draw.choice([*CSVS[:2], *CSVS])
        spoil(folder / name, draw, by_cell)
        command = draw.choice(["read", "read", "compare", "replay"])
        check(COMMANDS[command](folder), command, case, folder / name)


@pytest.mark.slow
def test_any_table_has_a_whole_report_or_is_refused(tmp_path: Path) -> None:
    draw = random.Random(2)
    for case in range(30):
        folder = fresh(tmp_path / "study")
        name = draw.choice([*CSVS[:2], *CSVS])
        (folder / name).write_bytes(by_cell((folder / name).read_bytes(), draw))
        check(COMMANDS["report"](folder), "report", case, folder / name)
