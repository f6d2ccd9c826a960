"""The sensitivity scan: accuracy drop when each layer or dependency group alone is pruned, at increasing ratios.

A scan is a study (such as `search_spaces/layer_sensitivity.yaml`). `scope: sensitivity` requires a scan of the baseline
with the same criterion. Its rows are cached for later studies of the same baseline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pruning.weights.masks import weight_name
from study.config import EACH, Recipe, StudyFile, parse
from study.config import axes as spaces
from study.data.cache import cache_dir
from study.training.epochs import Row

Curves = dict[str, dict[float, float]]  # parameter or dependency group -> ratio removed -> accuracy drop
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
# Recipe keys that determine a curve, and those that determine a row of the scan.
_CURVE_KEYS = ("criterion", "granularity", "reduce", "reconstruct", "recalibrate", "calibration_samples", "protect")
_ROW_KEYS = (*_CURVE_KEYS, "layer", "group", "sparsity", "min_channels", "round_to")


def scan_study(file: StudyFile) -> StudyFile | None:
    """The study file of the scan needed by recipes with scope `sensitivity`; None if there are none."""
    axes = file.resolved()["space"]
    if "sensitivity" not in (file.space["scope"].choices or ()):
        return None
    single_part = {
        "scope": "global",
        "schedule": "one_shot",
        "steps": 1,
        "sparsity": RATIOS,
        "finetune_epochs": 0,
        "finetune_lr": 0.01,
        "layer": {"choices": [EACH], "when": {"granularity": ["weight"]}},
        "group": {"choices": [EACH], "when": {"granularity": ["channel"]}},
    }
    resolved = file.resolved()
    study = {"name": "scan", "search": "grid", "controls": [], "save": "none", "seed": file.study.seed}
    scoring = {key: axes[key] for key in _CURVE_KEYS if key in axes}
    scoring["granularity"] = _scannable(file.space["granularity"])
    return parse(
        {
            "study": study,
            "resources": resolved["resources"],
            "baseline": resolved["baseline"],
            "space": scoring | single_part,
        },
        "the sensitivity scan",
    )


def _scannable(granularity: spaces.Axis) -> Any:
    """The granularities that support pruning a single layer or group."""
    scannable = tuple(name for name in granularity.choices or () if name in ("weight", "channel"))
    return spaces.compact(granularity.model_copy(update={"choices": scannable}))


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curves]:
    """The curves from a scan's rows, keyed as by `curve_key`."""
    found: dict[str, Curves] = {}
    for row in rows:
        if row["state"] == "complete" and (row["layer"] or row["group"]):
            name = weight_name(row["layer"]) if row["layer"] else row["group"]
            curve = found.setdefault(_key(row, _CURVE_KEYS), {}).setdefault(name, {})
            curve[row["requested_sparsity"]] = row["accuracy_drop"]
    return found


def curve_key(recipe: Recipe) -> str:
    """Key of the curves a recipe needs: the settings that determine scores and calibration."""
    return _key(_columns(recipe), _CURVE_KEYS)


class ScanCache:
    """On-disk cache of the scan rows of one baseline, shared by all studies: one JSON line per row."""

    def __init__(self, baseline_key: str) -> None:
        self._path = cache_dir() / "scans" / f"{baseline_key}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, Row] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            try:
                entry = json.loads(line)
                self._rows[entry["cut"]] = entry["row"]
            except (ValueError, KeyError, TypeError):
                continue  # partial line from a killed process: scan it again

    def find(self, recipe: Mapping[str, Any]) -> tuple[Row, list[Row]] | None:
        """The cached row of a scan recipe and its (empty) history; None for other recipes or if not cached."""
        complete = Recipe(**recipe)
        row = self._rows.get(_key(_columns(complete), _ROW_KEYS)) if complete.part and not complete.epochs else None
        return (row, []) if row else None

    def add(self, recipe: Mapping[str, Any], row: Row) -> None:
        """Cache the row if it is complete and the recipe belongs to a scan."""
        complete = Recipe(**recipe)
        if complete.part and not complete.epochs and row["state"] == "complete" and self.find(recipe) is None:
            cut = _key(_columns(complete), _ROW_KEYS)
            self._rows[cut] = row
            with self._path.open("a") as file:
                file.write("\n" * self._ends_mid_line() + json.dumps({"cut": cut, "row": row}) + "\n")

    def _ends_mid_line(self) -> bool:
        """Whether the file ends with a partial line."""
        content = self._path.read_bytes() if self._path.exists() else b""
        return not content.endswith(b"\n") and bool(content)


def _columns(recipe: Recipe) -> Row:
    return recipe.model_dump() | {"protect": " ".join(recipe.protect)}


def _key(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return json.dumps([values.get(name) for name in names])
