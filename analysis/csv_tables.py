"""Reads the CSV files of a results folder into typed tables; what is wrong is named by file, line and column."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

# Written by `python -m study.config columns` from the engine's declarations; this package does not import the engine.
COLUMNS: dict[str, Any] = json.loads(resources.files("analysis").joinpath("columns.json").read_text(encoding="utf-8"))
RANGES: dict[str, tuple[float, float]] = COLUMNS["ranges"]
TABLES: dict[str, dict[str, str]] = {
    name: COLUMNS[name] for name in ("trials", "history", "layers", "scores", "importance", "histogram")
}
# Column name (of any table) -> pandas dtype; Int64 and boolean allow missing values.
TYPES: dict[str, str] = {column: dtype for table in TABLES.values() for column, dtype in table.items()}
CHOICES = {"kind": ("search", "confirm", "control"), "state": ("complete", "stopped", "failed", "screened")}
TRIAL_ID = re.compile("[a-z]?[0-9]{1,18}")  # names a folder too


class Table(NamedTuple):
    """A table, and the line of its file on which each row ends."""

    frame: pd.DataFrame
    lines: list[int]


def empty(columns: Sequence[str]) -> pd.DataFrame:
    """A table of these columns without rows."""
    return pd.DataFrame({name: pd.Series(dtype=TYPES[name]) for name in columns})


def read(path: Path, known: Sequence[str], needed: Sequence[str], key: Sequence[str] = ()) -> Table:
    """Read a CSV file. An empty cell is a missing value; columns of `known` that the file lacks are missing throughout.

    Args:
      path: of the file.
      known: the table's columns. Others are read too, as the first type that fits.
      needed: columns that must be there.
      key: columns whose cells must be there, and together differ between any two rows.

    Raises:
      ValueError: names the file and, of the first thing that is wrong, the line and the column.
    """
    # Cells are read as text: type inference would turn trial "0007" into 7 and an error "None" into a missing value.
    header, rows, lines = _cells(path)
    if missing := [column for column in needed if column not in header]:
        raise ValueError(f"{path}: columns missing: {', '.join(missing)}")
    columns = dict(zip(header, zip(*rows, strict=True) if rows else ((),) * len(header), strict=True))
    frame = pd.DataFrame(
        {name: _typed(name, cells, path, lines) for name, cells in columns.items()}, index=range(len(rows))
    )
    seen: set[tuple[str, ...]] = set()
    for line, cells in zip(lines, zip(*(columns[name] for name in key), strict=True), strict=True) if key else ():
        if "" in cells:
            raise ValueError(f"{path}: line {line}: column {key[cells.index('')]}: is empty")
        if cells in seen:
            raise ValueError(f"{path}: line {line}: {_named(key, cells)} occurs twice")
        seen.add(cells)
    absent = [name for name in known if name not in columns]
    return Table(pd.concat([frame, empty(absent).reindex(frame.index)], axis=1) if absent else frame, lines)


def _named(key: Sequence[str], cells: tuple[str, ...]) -> str:
    return ", ".join(f"{name.removesuffix('_id')} {cell}" for name, cell in zip(key, cells, strict=True))


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows of cells and the lines on which they end."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: line {line}: not readable as CSV: {error}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: not readable as CSV: {error}") from None
    if not rows:
        raise ValueError(f"{path}: not readable as CSV: it is empty")
    header = rows[0]
    if twice := [name for name in header if header.count(name) > 1]:
        raise ValueError(f"{path}: line 1: column {twice[0]} occurs twice")
    for line, row in zip(lines, rows, strict=True):
        if len(row) != len(header):
            raise ValueError(f"{path}: line {line}: not readable as CSV: {len(row)} cells, but {len(header)} columns")
        if any("\0" in cell for cell in row):
            raise ValueError(f"{path}: line {line}: not readable as CSV: it holds a NUL character")
    return header, rows[1:], lines[1:]


def _typed(name: str, cells: Sequence[str], path: Path, lines: Sequence[int]) -> pd.Series:
    """Text cells as the column's type; an unknown column gets the first type that all its cells fit."""
    if name not in TYPES:
        return next(typed for dtype in _PARSERS if (typed := _converted(cells, dtype)) is not None)
    values = []
    for line, cell in zip(lines, cells, strict=True):
        values.append(_PARSERS[TYPES[name]](cell) if cell else None)
        if cell and (wrong := _wrong(name, cell, values[-1])):
            raise ValueError(f"{path}: line {line}: column {name}: {wrong}")
    return pd.Series(values, dtype=TYPES[name])


def _wrong(name: str, cell: str, value: Any) -> str | None:
    low, high = RANGES.get(name, (None, None))
    if value is None:
        return f"{cell!r} is not of type {TYPES[name]}"
    if low is not None and not low <= value <= high:
        return f"{cell!r} is not from {low:g} to {high:g}"
    if name in CHOICES and cell not in CHOICES[name]:
        return f"{cell!r}; choices: {', '.join(CHOICES[name])}"
    if name in ("trial_id", "confirms", "repeats") and not TRIAL_ID.fullmatch(cell):
        return f"{cell!r} is not the id of a trial, such as 0012 or c0000"
    return None


def _converted(cells: Sequence[str], dtype: str) -> pd.Series | None:
    """The cells as `dtype`, or None if one of them does not fit."""
    values = [_PARSERS[dtype](cell) if cell else None for cell in cells]
    fits = all(not cell or value is not None for cell, value in zip(cells, values, strict=True))
    return pd.Series(values, dtype=dtype) if fits else None


def _boolean(cell: str) -> bool | None:
    return {"True": True, "False": False}.get(cell)


def _integer(cell: str) -> int | None:
    number = _float(cell)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None


def _float(cell: str) -> float | None:
    # Python's float() is exact; pandas' faster parser may round the last bit.
    try:
        return float(cell)
    except ValueError:
        return None


_PARSERS: dict[str, Callable[[str], Any]] = {"Int64": _integer, "float64": _float, "boolean": _boolean, "str": str}
