"""A synthetic results folder, written by the engine's own writers: what the tests of analysis read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from study.config.columns import COLUMNS, HISTORY
from study.results.files import write_layers, write_rows, write_study

BASELINE = {"accuracy": 0.931, "test_accuracy": 0.924, "params": 272474, "macs": 40813184, "size_bytes": 1107117}
ERRORS = ("ValueError: layer1 cannot keep 0 of 432 | floor 1", "RuntimeError: loss is <script>alert(1)</script> & nan")
SPACE = {"scope": ("global", "layer"), "schedule": ("one_shot", "iterative", "gradual")}
COLLAPSE = {"one_shot": 0.90, "iterative": 0.95, "gradual": 0.97}  # sparsity at which half of the accuracy is gone
EPOCHS = 5


def make(
    folder: Path,
    trials: int = 60,
    failed: int = 6,
    *,
    seeds: int = 1,
    control: bool = True,
    history: bool = True,
    granularities: Sequence[str] = ("weight",),
    measured: bool = False,
    layers: int = 0,
    objectives: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write a study of `trials` recipes x `seeds` runs, of which the first `failed` failed; `changes` to all rows.

    Recipes take `granularities` in turn. With `measured` all networks have latencies; with `layers` a layers.csv of as
    many layers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    kinds = [granularities[number % len(granularities)] for number in range(trials)]
    recipes = [{**_recipe(random, number), "granularity": kind} for number, kind in enumerate(kinds)]
    pairs = list(product(recipes, range(seeds)))
    rows = [
        {**_row(random, recipe, number, failed), "seed": 1000 + number, **changes}
        for number, (recipe, _) in enumerate(pairs)
    ]
    complete = [row for row in rows if row["state"] == "complete"]
    lines = [line for row in complete for line in _history(random, row)]
    rows += [_control()] if control else []
    for row in complete if layers else []:
        write_network(folder, row, layers)
    write_rows(folder / "trials.csv", COLUMNS, [{**row, **(_speeds(row) if measured else {})} for row in rows])
    write_rows(folder / "history.csv", HISTORY, lines if history else [])
    write_study(folder, _study(objectives or {"accuracy": "max", "sparsity": "max"}, seeds), _record())
    return folder


def _recipe(random: np.random.Generator, number: int) -> dict[str, Any]:
    scope, schedule = list(product(*SPACE.values()))[number % 6]
    return {
        "criterion": "magnitude_l1", "granularity": "weight", "scope": scope, "schedule": schedule,
        "requested_sparsity": float(random.uniform(0.3, 0.99)), "sparsity_of": "params", "initial_sparsity": 0.0,
        "steps": 1 if schedule == "one_shot" else int(random.choice([3, 5])), "finetune_epochs": EPOCHS,
        "epochs_per_step": None, "finetune_lr": float(10 ** random.uniform(-4, -1)), "lr_schedule": "cosine",
        "optimizer": "sgd", "weight_decay": 5e-4, "recalibrate": True, "calibration_samples": 512,
        "min_channels": 1, "round_to": 1, "protect": "",
    }  # fmt: skip


def _row(random: np.random.Generator, recipe: dict[str, Any], number: int, failed: int) -> dict[str, Any]:
    row = {**recipe, "trial_id": f"{number:04d}", "kind": "search", "started": 1.7e9 + number, "wall_seconds": 30.5}
    if number < failed:
        return {**row, "state": "failed", "error": ERRORS[number % 2], "feasible": False}
    asked = recipe["requested_sparsity"]
    half = COLLAPSE[recipe["schedule"]] - 0.02 * (recipe["scope"] == "layer")
    left = 1 / (1 + np.exp((asked - half) * 60)) - 0.02 * abs(np.log10(recipe["finetune_lr"]) + 2)
    accuracy = 0.1 + (BASELINE["accuracy"] - 0.09) * left + random.normal(0, 0.003)
    return row | _measures(
        round(272474 * asked) / 272474,
        float(accuracy),
        float(accuracy + random.normal(-0.007, 0.003)),
        cut=recipe["granularity"] == "channel",
    )


def _measures(sparsity: float, accuracy: float, test_accuracy: float, *, cut: bool = False) -> dict[str, Any]:
    nonzero = round(BASELINE["params"] * (1 - sparsity)) + 1000
    nonzero_macs = round(BASELINE["macs"] * (1 - sparsity)) + 650
    return {
        "state": "complete", "sparsity": sparsity, "channel_sparsity": sparsity if cut else 0.0,
        "compression_ratio": BASELINE["params"] / nonzero, "baseline_accuracy": BASELINE["accuracy"],
        "baseline_test_accuracy": BASELINE["test_accuracy"], "accuracy": accuracy,
        "accuracy_drop": BASELINE["accuracy"] - accuracy, "test_accuracy": test_accuracy,
        "params": nonzero if cut else BASELINE["params"], "nonzero_params": nonzero,
        "macs": nonzero_macs if cut else BASELINE["macs"], "nonzero_macs": nonzero_macs,
        "theoretical_speedup": BASELINE["macs"] / nonzero_macs, "feasible": True,
        "size_bytes": 4 * nonzero if cut else BASELINE["size_bytes"], "sparse_size_bytes": 4 * nonzero,
        "train_seconds": 25.25, "finished": 1.7e9 + 100,
    }  # fmt: skip


def _speeds(row: dict[str, Any]) -> dict[str, Any]:
    """Dense 3.2 ms, 40 ms for a batch of 64; halved times for a quarter of the MACs executed."""
    if row["state"] != "complete":
        return {}
    gain = (BASELINE["macs"] / row["macs"]) ** 0.5
    return {
        "latency_ms": 3.2 / gain, "latency_low_ms": 3.1 / gain, "latency_high_ms": 3.5 / gain,
        "baseline_latency_ms": 3.2, "speedup": gain, "large_batch": 64, "batch_latency_ms": 40 / gain**1.5,
        "baseline_batch_latency_ms": 40.0, "batch_speedup": gain**1.5,
    }  # fmt: skip


def write_network(folder: Path, row: dict[str, Any], layers: int) -> None:
    """models/<trial_id>/layers.csv of layers with 16 channels and 144 weights, of which the first ones keep more."""
    path = folder / "models" / row["trial_id"] / "layers.csv"
    path.parent.mkdir(parents=True)
    cut = row["granularity"] == "channel"
    shares = np.clip((1 - row["sparsity"]) * np.linspace(1.6, 0.4, layers), 0, 1)
    dense = [_layer(number, 16, 144, 144) for number in range(layers)]
    left = [(max(1, round(16 * share)), round(144 * share)) for share in shares]
    write_layers(path, dense, [_layer(i, c if cut else 16, w if cut else 144, w) for i, (c, w) in enumerate(left)])


def _layer(number: int, channels: int, weights: int, nonzero: int) -> dict[str, Any]:
    return {
        "layer": f"layer{number // 4 + 1}.{number % 4}.conv", "type": "Conv2d", "in_channels": 16,
        "out_channels": channels, "params": weights, "weights": weights, "nonzero_weights": nonzero,
        "macs": 64 * weights, "nonzero_macs": 64 * nonzero,
    }  # fmt: skip


def _control() -> dict[str, Any]:
    recipe = _recipe(np.random.default_rng(1), 0)
    return {
        **recipe, "trial_id": "c0000", "kind": "control", "schedule": "dense", "requested_sparsity": 0.0, "seed": 7,
        **_measures(0.0, 0.936, 0.929),
    }  # fmt: skip


def _history(random: np.random.Generator, row: dict[str, Any]) -> list[dict[str, Any]]:
    cuts = {"one_shot": np.ones(EPOCHS), "iterative": np.array([1, 2, 3, 3, 3]) / 3}
    done = np.arange(1, EPOCHS + 1) / EPOCHS
    sparsity = row["sparsity"] * cuts.get(row["schedule"], 1 - (1 - done) ** 3)
    accuracy = row["accuracy"] - 0.02 * (1 - done) + random.normal(0, 0.002, EPOCHS) * (done < 1)
    return [
        {
            "trial_id": row["trial_id"], "epoch": epoch + 1, "progress": done[epoch], "sparsity": sparsity[epoch],
            "train_loss": 0.5 - 0.3 * done[epoch], "accuracy": accuracy[epoch], "seconds": 5.05,
        }
        for epoch in range(EPOCHS)
    ]  # fmt: skip


def _study(objectives: dict[str, str], seeds: int) -> dict[str, Any]:
    return {
        "study": {"name": "synthetic", "objectives": objectives, "constraints": {}, "seeds": seeds, "trials": 60},
        "resources": {"cpus": 1},
        "baseline": {"model": "resnet20", "dataset": "cifar10"},
        "space": {key: list(values) for key, values in SPACE.items()},
    }


def _record() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "command": "python -m study.run --space schedules",
        "started": "2025-01-01T12:00:00+0000",
        "versions": {"python": "3.11.7", "torch": "2.15"},
        "git_commit": None,
        "hardware": {"machine": "x86_64", "cpu": "a <fast> one", "cores": 2, "gpus": []},
        "baseline": {**BASELINE, "latency_ms": 3.2, "seconds": 60.0},
    }
