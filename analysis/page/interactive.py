"""The interactive part of the page: its data as JSON, its program, and the library that draws."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

import pandas as pd

from analysis.figures import fronts
from analysis.presentation.rendering import label
from analysis.results_folder import RECIPE, Results, axes, candidates, layers_of, ordered
from analysis.statistics.objectives import abscissa, unit_of

LEVELS = 16  # of an axis up to which it has boxes to tick
MEASURES = [
    "sparsity", "channel_sparsity", "compression_ratio", "accuracy", "test_accuracy", "accuracy_drop", "params",
    "nonzero_params", "macs", "nonzero_macs", "theoretical_speedup", "size_bytes", "sparse_size_bytes", "latency_ms",
    "speedup", "batch_speedup", "train_seconds", "wall_seconds", "seed",
]  # fmt: skip
PERCENTS = [
    "sparsity", "channel_sparsity", "accuracy", "test_accuracy", "accuracy_drop", "requested_sparsity",
    "initial_sparsity",
]  # fmt: skip
LISTED = ["trial_id", "requested_sparsity", "sparsity", "accuracy", "test_accuracy", "place"]
LAYER = [
    "layer", "type", "dense_out_channels", "out_channels", "dense_weights", "nonzero_weights", "dense_macs",
    "nonzero_macs",
]  # fmt: skip
_HISTORY = ["epoch", "sparsity", "train_loss", "accuracy"]
_PLAIN = {"size_bytes": "size (bytes)", "sparse_size_bytes": "sparse size (bytes)"}  # raw here, in kB in tables


def data(results: Results) -> dict[str, Any]:
    """What the page's program draws and shows: the complete networks by columns, history and layers by trial."""
    rows, varying = _networks(results), axes(results.trials)[0]
    recipe = [key for key in [*RECIPE, "requested_sparsity"] if rows[key].notna().any()]
    measures = [name for name in MEASURES if rows[name].notna().any()]
    known = [*recipe, *measures]
    names = dict.fromkeys([*known, "schedule", "granularity", "test_accuracy", "seed", "place", "shown", "reach"])
    few = [axis for axis in varying if 1 < rows[axis].nunique() <= LEVELS and axis not in ("steps", "finetune_lr")]
    best = rows[rows["place"] == "front"]
    layers, history = layers_of(results, best), results.history[results.history["trial_id"].isin(rows["trial_id"])]
    return {
        "ids": rows["trial_id"].tolist(),
        "columns": {name: _values(rows[name]) for name in names},
        "recipe": recipe,
        "measures": measures,
        "listed": [*LISTED[:1], *[key for key in varying if key in recipe], *LISTED[1:]],
        "labels": {name: _PLAIN.get(name, label(name)) for name in [*known, *few, "place"]},
        "percents": PERCENTS,
        "levels": {axis: _levels(rows[axis]) for axis in few},
        "keys": {key: "sparsity" if key == "requested_sparsity" else key for key in recipe},
        "abscissae": _abscissae(results, rows),
        "baseline": _plain((results.record.get("baseline") or {}).get("test_accuracy")),
        "history": _lines(history.sort_values("epoch"), _HISTORY),
        "layers": _lines(layers, LAYER),
        "layerColumns": [name.replace("_", " ") for name in LAYER],
        "kept": [name for name in best["trial_id"] if (results.folder / "models" / name / "card.json").is_file()],
        "folder": str(results.folder),
    }


def _networks(results: Results) -> pd.DataFrame:
    """The complete networks with place, shown (the mean over runs of a front's row, else its accuracy) and reach."""
    rows = candidates(results.trials)
    places = fronts.front_data(results).set_index("trial_id")[["place", "mean", "high"]]
    rows = rows.join(places, on="trial_id")
    return rows.assign(shown=rows["mean"].fillna(rows["test_accuracy"]), reach=rows["high"] - rows["mean"])


def _abscissae(results: Results, rows: pd.DataFrame) -> list[dict[str, Any]]:
    names = dict.fromkeys([abscissa(results), "sparsity", "nonzero_macs", "macs", "size_bytes", "latency_ms"])
    known = [name for name in names if name in rows and rows[name].notna().any()]
    found = []
    for name in known:
        called, unit, one = unit_of("macs" if name == "nonzero_macs" else name)
        called = "MACs of non-zero weights" if name == "nonzero_macs" else called
        found.append({"name": name, "label": f"{called} ({unit})", "one": one})
    return found


def _levels(values: pd.Series) -> list[Any]:
    return _values(pd.Series(ordered(values.dropna()))) + [None] * bool(values.isna().any())


def _lines(rows: pd.DataFrame, names: list[str]) -> dict[str, list[list[Any]]]:
    """The rows of each trial, as lists of these columns."""
    found: dict[str, list[list[Any]]] = {}
    for trial_id, *line in zip(rows["trial_id"], *(_values(rows[name]) for name in names), strict=True):
        found.setdefault(str(trial_id), []).append(line)
    return found


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is missing, or infinite, is null."""
    return None if value is None else _values(pd.Series([value]))[0]


def _values(cells: pd.Series) -> list[Any]:
    """A column's values as JSON has them."""
    if pd.api.types.is_float_dtype(cells):
        cells = cells.replace([math.inf, -math.inf], math.nan)
    return cells.astype(object).where(cells.notna(), None).tolist()


def scripts(content: dict[str, Any]) -> str:
    """The library, the data (`data`) and the program, as elements of the page's end."""
    # Within a script element nothing but "</" and "<!--" ends or changes it; of JSON no "<" is left at all.
    written = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    library = resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    program = resources.files("analysis.page").joinpath("page.js").read_text(encoding="utf-8")
    return (
        f"<script>{library if content['ids'] else ''}</script>\n"
        f'<script id="data" type="application/json">{written}</script>\n'
        f"<script>{program}</script>"
    )
