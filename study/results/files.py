"""Writes the results folder from the trial store; every file is replaced atomically, by rename."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models.files import write_whole
from study.config.columns import COLUMNS, HISTORY, IMPORTANCE, LAYERS


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV with `columns` in this order; missing values are empty cells."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_layers(path: Path, dense: list[dict[str, Any]], pruned: list[dict[str, Any]]) -> None:
    """Write a CSV with the costs of every layer, dense and pruned; both as returned by `cost.layer_costs`."""
    rows = [{**{f"dense_{k}": v for k, v in a.items()}, **b} for a, b in zip(dense, pruned, strict=True)]
    write_rows(path, LAYERS, rows)


def project(folder: Path, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
    """Write trials.csv and history.csv from the store's records (trial_id -> row, history)."""
    ordered = [records[trial_id] for trial_id in sorted(records, key=lambda trial_id: (len(trial_id), trial_id))]
    write_rows(folder / "trials.csv", COLUMNS, (row for row, _ in ordered))
    write_rows(folder / "history.csv", HISTORY, (line for _, history in ordered for line in history))


def write_correct(folder: Path, name: str, correct: np.ndarray | None) -> None:
    """Write correct/NAME.npz: packed `bits`, whether a network gets each test image right, and `images`, their number.

    correct: bool (n,); None: not known, nothing is written.
    """
    if correct is not None:
        content = io.BytesIO()
        np.savez(content, bits=np.packbits(correct), images=len(correct))
        write_whole(folder / "correct" / f"{name}.npz", content.getvalue())


def write_importance(folder: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """Write importance.csv (objective -> axis -> share), unless there are no importances."""
    rows = [
        {"objective": objective, "axis": axis, "importance": share}
        for objective, of_axes in shares.items()
        for axis, share in of_axes.items()
    ]
    if rows:
        write_rows(folder / "importance.csv", IMPORTANCE, rows)


class Projector:
    """Calls `project` at most once a second, and for at most a twentieth of the time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next = folder, 0.0

    def __call__(self, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
        """Write the files if they are due."""
        started = time.monotonic()
        if started >= self._next:
            project(self._folder, records)
            self._next = started + max(1.0, 20 * (time.monotonic() - started))


def write_study(folder: Path, resolved: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write study.yaml: the resolved study file, and the record of how it was run."""
    content = {**resolved, "record": dict(record)}
    write_whole(folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))
