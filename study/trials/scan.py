"""The sensitivity scan: each layer or dependency group cut alone, at rising shares, and what accuracy that costs.

It is a study like any other (`search_spaces/layer_sensitivity.yaml`); `scope: sensitivity` needs one of the baseline
first, with the same criteria. What was scanned once is kept for every later study of the same baseline.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from study.config import EACH, Recipe, StudyFile, parse
from study.config import axes as spaces
from study.data.cache import cache_dir
from study.training.epochs import Row

Curves = dict[str, dict[float, float]]  # parameter or dependency group -> share of it gone -> accuracy drop
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
_SCORING = ("criterion", "granularity", "reduce", "recalibrate", "calibration_samples", "protect")  # decide a curve
_CUTTING = (*_SCORING, "layer", "group", "sparsity", "min_channels", "round_to")  # decide a row, without fine-tuning


def scan_study(file: StudyFile) -> StudyFile | None:
    """The scan that a study's recipes of scope `sensitivity` draw on, as a study file; None if there are none."""
    axes = file.resolved()["space"]
    if "sensitivity" not in (file.space["scope"].choices or ()):
        return None
    alone = {
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
    scoring = {key: axes[key] for key in _SCORING if key in axes} | {"granularity": _scanned(file.space["granularity"])}
    return parse(
        {
            "study": study,
            "resources": resolved["resources"],
            "baseline": resolved["baseline"],
            "space": scoring | alone,
        },
        "the sensitivity scan",
    )


def _scanned(granularity: spaces.Axis) -> Any:
    """The granularities of which parts can be cut alone."""
    alone = tuple(name for name in granularity.choices or () if name in ("weight", "channel"))
    return spaces.compact(granularity.model_copy(update={"choices": alone}))


def curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curves]:
    """The curves of a scan's rows, by what decides them (`curve_key`)."""
    found: dict[str, Curves] = {}
    for row in rows:
        if row["state"] == "complete" and (row["layer"] or row["group"]):
            name = f"{row['layer']}.weight" if row["layer"] else row["group"]
            curve = found.setdefault(_key(row, _SCORING), {}).setdefault(name, {})
            curve[row["requested_sparsity"]] = row["accuracy_drop"]
    return found


def curve_key(recipe: Recipe) -> str:
    """What decides the curves that a recipe is allocated by: how it scores, and the images it does so with."""
    return _key(_columns(recipe), _SCORING)


class ScanCache:
    """On-disk cache of sensitivity-scan rows of one baseline, for all studies: a line of JSON for each."""

    def __init__(self, baseline_key: str) -> None:
        self._path = cache_dir() / "scans" / f"{baseline_key}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, Row] = {}
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            try:
                entry = json.loads(line)
                self._rows[entry["cut"]] = entry["row"]
            except (ValueError, KeyError, TypeError):
                continue  # half a line, of a process that was killed: it is scanned again

    def find(self, recipe: Mapping[str, Any]) -> tuple[Row, list[Row]] | None:
        """The row of this recipe, if it is one of a scan and was run before; and its history, which is empty."""
        whole = Recipe(**recipe)
        row = self._rows.get(_key(_columns(whole), _CUTTING)) if whole.part and not whole.epochs else None
        return (row, []) if row else None

    def add(self, recipe: Mapping[str, Any], row: Row) -> None:
        """Keep the row of a recipe, if it is one of a scan, and complete."""
        whole = Recipe(**recipe)
        if whole.part and not whole.epochs and row["state"] == "complete" and self.find(recipe) is None:
            cut = _key(_columns(whole), _CUTTING)
            self._rows[cut] = row
            with self._path.open("a") as file:
                file.write("\n" * self._torn() + json.dumps({"cut": cut, "row": row}) + "\n")

    def _torn(self) -> bool:
        """Whether the file ends in half a line."""
        content = self._path.read_bytes() if self._path.exists() else b""
        return not content.endswith(b"\n") and bool(content)


def _columns(recipe: Recipe) -> Row:
    return recipe.model_dump() | {"protect": " ".join(recipe.protect)}


def _key(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return json.dumps([values.get(name) for name in names])
