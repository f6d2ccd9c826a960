"""A results folder as typed data: the trials, their history, the study file and the record of its run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

# Made from the engine's declarations by `python -m study.config columns`; this package does not know the engine.
_COLUMNS = json.loads(resources.files("analysis").joinpath("columns.json").read_text(encoding="utf-8"))
SCHEMA_VERSION: int = _COLUMNS["schema_version"]
FILES = ("study.yaml", "trials.csv", "history.csv")
CHOICES = {"kind": ("search", "confirm", "control"), "state": ("complete", "stopped", "failed")}
RECIPE: list[str] = _COLUMNS["recipe"]
TRIALS, HISTORY, LAYERS, SCORES, IMPORTANCE, HISTOGRAM = (
    list(_COLUMNS[table]) for table in ("trials", "history", "layers", "scores", "importance", "histogram")
)
QUANTILES = [name for name in SCORES if name[1:].isdigit()]
# By name, whatever the table: pandas' types, of which Int64 and boolean know an empty cell.
TYPES: dict[str, str] = {
    column: dtype for table in _COLUMNS.values() if isinstance(table, dict) for column, dtype in table.items()
}
NEEDED = ["trial_id", "kind", "state", "error", "schedule", "sparsity", "accuracy", "test_accuracy", "accuracy_drop"]

_USUAL = ("one_shot", "iterative", "gradual", "global", "layer", "weight", "channel", "hybrid")


class Results(NamedTuple):
    """What a results folder holds. `study` has the sections of the study file, `record` how it was run."""

    folder: Path
    trials: pd.DataFrame
    history: pd.DataFrame
    study: dict[str, Any]
    record: dict[str, Any]

    @property
    def objectives(self) -> dict[str, str]:
        """Column -> "max" or "min", as the study file orders them."""
        return dict(self.study["study"]["objectives"])


def load(folder: Path | str) -> pd.DataFrame:
    """The trials of a results folder, a row for each, with the types of TRIALS; raises ValueError as `read`."""
    return read(folder).trials


def read(folder: Path | str) -> Results:
    """Read a results folder. Fractions stay in [0, 1], times in seconds; an empty cell is a missing value.

    Trials have all columns of TRIALS: one that the file lacks, since it is older than the column, is all missing.
    Raises ValueError, naming the folder or file and what is wrong with it: files or needed columns missing, a cell
    that is not of its column's type, a kind or state that does not exist, a schema newer than this program.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no results folder: there is no such folder")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: no results folder of a study: {', '.join(missing)} missing")
    study, record = _read_study(folder / "study.yaml")
    trials = _read_table(folder / "trials.csv", TRIALS, NEEDED)
    _check_trials(trials, folder / "trials.csv")
    return Results(folder, trials, _read_table(folder / "history.csv", HISTORY, HISTORY), study, record)


def layers_of(results: Results, rows: pd.DataFrame) -> pd.DataFrame:
    """What the networks of `rows` keep of every layer: trial_id and LAYERS, in the order of rows and of layers.

    From models/<trial_id>/layers.csv; a network without that file (not kept, or by an older engine) has no rows.
    Raises ValueError, naming the file, where one is not readable, lacks a column or has a cell of a wrong type.
    """
    paths = {trial_id: results.folder / "models" / trial_id / "layers.csv" for trial_id in rows["trial_id"]}
    found = {trial_id: _read_table(path, LAYERS, LAYERS) for trial_id, path in paths.items() if path.is_file()}
    if not found:
        return pd.DataFrame({name: pd.Series(dtype=TYPES[name]) for name in ("trial_id", *LAYERS)})
    joined: pd.DataFrame = pd.concat(found, names=["trial_id"]).reset_index("trial_id").reset_index(drop=True)
    return joined


def scores_of(results: Results) -> pd.DataFrame:
    """How the baseline's gradient norms and saliencies are distributed in each layer: SCORES, layers in their order.

    From layer_scores.csv; no rows without that file. Raises ValueError as `layers_of`.
    """
    return _read_if_there(results.folder / "layer_scores.csv", SCORES)


def importance_of(results: Results) -> pd.DataFrame:
    """How much each axis decides for each objective, and of being near the front: IMPORTANCE, as the search left it.

    From importance.csv; no rows without that file. Raises ValueError as `layers_of`.
    """
    return _read_if_there(results.folder / "importance.csv", IMPORTANCE)


def histograms_of(results: Results, trial_id: str) -> pd.DataFrame:
    """How the weights of each layer are distributed, before and after pruning: HISTOGRAM, a row for each bin.

    From models/<trial_id>/histograms.csv; no rows without that file. Raises ValueError as `layers_of`.
    """
    return _read_if_there(results.folder / "models" / trial_id / "histograms.csv", HISTOGRAM)


def scans(results: Results) -> pd.DataFrame:
    """The complete rows of sensitivity scans: single layers or dependency groups cut alone; the columns of trials.

    The study's own, and those of the scan that ran before it (DIR/scan/trials.csv). Raises ValueError as `read`.
    """
    before = _read_if_there(results.folder / "scan" / "trials.csv", TRIALS, NEEDED)
    parts = [rows for rows in (before, results.trials) if len(rows)] or [results.trials]
    rows = pd.concat(parts, ignore_index=True)
    return rows[_scanned(rows) & (rows["state"] == "complete")]


