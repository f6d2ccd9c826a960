"""Reads a results folder into typed data: trials, history, the study file and the record of the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from analysis import csv_tables
from analysis.csv_tables import CHOICES, COLUMNS, RANGES, TABLES, TYPES

SCHEMA_VERSION: int = COLUMNS["schema_version"]
FILES = ("study.yaml", "trials.csv", "history.csv")
RECIPE: list[str] = COLUMNS["recipe"]
TRIALS, HISTORY, LAYERS, SCORES, IMPORTANCE, HISTOGRAM = (list(table) for table in TABLES.values())
QUANTILES = [name for name in SCORES if name[1:].isdigit()]
NEEDED = ["trial_id", "kind", "state", "error", "schedule", "sparsity", "accuracy", "test_accuracy", "accuracy_drop"]
NEEDED_HISTORY = [name for name in HISTORY if name not in ("macs", "latency_ms")]  # which older folders lack
MEASURED = ["sparsity", "accuracy"]  # of every complete trial, beside the objectives

_USUAL_ORDER = ("one_shot", "iterative", "gradual", "global", "layer", "both", "weight", "channel", "hybrid")


class Results(NamedTuple):
    """Contents of a results folder: `study` is the study file; `record` describes the run (versions, baseline, ...)."""

    folder: Path
    trials: pd.DataFrame
    history: pd.DataFrame
    study: dict[str, Any]
    record: dict[str, Any]

    @property
    def objectives(self) -> dict[str, str]:
        """Column -> "max" or "min", in the order of the study file."""
        return dict(self.study["study"]["objectives"])


def load(folder: Path | str) -> pd.DataFrame:
    """The trials of a results folder, one row each, typed as TYPES; raises ValueError like `read`."""
    return read(folder).trials


def read(folder: Path | str) -> Results:
    """Read a results folder. Fractions are in [0, 1], times in seconds; an empty cell is a missing value.

    Trials have all columns of TRIALS; columns that an older file lacks are filled with missing values.

    Raises:
      ValueError: names the folder or file and the fault: a missing file or required column, a cell of the wrong type,
        an unknown kind or state, or a newer schema version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no results folder: no such folder")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: no results folder of a study: {', '.join(missing)} missing")
    study, record = read_study(folder / "study.yaml")
    objectives = study["study"]["objectives"]
    trials = _read_trials(folder / "trials.csv", (*MEASURED, *objectives))
    history = csv_tables.read(folder / "history.csv", HISTORY, NEEDED_HISTORY, key=("trial_id", "epoch")).frame
    return Results(folder, trials, history, study, record)


def _read_trials(path: Path, measured: Iterable[str] = MEASURED) -> pd.DataFrame:
    """A table of trials in which the complete ones have these measures."""
    trials, lines = csv_tables.read(path, TRIALS, NEEDED, key=("trial_id",))
    for column in ("kind", "state"):
        if trials[column].isna().any():
            raise ValueError(f"{path}: line {lines[trials[column].isna().argmax()]}: column {column}: is empty")
    complete = trials["state"] == "complete"
    for column in measured:  # the latency that is searched for is not measured in controls
        asked = complete if column in MEASURED else complete & (trials["kind"] == "search")
        if (missing := trials[column].isna() & asked).any():
            line = lines[missing.argmax()]
            raise ValueError(f"{path}: line {line}: column {column}: is empty, although the trial is complete")
    return trials


