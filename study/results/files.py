"""The results folder, projected from the trial store: every file is written whole, by rename."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from models.files import write_whole
from study.config.columns import COLUMNS, HISTORY, IMPORTANCE, LAYERS


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A CSV of `columns`, in that order; what a row lacks is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue())


def write_layers(path: Path, dense: list[dict[str, Any]], pruned: list[dict[str, Any]]) -> None:
    """A CSV of what a network keeps of every layer, beside the dense network's; both as `cost.layer_costs`."""
    rows = [{**{f"dense_{k}": v for k, v in a.items()}, **b} for a, b in zip(dense, pruned, strict=True)]
    write_rows(path, LAYERS, rows)


def project(folder: Path, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
    """trials.csv and history.csv from the store's records (trial_id -> row, history)."""
    ordered = [records[trial_id] for trial_id in sorted(records, key=lambda trial_id: (len(trial_id), trial_id))]
    write_rows(folder / "trials.csv", COLUMNS, (row for row, _ in ordered))
    write_rows(folder / "history.csv", HISTORY, (line for _, history in ordered for line in history))


def write_importance(folder: Path, shares: Mapping[str, Mapping[str, float]]) -> None:
    """importance.csv: how much each axis decides, for each objective and for the front; only if that is known."""
    rows = [
        {"objective": objective, "axis": axis, "importance": share}
        for objective, of_axes in shares.items()
        for axis, share in of_axes.items()
    ]
    if rows:
        write_rows(folder / "importance.csv", IMPORTANCE, rows)


class Projector:
    """Projects at most once a second, and at most a twentieth of the time however long the study has grown."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._next = folder, 0.0

    def __call__(self, records: Mapping[str, tuple[Mapping[str, Any], list[dict[str, Any]]]]) -> None:
        started = time.monotonic()
        if started >= self._next:
            project(self._folder, records)
            self._next = started + max(1.0, 20 * (time.monotonic() - started))


def write_study(folder: Path, resolved: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """study.yaml: the study file with every key written out, and the record of how it was run."""
    content = {**resolved, "record": dict(record)}
    write_whole(folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110))
