"""The interactive part of the report page: its data as JSON, its script (page.js) and the plotly library."""

from __future__ import annotations

import json
import math
from importlib import resources
from typing import Any

import pandas as pd

from analysis.comparisons.effects import residuals
from analysis.figures import fronts
from analysis.presentation.rendering import label
from analysis.results_folder import RECIPE, Results, axes, candidates, layers_of, ordered
from analysis.statistics.objectives import abscissa, unit_of

MAX_LEVELS = 16  # axes with more levels get no filter
MEASURES = [
    "sparsity", "channel_sparsity", "compression_ratio", "accuracy", "test_accuracy", "accuracy_drop", "params",
    "nonzero_params", "macs", "nonzero_macs", "theoretical_speedup", "size_bytes", "sparse_size_bytes", "latency_ms",
    "speedup", "batch_speedup", "train_seconds", "wall_seconds", "seed",
]  # fmt: skip
PERCENTS = [
    "sparsity", "channel_sparsity", "accuracy", "test_accuracy", "accuracy_drop", "requested_sparsity",
    "initial_sparsity", "gain",
]  # fmt: skip
LISTED = ["trial_id", "requested_sparsity", "sparsity", "accuracy", "test_accuracy", "place"]
LAYER = [
    "layer", "type", "dense_out_channels", "out_channels", "dense_weights", "nonzero_weights", "dense_macs",
    "nonzero_macs",
]  # fmt: skip
_SHOWN = ["schedule", "granularity", "test_accuracy", "seed", "place", "mean", "half_width"]
_ORDINATE = {"name": "test_accuracy", "label": "test accuracy (%)", "scale": 0.01}
_GAIN = {"name": "gain", "label": "gain over all networks of the same sparsity (points)", "scale": 0.01}
_QUARTILES = ["latency_low_ms", "latency_high_ms"]
_HISTORY = ["epoch", "sparsity", "train_loss", "accuracy"]
_LABELS = {"size_bytes": "size (bytes)", "sparse_size_bytes": "sparse size (bytes)"}  # bytes here, kB in tables


def data(results: Results) -> dict[str, Any]:
    """The data of page.js: complete networks as columns; history and layers per trial."""
    rows, varying = _networks(results), axes(results.trials)[0]
    recipe = [key for key in [*RECIPE, "requested_sparsity"] if rows[key].notna().any()]
    measures = [name for name in MEASURES if rows[name].notna().any()]
    known = [*recipe, *measures]
    varied = [key for key in varying if key in recipe]
    names = dict.fromkeys([*known, *_SHOWN, "gain", *(name for name in _QUARTILES if rows[name].notna().any())])
    filters = [
        axis for axis in varying if 1 < rows[axis].nunique() <= MAX_LEVELS and axis not in ("steps", "finetune_lr")
    ]
    first = ["schedule"] if rows["schedule"].nunique() > 1 else []  # one level would colour nothing
    best = rows[rows["place"] == "front"]
    knee = fronts.knee(results)
    layers, history = layers_of(results, best), results.history[results.history["trial_id"].isin(rows["trial_id"])]
    return {
        "ids": rows["trial_id"].tolist(),
        "columns": {name: _json_values(rows[name]) for name in names},
        "recipe": recipe,
        "measures": measures,
        "listed": [*LISTED[:1], *varied, *LISTED[1:]],
        "labels": {name: _LABELS.get(name, label(name)) for name in [*known, *filters, "schedule", "place", "gain"]},
        "percents": PERCENTS,
        "colours": list(dict.fromkeys([*first, *varied, "schedule", *measures, "gain"])),
        "knee": None if knee is None else results.trials.loc[knee, "trial_id"],
        "levels": {axis: _levels(rows[axis]) for axis in filters},
        "keys": {key: "sparsity" if key == "requested_sparsity" else key for key in recipe},
        "abscissae": [*_abscissae(results, rows), *_slices(results, varied)],
        "ordinates": [_ORDINATE, _GAIN, *_abscissae(results, rows)],
        "baseline": _json_value((results.record.get("baseline") or {}).get("test_accuracy")),
        "history": _rows_by_trial(history.sort_values("epoch"), _HISTORY),
        "layers": _rows_by_trial(layers, LAYER),
        "layerColumns": [name.replace("_", " ") for name in LAYER],
        "kept": [name for name in best["trial_id"] if (results.folder / "models" / name / "card.json").is_file()],
        "folder": str(results.folder),
    }


def _networks(results: Results) -> pd.DataFrame:
    """The complete networks, with four columns added.

    place: see `fronts.front_data`. mean: for front rows the mean test accuracy over runs, otherwise the row's own.
    half_width: of the 95 % interval of that mean. gain: test accuracy minus the mean of all networks of that sparsity.
    """
    rows = candidates(results.trials)
    places = fronts.front_data(results).set_index("trial_id")[["place", "mean", "high"]]
    rows = rows.join(places, on="trial_id")
    half_width, gain = rows["high"] - rows["mean"], residuals(rows) if len(rows) else rows["mean"]
    return rows.assign(mean=rows["mean"].fillna(rows["test_accuracy"]), half_width=half_width, gain=gain)


def _abscissae(results: Results, rows: pd.DataFrame) -> list[dict[str, Any]]:
    names = dict.fromkeys([abscissa(results), "sparsity", "nonzero_macs", "macs", "size_bytes", "latency_ms"])
    known = [name for name in names if name in rows and rows[name].notna().any()]
    found = []
    for name in known:
        title, unit, scale = unit_of("macs" if name == "nonzero_macs" else name)
        title = "MACs of non-zero weights" if name == "nonzero_macs" else title
        found.append({"name": name, "label": f"{title} ({unit})", "scale": scale})
    return found


def _slices(results: Results, varied: list[str]) -> list[dict[str, Any]]:
    """The axes that vary, as x axes."""
    space = results.study["space"]
    logs = [key for key, axis in space.items() if isinstance(axis, dict) and axis.get("log")]
    return [{"name": key, "label": label(key), "scale": 1, "slice": True, "log": key in logs} for key in varied]


def _levels(values: pd.Series) -> list[Any]:
    return _json_values(pd.Series(ordered(values.dropna()))) + [None] * bool(values.isna().any())


def _rows_by_trial(rows: pd.DataFrame, names: list[str]) -> dict[str, list[list[Any]]]:
    """Trial id -> its rows, each a list of the values of the columns `names`."""
    found: dict[str, list[list[Any]]] = {}
    for trial_id, *line in zip(rows["trial_id"], *(_json_values(rows[name]) for name in names), strict=True):
        found.setdefault(str(trial_id), []).append(line)
    return found


def _json_value(value: Any) -> Any:
    """A value for JSON; missing and infinite values become null."""
    return None if value is None else _json_values(pd.Series([value]))[0]


def _json_values(cells: pd.Series) -> list[Any]:
    """A column's values for JSON; missing and infinite values become null."""
    if pd.api.types.is_float_dtype(cells):
        cells = cells.replace([math.inf, -math.inf], math.nan)
    return cells.astype(object).where(cells.notna(), None).tolist()


def scripts(content: dict[str, Any]) -> str:
    """Script elements for the end of the page: plotly, the data (`content`, from `data`) and page.js."""
    # "</" and "<!--" would end or alter the script element, so every "<" in the JSON is escaped.
    written = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    library = resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    program = resources.files("analysis.page").joinpath("page.js").read_text(encoding="utf-8")
    return (
        f"<script>{library if content['ids'] else ''}</script>\n"
        f'<script id="data" type="application/json">{written}</script>\n'
        f"<script>{program}</script>"
    )