def layers_of(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Layer sizes before and after pruning for the networks in `rows`: trial_id and LAYERS, one row per layer.

    Read from models/<trial_id>/layers.csv; a network without that file (not saved, or by an older engine) has no rows.
    Raises ValueError naming the file if one is not readable, lacks a column or has a cell of the wrong type.
    """
    paths = {trial_id: results.folder / "models" / trial_id / "layers.csv" for trial_id in rows["trial_id"]}
    read = csv_tables.read
    found = {trial_id: read(path, LAYERS, LAYERS).frame for trial_id, path in paths.items() if path.is_file()}
    if not found:
        return csv_tables.empty(("trial_id", *LAYERS))
    joined: pd.DataFrame = pd.concat(found, names=["trial_id"]).reset_index("trial_id").reset_index(drop=True)
    return joined


def scores_of(results: Results) -> pd.DataFrame:
    """Distribution of the baseline's gradient norms and saliencies in each layer: columns SCORES, in layer order.

    Read from layer_scores.csv; no rows without that file. Raises ValueError like `layers_of`.
    """
    return _read_if_there(results.folder / "layer_scores.csv", SCORES)


def importance_of(results: Results) -> pd.DataFrame:
    """Importance of each axis for each objective and for being near the front: columns IMPORTANCE.

    Read from importance.csv; no rows without that file. Raises ValueError like `layers_of`.
    """
    return _read_if_there(results.folder / "importance.csv", IMPORTANCE)


def histograms_of(results: Results, trial_id: str) -> pd.DataFrame:
    """Histograms of each layer's weights before and after pruning: columns HISTOGRAM, one row per bin.

    Read from models/<trial_id>/histograms.csv; no rows without that file. Raises ValueError like `layers_of`.
    """
    return _read_if_there(results.folder / "models" / trial_id / "histograms.csv", HISTOGRAM)


def scans(results: Results) -> pd.DataFrame:
    """Complete trials of sensitivity scans, which prune a single layer or dependency group; the columns of trials.

    From the study itself and from the scan that ran before it (DIR/scan/trials.csv). Raises ValueError like `read`.
    """
    path = results.folder / "scan" / "trials.csv"
    before = _read_trials(path) if path.is_file() else csv_tables.empty(TRIALS)
    parts = [rows for rows in (before, results.trials) if len(rows)] or [results.trials]
    rows = pd.concat(parts, ignore_index=True)
    return rows[_is_scan(rows) & (rows["state"] == "complete")]


def networks(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete runs of recipes: neither controls nor trials of a sensitivity scan."""
    complete = (trials["state"] == "complete") & trials["kind"].isin(["search", "confirm"])
    return trials[complete & ~_is_scan(trials)]


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of `networks` that are eligible for the front: excludes runs that confirm a front network."""
    rows = networks(trials)
    return rows[rows["kind"] == "search"]


def _is_scan(trials: pd.DataFrame) -> pd.Series:
    return trials["layer"].notna() | trials["group"].notna()


def dense_control(trials: pd.DataFrame) -> pd.DataFrame:
    """Complete runs of the dense control: the unpruned network with the same fine-tuning. Empty if none was run."""
    dense = (trials["kind"] == "control") & (trials["schedule"] == "dense")
    return trials[dense & (trials["state"] == "complete")]


def tally(trials: pd.DataFrame) -> str:
    """Number of trials per state, without controls: "54 complete, 6 failed"."""
    counts = trials.loc[trials["kind"] != "control", "state"].value_counts()
    return ", ".join(f"{counts[state]} {state}" for state in CHOICES["state"] if state in counts) or "none finished"


def axes(trials: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
    """The recipe keys that vary between networks, and the constant ones with their value.

    Excluded are sparsity, which differs in every recipe, and keys for which no network has a value.
    """
    rows = networks(trials)
    # Missing counts as a value: `protect` is empty if nothing is protected.
    varying = [key for key in RECIPE if rows[key].nunique(dropna=False) > 1]
    constant = [key for key in RECIPE if key not in varying and rows[key].notna().any()]
    return varying, {key: rows[key].iloc[0] for key in constant}


def ordered(names: Iterable[Any]) -> list[Any]:
    """The distinct names: those in `_USUAL_ORDER` first and in that order, then the others alphabetically."""
    rank = {name: place for place, name in enumerate(_USUAL_ORDER)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), str(name)))


def read_study(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The study file in a results folder, and the record of the run that it holds.

    Raises ValueError, naming the file and the key, if it is no YAML, not of a study, or of a newer version.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # of a damaged file PyYAML raises many types, also without a message
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not readable as YAML: {reason}") from None
    content = _mapping(content, path, "")
    record = _mapping(content.pop("record", None), path, "record")
    version = record.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise ValueError(
            f"{path}: record.schema_version: {version}: written by a newer version of this project; this one reads 1 "
            f"to {SCHEMA_VERSION}"
        )
    if type(version) is not int or version < 1:
        raise ValueError(f"{path}: record.schema_version: {version!r}; this program reads 1 to {SCHEMA_VERSION}")
    for key in ("study", "resources", "baseline", "space"):
        content[key] = _mapping(content.get(key), path, key)
    objectives = _mapping(content["study"].get("objectives"), path, "study.objectives")
    if not objectives or not all(direction in ("max", "min") for direction in objectives.values()):
        raise ValueError(f"{path}: study.objectives: expected a mapping of columns to max or min")
    numbers = {name for name in TRIALS if TYPES[name] in ("Int64", "float64")}
    if unknown := [column for column in objectives if column not in numbers]:
        raise ValueError(f"{path}: study.objectives: {unknown[0]!r} is not a column of numbers in trials.csv")
    for key in ("versions", "hardware", "baseline"):
        record[key] = _mapping(record.get(key), path, f"record.{key}")
    gpus, data_dir = record["hardware"].get("gpus") or [], record.setdefault("data_dir", None)
    if not isinstance(gpus, list) or not all(isinstance(name, str) for name in gpus):
        raise ValueError(f"{path}: record.hardware.gpus: expected a list of names, found {str(gpus)[:100]!r}")
    if not isinstance(data_dir, str | None):
        raise ValueError(f"{path}: record.data_dir: expected a folder, found {str(data_dir)[:100]!r}")
    for key, value in record["baseline"].items():
        low, high = RANGES.get(key, (None, None))
        if low is not None and value is not None and not (type(value) in (int, float) and low <= value <= high):
            raise ValueError(f"{path}: record.baseline.{key}: {value!r} is not a number from {low:g} to {high:g}")
    return content, record


def _mapping(value: Any, path: Path, key: str) -> dict[str, Any]:
    """The value if it is a mapping; an empty one in place of nothing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        where = f"{key}: " if key else ""
        raise ValueError(f"{path}: {where}expected a mapping, found {str(value)[:100]!r}")
    return dict(value)


def _read_if_there(path: Path, columns: list[str]) -> pd.DataFrame:
    """The table at `path`; an empty one if there is no such file."""
    return csv_tables.read(path, columns, columns).frame if path.is_file() else csv_tables.empty(columns)
