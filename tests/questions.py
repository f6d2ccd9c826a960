"""Synthetic results folders of one question each, and the files about layers: what the tests of analysis read too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pruning.measure.distributions import HISTOGRAM, QUANTILES, SCORES
from study.config.columns import COLUMNS, HISTORY
from study.results.files import write_rows, write_study
from tests.results_folder import BASELINE, _measures, _recipe, _record, _study

WORTH = {"random": 0.75, "magnitude_l1": 0.88, "saliency": 0.9}  # the sparsity at which half of the accuracy is gone


def grid(
    folder: Path,
    axes: Mapping[str, Sequence[Any]],
    *,
    seeds: int = 2,
    worth: Mapping[str, float] = WORTH,
    noise: float = 0.004,
    name: str = "grid",
    objectives: dict[str, str] | None = None,
) -> Path:
    """A finished study of every combination of `axes`; accuracy falls off at `worth` of any of the values."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    rows = []
    for number, (values, seed) in enumerate(product(product(*axes.values()), range(seeds))):
        recipe = {**_recipe(random, 0), "finetune_lr": 0.01, "requested_sparsity": 0.7}
        recipe |= dict(zip(axes, values, strict=True))
        half = min([worth[value] for value in values if value in worth], default=0.85)
        left = 1 / (1 + np.exp((recipe["requested_sparsity"] - half) * 25))
        accuracy = float(0.1 + (BASELINE["accuracy"] - 0.1) * left + random.normal(0, noise))
        row = {**recipe, "trial_id": f"{number:04d}", "kind": "search", "seed": 1000 + seed, "started": 1.7e9 + number}
        rows.append(row | {"finished": 1.7e9 + 30 * number, "wall_seconds": 30.0, **_measures(
            recipe["requested_sparsity"], accuracy, accuracy - 0.007, cut=recipe["granularity"] == "channel"
        )})  # fmt: skip
    write_rows(folder / "trials.csv", COLUMNS, rows)
    write_rows(folder / "history.csv", HISTORY, [])
    study = _study(objectives or {"accuracy": "max", "sparsity": "max"}, seeds)
    study["study"]["name"] = name
    write_study(folder, study, _record())
    return folder


def criteria(folder: Path, names: Sequence[str] = tuple(WORTH), *, seeds: int = 2, **changes: Any) -> Path:
    """A study of criteria, for weights and channels, ranked globally and by layer, at three sparsities."""
    axes = {
        "criterion": names, "granularity": ["weight", "channel"], "scope": ["global", "layer"],
        "requested_sparsity": [0.3, 0.5, 0.7],
    }  # fmt: skip
    return grid(folder, axes, seeds=seeds, **changes)


def scan_rows(layers: int, *, groups: int | None = None, criterion: str = "magnitude_l1") -> list[dict[str, Any]]:
    """The rows of a scan, weights and channels; the later a layer, the less it costs."""
    names = layer_names(layers)
    parts = [("weight", "layer", name) for name in names]
    parts += [("channel", "group", name) for name in names[: groups if groups is not None else max(1, layers - 1)]]
    rows = []
    for number, ((kind, key, name), ratio) in enumerate(product(parts, np.arange(1, 10) / 10)):
        drop = float((ratio**3 - 0.01) * 0.8 * (0.5 if kind == "weight" else 1) / (1 + names.index(name)))
        row = {**_recipe(np.random.default_rng(0), 0), "finetune_epochs": 0, "trial_id": f"{number:04d}"}
        row |= {"granularity": kind, key: name, "requested_sparsity": float(ratio), "kind": "search", "seed": number}
        row |= {**_measures(0.01, BASELINE["accuracy"] - drop, 0.5), "criterion": criterion, "test_accuracy": None}
        rows.append(row)
    return rows


def scan(folder: Path, layers: int = 20, **changes: Any) -> Path:
    """A sensitivity scan, as a results folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "trials.csv", COLUMNS, scan_rows(layers, **changes))
    write_rows(folder / "history.csv", HISTORY, [])
    write_study(folder, _study({"accuracy": "max", "sparsity": "max"}, 1), _record())
    return folder


def write_scores(folder: Path, layers: int) -> None:
    """layer_scores.csv: log-normal scores, smaller in later layers; the first quantiles of the last are zero."""
    random, rows = np.random.default_rng(0), []
    for criterion, (place, name) in product(("gradient_norm", "saliency"), enumerate(layer_names(layers))):
        scores = np.exp(random.normal(-6 - 0.05 * place, 1.2, 500)) * (0.05 if criterion == "saliency" else 1)
        scores[: 100 * (place == layers - 1)] = 0
        quantiles = np.percentile(scores, QUANTILES)
        row = {
            "layer": name,
            "criterion": criterion,
            "weights": 500,
            "norm": np.linalg.norm(scores),
            "mean": scores.mean(),
        }
        rows.append(row | {f"q{q:02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)})
    write_rows(folder / "layer_scores.csv", SCORES, rows)


def write_histograms(folder: Path, trial_id: str, layers: int, gone: float = 0.8) -> None:
    """models/<trial_id>/histograms.csv: normal weights, and of those the largest, a little moved."""
    random, rows = np.random.default_rng(0), []
    for name in layer_names(layers):
        dense = random.normal(0, 0.05, 2000)
        left = dense[np.abs(dense) > np.quantile(np.abs(dense), gone)] + random.normal(0, 0.005, 400)
        edges = np.linspace(min(dense.min(), left.min()), max(dense.max(), left.max()), 61)
        counts = [np.histogram(values, edges)[0] for values in (dense, left)]
        rows += [
            dict(zip(HISTOGRAM, (name, *line), strict=True))
            for line in zip(edges[:-1], edges[1:], *counts, strict=True)
        ]
    path = folder / "models" / trial_id / "histograms.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_rows(path, HISTOGRAM, rows)


def layer_names(count: int) -> list[str]:
    return [f"layer{number // 4 + 1}.{number % 4}.conv" for number in range(count)]
