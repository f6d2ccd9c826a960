"""Repairs a results folder whose journal is damaged: a new folder with all trials that can still be read."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from analysis import results_folder
from study.config import StudyFile, parse
from study.results import files
from study.search.journal_check import Known, salvage
from study.search.trial_queue import TrialQueue
from study.search.trial_store import in_order, opened


class Repaired(NamedTuple):
    """The new folder, how many trials it keeps, the ids of lost ones with the reason, and the damaged lines."""

    folder: Path
    kept: int
    lost: dict[str, str]
    damaged: list[int]

    def __str__(self) -> str:
        lines = ", ".join(map(str, self.damaged[:20])) + ", ..." * (len(self.damaged) > 20) or "none"
        lost = [f"lost {trial_id}: {self.lost[trial_id]}" for trial_id in in_order(self.lost)]
        kept = f"{self.folder}: kept {self.kept} trials; lost {len(lost)}"
        return "\n".join([f"lines of the journal that cannot be read: {lines}", *lost, kept])


def repair(folder: Path, file: StudyFile) -> Repaired:
    """Write a new folder beside a damaged one, which stays as it is.

    Raises ValueError if the journal is sound, or the new folder exists.
    """
    new = folder.resolve().with_name(f"{folder.resolve().name}-repaired")
    if new.exists():
        raise ValueError(f"{new}: exists already; move it away to repair {folder} again")
    if _is_sound(folder, file):
        raise ValueError(f"{folder / 'optuna.journal'}: is not damaged; --resume without --repair goes on with it")
    found = salvage(folder / "optuna.journal", file)
    trials = {trial_id: known for trial_id, known in found.trials.items() if _is_near(trial_id, folder)}
    for trial_id, listed in _listed(folder).items():  # latencies are measured, and written to the journal, later
        known = trials.get(trial_id, listed)
        trials[trial_id] = known._replace(row={**listed.row, **known.row})
    temporary = new.with_name(f".{os.getpid()}.{new.name}")
    temporary.mkdir()
    try:
        lost = _write(folder, temporary, file, trials, found.measured)
        os.rename(temporary, new)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Repaired(new, len(trials) - len(lost.keys() & trials.keys()), lost, found.damaged)


def _write(
    folder: Path, new: Path, file: StudyFile, trials: dict[str, Known], measured: dict[str, Any]
) -> dict[str, str]:
    queue = TrialQueue(new, file)
    try:
        lost = queue.take_over(trials)
        for trial_id in measured.keys() & queue.store.records.keys():
            queue.store.measured(trial_id, measured[trial_id])
        files.project(new, queue.store.records)
    finally:
        queue.store.close()
    for trial_id in queue.store.records:
        _copy(folder / "models" / trial_id, new / "models" / trial_id)
        for name in (f"errors/{trial_id}.txt", f"correct/{trial_id}.npz"):
            _copy(folder / name, new / name)
    for name in ("study.yaml", "layer_scores.csv", "layer_latencies.csv", "baseline", "correct/baseline.npz"):
        _copy(folder / name, new / name)
    with suppress(ValueError, OSError):  # if it is damaged too, the scan is done anew
        scan = folder / "scan"
        if _is_sound(scan, parse(results_folder.read_study(scan / "study.yaml")[0], "scan")):
            _copy(scan, new / "scan")
    return lost


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)


def _is_sound(folder: Path, file: StudyFile) -> bool:
    try:
        opened(folder, file)
    except ValueError:
        return False
    return True


def _is_near(trial_id: str, folder: Path) -> bool:
    """Whether there can be as many trials: each has more than a hundred bytes in the journal."""
    return int(trial_id.lstrip("ck")) <= (folder / "optuna.journal").stat().st_size // 100


def _listed(folder: Path) -> dict[str, Known]:
    """The trials in trials.csv and history.csv; none if these are damaged too."""
    try:
        results = results_folder.read(folder)
    except ValueError:
        return {}
    history: dict[str, list[dict[str, Any]]] = {}
    for line in results.history.to_dict("records"):
        history.setdefault(line["trial_id"], []).append(_present(line))
    rows = [_present(row) for row in results.trials.to_dict("records")]
    empty = dict.fromkeys(["error", "finetune_epochs", *results_folder.RECIPE]) | {"protect": ""}
    return {row["trial_id"]: Known({**empty, **row}, history.get(row["trial_id"], []), {}) for row in rows}


def _present(row: dict[Any, Any]) -> dict[str, Any]:
    """The cells that are not empty, as plain Python values."""
    return {key: getattr(value, "item", lambda v=value: v)() for key, value in row.items() if not pd.isna(value)}
