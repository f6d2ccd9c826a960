"""Folders with a damaged journal: refused by line, and repaired into a new folder that goes on as the old one would."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import read
from analysis.results_folder import read_study
from study import run
from study.config import Recipe, StudyFile, parse
from study.config.recipe import EARLIER_DEFAULTS
from study.results import files
from study.results.repair import repair
from study.search.trial_queue import TrialQueue
from study.trials.rows import recipe_columns
from tests.malformed.rule import digest, end_of

SOUND = Path(__file__).parents[2] / "data" / "quickstart"
IDS = ["0000", "0001", "0002", "0003", "c0000"]
RECORD = 13  # index of the line with the row of trial 0000
Lines = list[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOUND, tmp_path / "old"))


def change(folder: Path, edit: Callable[[Lines], Lines]) -> None:
    path = folder / "optuna.journal"
    path.write_text("".join(line + "\n" for line in edit(path.read_text().splitlines())))


def edited(index: int, **changes: Any) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines[:index], json.dumps(json.loads(lines[index]) | changes), *lines[index + 1 :]]


def row_with(**cells: Any) -> Callable[[Lines], Lines]:
    def edit(lines: Lines) -> Lines:
        log = json.loads(lines[RECORD])
        log["user_attr"]["record"]["row"] |= cells
        return [*lines[:RECORD], json.dumps(log), *lines[RECORD + 1 :]]

    return edit


def study_of(folder: Path, trials: int = 4) -> StudyFile:
    content, _ = read_study(folder / "study.yaml")
    content["study"]["trials"] = trials
    content["space"] = EARLIER_DEFAULTS | content["space"]
    return parse(content, "study.yaml")


@pytest.mark.parametrize(
    ("edit", "line", "why"),
    [
        (lambda lines: lines[1:], 1, "is of study 0, which no line before it begins"),
        (lambda lines: lines[:4] + lines[5:], 5, "a trial begins, but no line before it holds the study file"),
        (lambda lines: lines[:5] + lines[6:], 6, "is of trial 0, which no line before it begins"),
        (lambda lines: lines[:8] + lines[9:], 13, "no line before it sets parameter 'scope'"),
        (lambda lines: lines[:13] + lines[14:], 14, "trial 0000 ends, but no line before it holds its row"),
        (lambda lines: [*lines[:13], lines[14], lines[13], *lines[15:]], 14, "trial 0000 ends, but no line"),
        (lambda lines: [*lines[:6], "null", *lines[7:]], 7, "is no line of a journal"),
        (lambda lines: [*lines[:6], '{"op_code"', *lines[7:]], 7, "is no line of a journal"),
        (edited(5, op_code=77), 6, "operation 77"),
        (edited(5, op_code=None), 6, "operation None"),
        (edited(6, trial_id=3), 7, "is of trial 3, which no line before it begins"),
        (edited(6, param_value_internal=9), 7, "IndexError"),
        (edited(5, study_id=7), 6, "is of study 7, which no line before it begins"),
        (edited(0, study_name="other"), 1, "is of the study 'other'; expected 'quickstart'"),
        (row_with(trial_id="0009"), 14, "its history is of another trial"),
        (row_with(kind="control"), 14, "holds the row of trial 0000"),
        (row_with(accuracy="high"), 14, "column accuracy: 'high'"),
        (row_with(accuracy=7.0), 14, "column accuracy: '7.0'"),
        (row_with(sparsity=None), 14, "column sparsity is missing"),
        (row_with(state="done"), 14, "state 'done'"),
        (lambda lines: lines[:30], 30, "trials.csv lists 3 more trials: 0002, 0003, c0000"),
        (lambda lines: [], 0, "trials.csv lists 5 more trials"),
    ],
)
def test_a_damaged_journal_is_refused_by_its_line(
    folder: Path, edit: Callable[[Lines], Lines], line: int, why: str
) -> None:
    change(folder, edit)
    for more in ([], ["--dry-run"]):
        (folder / ".lock").touch()  # as in every folder that was written to
        ending = end_of(run.main, ["--resume", str(folder), *more], folder)
        assert ending.code == 2
        assert not ending.broken
        assert f"{folder / 'optuna.journal'}: " in ending.err
        assert f" line {line}" in ending.err
        assert why in ending.err
        assert "--repair keeps what is readable" in ending.err


def test_an_old_folder_is_read_and_has_nothing_left_to_do(folder: Path) -> None:
    queue = TrialQueue(folder, study_of(folder))
    assert queue.ask() is None
    assert sorted(queue.store.records) == IDS
    expected = read(SOUND).trials.set_index("trial_id")
    for trial_id, (row, history) in queue.store.records.items():
        assert row["accuracy"] == expected.loc[trial_id, "accuracy"]
        assert row["seed"] == expected.loc[trial_id, "seed"]
        assert len(history) == 3
    queue.store.close()


def repaired(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    before = digest(folder)
    assert run.main(["--resume", str(folder), "--repair"]) == 0
    assert digest(folder) == before
    new = folder.with_name("old-repaired")
    out = capsys.readouterr().out
    assert f"--resume {new}" in out
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    return new, out


@pytest.mark.parametrize(
    ("edit", "damaged"),
    [
        (lambda lines: [*lines[:6], "\0\0\0", *lines[7:]], "7"),
        (lambda lines: lines[:5] + lines[6:], "none"),
        (lambda lines: [*lines[:RECORD], "{", *lines[RECORD + 1 :]], "14"),
        (lambda lines: [*lines[:RECORD], lines[22], *lines[RECORD + 1 : 22], lines[RECORD], *lines[23:]], "none"),
        (lambda lines: lines[:20], "none"),
        (lambda lines: [], "none"),
    ],
    ids=["zeros", "beginning of a trial gone", "row damaged", "rows exchanged", "cut off", "empty"],
)
def test_no_trial_is_lost_that_the_journal_or_the_tables_hold(
    folder: Path, edit: Callable[[Lines], Lines], damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, edit)
    for name in ("0001", "baseline"):
        files.write_correct(folder, name, np.array([True, False]))
    new, out = repaired(folder, capsys)
    assert {path.name for path in (new / "correct").iterdir()} == {"0001.npz", "baseline.npz"}
    assert f"cannot be read: {damaged}\n" in out
    assert "kept 5 trials; lost 0" in out
    for table in ("trials", "history"):
        kept, before = getattr(read(new), table), getattr(read(SOUND), table)
        assert set(kept.columns) == set(before.columns)  # columns that are newer than the folder may stand elsewhere
        assert kept[before.columns].equals(before)
    assert (new / "models" / "0002" / "layers.csv").read_bytes() == (SOUND / "models/0002/layers.csv").read_bytes()
    queue = TrialQueue(new, study_of(new, trials=6))
    recipe, row = queue.store.recipe("0000"), queue.store.records["0000"][0]
    assert [recipe["sparsity"], recipe["steps"]] == [row["requested_sparsity"], row["steps"]] == [0.8383730258962119, 5]
    assert queue.ask_control("dense", {}) is None
    assert [queue.ask().trial_id, queue.ask().trial_id, queue.ask()] == ["0004", "0005", None]
    queue.store.close()


def test_a_lost_trial_is_named_and_the_study_still_reaches_its_count(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, lambda lines: [*lines[:RECORD], "{", *lines[RECORD + 1 :]])
    (folder / "trials.csv").unlink()
    new, out = repaired(folder, capsys)
    assert "lost 0000: no readable line holds its row" in out
    assert "kept 4 trials; lost 1" in out
    queue = TrialQueue(new, study_of(new))
    assert sorted(queue.store.records) == IDS[1:]
    assert [queue.ask().trial_id, queue.ask()] == ["0004", None]
    queue.store.close()


def test_what_is_sound_or_repaired_already_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--resume", str(folder), "--repair"]) == 2
    assert "is not damaged" in capsys.readouterr().err
    change(folder, lambda lines: lines[1:])
    folder.with_name("old-repaired").mkdir()
    assert run.main(["--resume", str(folder), "--repair"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run.main(["--space", "quickstart", "--repair"]) == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("lost", [(0,), (1, 4), (5,)])
def test_a_repaired_grid_runs_each_point_and_seed_once(tmp_path: Path, lost: tuple[int, ...]) -> None:
    content = {
        "study": {"name": "x", "search": "grid", "seeds": 2, "confirm_seeds": 1},
        "space": {
            "criterion": "magnitude_l1", "granularity": "weight", "scope": ["global", "layer"],
            "schedule": "one_shot", "sparsity": [0.5, 0.7, 0.9],
        },
    }  # fmt: skip
    file = parse({**content, "space": {**content["space"], "finetune_lr": 0.01}}, "x")
    folder = tmp_path / "grid"
    folder.mkdir()
    queue = TrialQueue(folder, file)

    def tell(ticket: Any) -> None:
        row = recipe_columns(Recipe(**ticket.recipe)) | {"state": "complete", "error": None}
        queue.store.tell(ticket, row | {"accuracy": 0.5, "sparsity": 0.5}, [])

    for _ in range(8):
        tell(queue.ask())
    queue.store.close()
    lines = [json.loads(line) for line in (folder / "optuna.journal").read_text().splitlines()]
    kept = [
        log for log in lines if not (log["op_code"] == 8 and log["trial_id"] in lost and "record" in log["user_attr"])
    ]
    (folder / "optuna.journal").write_text("".join(json.dumps(log) + "\n" for log in kept))
    found = repair(folder, file)
    assert found.kept == 8 - len(lost)
    queue = TrialQueue(found.folder, file)
    while ticket := queue.ask():
        tell(ticket)
    runs = [(row["requested_sparsity"], row["scope"]) for row in queue.store.rows()]
    assert sorted(runs) == sorted([(s, scope) for s in (0.5, 0.7, 0.9) for scope in ("global", "layer")] * 2)
    assert len({row["seed"] for row in queue.store.rows()}) == 12
    confirmation = queue.ask_confirm([queue.store.records["0002"][0]])
    tell(confirmation)
    queue.store.close()
