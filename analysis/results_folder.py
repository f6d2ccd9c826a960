"""Reads a results folder into typed data: trials, history, the study file and the record of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

# Written by `python -m study.config columns` from the engine's declarations; this package does not import the engine.
_COLUMNS = json.loads(resources.files("analysis").joinpath("columns.json").read_text(encoding="utf-8"))
SCHEMA_VERSION: int = _COLUMNS["schema_version"]
FILES = ("study.yaml", "trials.csv", "history.csv")
CHOICES = {"kind": ("search", "confirm", "control"), "state": ("complete", "stopped", "failed")}
RECIPE: list[str] = _COLUMNS["recipe"]
TRIALS, HISTORY, LAYERS, SCORES, IMPORTANCE, HISTOGRAM = (
    list(_COLUMNS[table]) for table in ("trials", "history", "layers", "scores", "importance", "histogram")
)
QUANTILES = [name for name in SCORES if name[1:].isdigit()]
# Column name (of any table) -> pandas dtype; Int64 and boolean allow missing values.
TYPES: dict[str, str] = {
    column: dtype for table in _COLUMNS.values() if isinstance(table, dict) for column, dtype in table.items()
}
NEEDED = ["trial_id", "kind", "state", "error", "schedule", "sparsity", "accuracy", "test_accuracy", "accuracy_drop"]

_USUAL_ORDER = ("one_shot", "iterative", "gradual", "global", "layer", "weight", "channel", "hybrid")


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
    study, record = _read_study(folder / "study.yaml")
    trials = _read_table(folder / "trials.csv", TRIALS, NEEDED)
    _check_trials(trials, folder / "trials.csv")
    return Results(folder, trials, _read_table(folder / "history.csv", HISTORY, HISTORY), study, record)


def layers_of(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """Layer sizes before and after pruning for the networks in `rows`: trial_id and LAYERS, one row per layer.

    Read from models/<trial_id>/layers.csv; a network without that file (not saved, or by an older engine) has no rows.
    Raises ValueError naming the file if one is not readable, lacks a column or has a cell of the wrong type.
    """
    paths = {trial_id: results.folder / "models" / trial_id / "layers.csv" for trial_id in rows["trial_id"]}
    found = {trial_id: _read_table(path, LAYERS, LAYERS) for trial_id, path in paths.items() if path.is_file()}
    if not found:
        return pd.DataFrame({name: pd.Series(dtype=TYPES[name]) for name in ("trial_id", *LAYERS)})
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
    before = _read_if_there(results.folder / "scan" / "trials.csv", TRIALS, NEEDED)
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


def _read_study(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    section = content.get("study") if isinstance(content, dict) else None
    objectives = section.get("objectives") if isinstance(section, dict) else None
    if not isinstance(objectives, dict) or not objectives or not set(objectives.values()) <= {"max", "min"}:
        raise ValueError(f"{path}: study.objectives: expected a mapping of columns to max or min")
    if unknown := [column for column in objectives if column not in TRIALS]:
        raise ValueError(f"{path}: study.objectives: {unknown[0]!r} is not a column of trials.csv")
    record = content.pop("record", None)
    version = record.get("schema_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"{path}: record.schema_version: {version!r}; this program reads 1 to {SCHEMA_VERSION}")
    return content, record


def _read_if_there(path: Path, columns: list[str], needed: list[str] | None = None) -> pd.DataFrame:
    """The table at `path`; an empty one if there is no such file."""
    if path.is_file():
        return _read_table(path, columns, columns if needed is None else needed)
    return pd.DataFrame({name: pd.Series(dtype=TYPES[name]) for name in columns})


def _read_table(path: Path, known: list[str], needed: list[str]) -> pd.DataFrame:
    try:
        # Read as text: type inference would turn trial "0007" into 7 and an error "None" into a missing value.
        text = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as CSV: {' '.join(str(error).split())}") from None
    if missing := [column for column in needed if column not in text.columns]:
        raise ValueError(f"{path}: columns missing: {', '.join(missing)}")
    text = text.reindex(columns=[*text.columns, *(column for column in known if column not in text.columns)])
    return pd.DataFrame({name: _typed(text[name], path) for name in text.columns}, columns=text.columns)


def _typed(cells: pd.Series, path: Path) -> pd.Series:
    """Converts text cells to the column's type; an unknown column gets the first type that all its cells fit."""
    name = str(cells.name)
    if name not in TYPES:
        return next(typed for dtype in _PARSERS if (typed := _converted(cells, dtype)) is not None)
    typed = _converted(cells, TYPES[name])
    if typed is None:
        wrong = next(cell for cell in cells.dropna() if _PARSERS[TYPES[name]](cell) is None)
        raise ValueError(f"{path}: column {name}: {wrong!r} is not of type {TYPES[name]}")
    return typed


def _converted(cells: pd.Series, dtype: str) -> pd.Series | None:
    """The cells as `dtype`, or None if one of them does not fit."""
    values = [None if pd.isna(cell) else _PARSERS[dtype](cell) for cell in cells]
    fits = all(pd.isna(cell) or value is not None for cell, value in zip(cells, values, strict=True))
    return pd.Series(values, index=cells.index, dtype=dtype) if fits else None


def _boolean(cell: str) -> bool | None:
    return {"True": True, "False": False}.get(cell)


def _integer(cell: str) -> int | None:
    number = _float(cell)
    return int(number) if number is not None and number.is_integer() else None


def _float(cell: str) -> float | None:
    # Python's float() is exact; pandas' faster parser may round the last bit.
    try:
        return float(cell)
    except ValueError:
        return None


_PARSERS: dict[str, Callable[[str], Any]] = {"Int64": _integer, "float64": _float, "boolean": _boolean, "str": str}


def _check_trials(trials: pd.DataFrame, path: Path) -> None:
    for column, choices in CHOICES.items():
        if (wrong := trials[~trials[column].isin(choices)]).size:
            raise ValueError(f"{path}: column {column}: {wrong[column].iloc[0]!r}; choices: {', '.join(choices)}")
    if (twice := trials["trial_id"][trials["trial_id"].duplicated()]).size:
        raise ValueError(f"{path}: trial {twice.iloc[0]} occurs twice")
