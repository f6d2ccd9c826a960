"""Columns and types of all tables in a results folder.

The recipe's columns are derived from `Recipe`; measured columns are declared here. `analysis` must not import this
package, so it reads them from analysis/columns.json, the output of `python -m study.config columns`.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pruning.measure.distributions import HISTOGRAM as HISTOGRAM_COLUMNS
from pruning.measure.distributions import SCORES as SCORE_COLUMNS
from study.config.recipe import Recipe

SCHEMA_VERSION = 1
# pandas dtypes; Int64 and boolean are nullable.
_DTYPES = {str: "str", int: "Int64", float: "float64", bool: "boolean"}
_IDENTITY = {"trial_id": "str", "kind": "str", "state": "str", "error": "str", "seed": "Int64"}
_MEASURED = {
    "sparsity": "float64",
    "channel_sparsity": "float64",
    "compression_ratio": "float64",
    "baseline_accuracy": "float64",
    "baseline_test_accuracy": "float64",
    "accuracy": "float64",
    "accuracy_drop": "float64",
    "screened_accuracy": "float64",
    "test_accuracy": "float64",
    "float_accuracy": "float64",
    "float_test_accuracy": "float64",
    "bits": "Int64",
    "params": "Int64",
    "nonzero_params": "Int64",
    "macs": "Int64",
    "nonzero_macs": "Int64",
    "theoretical_speedup": "float64",
    "size_bytes": "Int64",
    "sparse_size_bytes": "Int64",
    "float_size_bytes": "Int64",
    "runtime": "str",
    "latency_ms": "float64",
    "latency_low_ms": "float64",
    "latency_high_ms": "float64",
    "baseline_latency_ms": "float64",
    "float_latency_ms": "float64",
    "speedup": "float64",
    "large_batch": "Int64",
    "batch_latency_ms": "float64",
    "baseline_batch_latency_ms": "float64",
    "batch_speedup": "float64",
    "feasible": "boolean",
    "repeats": "str",
    "confirms": "str",
    "train_seconds": "float64",
    "wall_seconds": "float64",
    "started": "float64",
    "finished": "float64",
}


def _dtype(annotation: Any) -> str:
    """The column dtype for the annotation of a recipe key; lists and literals become str."""
    if annotation in _DTYPES:
        return _DTYPES[annotation]
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return _dtype(inner[0]) if inner and get_origin(annotation) in (Annotated, Union, UnionType) else "str"


RECIPE = {"requested_sparsity" if k == "sparsity" else k: _dtype(f.annotation) for k, f in Recipe.model_fields.items()}
TRIALS = {**_IDENTITY, **RECIPE, **_MEASURED}
COLUMNS = list(TRIALS)
HISTORY = ["trial_id", "epoch", "progress", "sparsity", "train_loss", "accuracy", "seconds", "macs", "latency_ms"]
HISTORY_TYPES = {name: {"trial_id": "str", "epoch": "Int64", "macs": "Int64"}.get(name, "float64") for name in HISTORY}
LAYERS = [
    "layer",
    "type",
    *(f"{prefix}{name}" for name in ("in_channels", "out_channels", "params", "weights") for prefix in ("dense_", "")),
    "nonzero_weights",
    "dense_macs",
    "macs",
    "nonzero_macs",
]
IMPORTANCE = ["objective", "axis", "importance"]
# Column (of any table), or measure of the baseline -> lowest and highest value; others are text, or may be any number.
_SHARES = (
    "channel_share", "requested_sparsity", "initial_sparsity", "sparsity", "channel_sparsity", "baseline_accuracy",
    "baseline_test_accuracy", "accuracy", "test_accuracy", "screened_accuracy", "float_accuracy",
    "float_test_accuracy", "distil", "progress", "importance", "largest_class",
)  # fmt: skip
_SIZES = (
    "finetune_lr", "weight_decay", "temperature", "compression_ratio", "theoretical_speedup", "latency_ms",
    "latency_low_ms", "latency_high_ms", "baseline_latency_ms", "float_latency_ms", "speedup", "batch_latency_ms",
    "baseline_batch_latency_ms", "batch_speedup", "train_seconds", "wall_seconds", "started", "finished", "seconds",
    "validation_images",
)  # fmt: skip
_WHOLE = [name for name, dtype in TRIALS.items() if dtype == "Int64"] + [name for name in LAYERS if name[-4:] != "type"]
RANGES: dict[str, tuple[float, float]] = {
    **{name: (0, 10**15) for name in (*_WHOLE, *_SIZES, "epoch", "dense", "pruned") if name != "layer"},
    **dict.fromkeys(_SHARES, (0, 1)),
    "accuracy_drop": (-1, 1),
}


def tables() -> dict[str, Any]:
    """The content of analysis/columns.json: schema version, recipe keys, column -> dtype for every table, ranges."""
    text_columns = {"trial_id", "layer", "type", "criterion", "objective", "axis"}
    count_columns = {"epoch", "dense", "pruned", *LAYERS} - text_columns
    table_columns = {
        "history": HISTORY,
        "layers": LAYERS,
        "scores": SCORE_COLUMNS,
        "importance": IMPORTANCE,
        "histogram": HISTOGRAM_COLUMNS,
    }

    def dtype(table: str, column: str) -> str:
        if column in text_columns:
            return "str"
        return "Int64" if column in count_columns and (table != "scores" or column == "weights") else "float64"

    recipe = [key for key in RECIPE if key != "requested_sparsity"]
    columns = {name: {column: dtype(name, column) for column in names} for name, names in table_columns.items()}
    return {"schema_version": SCHEMA_VERSION, "recipe": recipe, "trials": TRIALS, **columns, "ranges": RANGES}