def networks(trials: pd.DataFrame) -> pd.DataFrame:
    """The runs of recipes that came to their end: complete, no controls, and not a single layer cut for a scan."""
    complete = (trials["state"] == "complete") & trials["kind"].isin(["search", "confirm"])
    return trials[complete & ~_scanned(trials)]


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """Those of `networks` that the front is chosen from: not the further runs that confirm a row of it."""
    rows = networks(trials)
    return rows[rows["kind"] == "search"]


def _scanned(trials: pd.DataFrame) -> pd.Series:
    return trials["layer"].notna() | trials["group"].notna()


def dense_control(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows of the dense network that was given the same fine-tuning (none, if it was not run)."""
    dense = (trials["kind"] == "control") & (trials["schedule"] == "dense")
    return trials[dense & (trials["state"] == "complete")]


def tally(trials: pd.DataFrame) -> str:
    """How the trials ended, controls apart: "54 complete, 6 failed"."""
    counts = trials.loc[trials["kind"] != "control", "state"].value_counts()
    return ", ".join(f"{counts[state]} {state}" for state in CHOICES["state"] if state in counts) or "none has ended"


def axes(trials: pd.DataFrame) -> tuple[list[str], dict[str, Any]]:
    """The recipe's keys that vary between networks, and those that do not with their one value.

    Sparsity is asked for anew by every recipe and is in neither; nor is a key that no network has a value for.
    """
    rows = networks(trials)
    # Missing counts as a value: `protect` is empty where nothing is protected.
    varying = [key for key in RECIPE if rows[key].nunique(dropna=False) > 1]
    constant = [key for key in RECIPE if key not in varying and rows[key].notna().any()]
    return varying, {key: rows[key].iloc[0] for key in constant}


def ordered(names: Iterable[Any]) -> list[Any]:
    """The distinct names, those that every study knows first and in their usual order, the others by name."""
    return sorted(set(names), key=lambda name: (_USUAL.index(name) if name in _USUAL else len(_USUAL), str(name)))


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
        raise ValueError(f"{path}: study.objectives: {unknown[0]!r} is no column of trials.csv")
    record = content.pop("record", None)
    version = record.get("schema_version") if isinstance(record, dict) else None
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"{path}: record.schema_version: {version!r}; this program reads 1 to {SCHEMA_VERSION}")
    return content, record


def _read_if_there(path: Path, columns: list[str], needed: list[str] | None = None) -> pd.DataFrame:
    """The table at `path`, without rows where there is no such file."""
    if path.is_file():
        return _read_table(path, columns, columns if needed is None else needed)
    return pd.DataFrame({name: pd.Series(dtype=TYPES[name]) for name in columns})


def _read_table(path: Path, known: list[str], needed: list[str]) -> pd.DataFrame:
    try:
        # As text first: pandas' own guesses would make 7 of trial "0007" and nothing of an error "None".
        text = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as CSV: {' '.join(str(error).split())}") from None
    if missing := [column for column in needed if column not in text.columns]:
        raise ValueError(f"{path}: columns missing: {', '.join(missing)}")
    text = text.reindex(columns=[*text.columns, *(column for column in known if column not in text.columns)])
    return pd.DataFrame({name: _typed(text[name], path) for name in text.columns}, columns=text.columns)


def _typed(cells: pd.Series, path: Path) -> pd.Series:
    """Text cells as the column's type; a column that is not known gets the first type that all its cells fit."""
    name = str(cells.name)
    if name not in TYPES:
        return next(typed for dtype in _READERS if (typed := _as(cells, dtype)) is not None)
    typed = _as(cells, TYPES[name])
    if typed is None:
        wrong = next(cell for cell in cells.dropna() if _READERS[TYPES[name]](cell) is None)
        raise ValueError(f"{path}: column {name}: {wrong!r} is no {TYPES[name]}")
    return typed


def _as(cells: pd.Series, dtype: str) -> pd.Series | None:
    values = [None if pd.isna(cell) else _READERS[dtype](cell) for cell in cells]
    fits = all(pd.isna(cell) or value is not None for cell, value in zip(cells, values, strict=True))
    return pd.Series(values, index=cells.index, dtype=dtype) if fits else None


def _boolean(cell: str) -> bool | None:
    return {"True": True, "False": False}.get(cell)


def _integer(cell: str) -> int | None:
    number = _float(cell)
    return int(number) if number is not None and number.is_integer() else None


def _float(cell: str) -> float | None:
    # Python's own float: a number is read back to the last bit, which pandas' faster one does not promise.
    try:
        return float(cell)
    except ValueError:
        return None


_READERS: dict[str, Callable[[str], Any]] = {"Int64": _integer, "float64": _float, "boolean": _boolean, "str": str}


def _check_trials(trials: pd.DataFrame, path: Path) -> None:
    for column, choices in CHOICES.items():
        if (wrong := trials[~trials[column].isin(choices)]).size:
            raise ValueError(f"{path}: column {column}: {wrong[column].iloc[0]!r}; choices: {', '.join(choices)}")
    if (twice := trials["trial_id"][trials["trial_id"].duplicated()]).size:
        raise ValueError(f"{path}: trial {twice.iloc[0]} stands twice")
