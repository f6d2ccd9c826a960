"""A synthetic results folder, written by the engine's own writers: what the tests of analysis read."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from study.results import COLUMNS, HISTORY, write_rows, write_study

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
    objectives: dict[str, str] | None = None,
    **changes: Any,
) -> Path:
    """Write a study of `trials` recipes x `seeds` runs, of which the first `failed` failed; `changes` to all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    recipes = [_recipe(random, number) for number in range(trials)]
    pairs = list(product(recipes, range(seeds)))
    rows = [
        {**_row(random, recipe, number, failed), "seed": 1000 + number, **changes}
        for number, (recipe, _) in enumerate(pairs)
    ]
    lines = [line for row in rows if row["state"] == "complete" for line in _history(random, row)]
    write_rows(folder / "trials.csv", COLUMNS, rows + ([_control()] if control else []))
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
        round(272474 * asked) / 272474, float(accuracy), float(accuracy + random.normal(-0.007, 0.003))
    )


def _measures(sparsity: float, accuracy: float, test_accuracy: float) -> dict[str, Any]:
    nonzero = round(BASELINE["params"] * (1 - sparsity)) + 1000
    nonzero_macs = round(BASELINE["macs"] * (1 - sparsity)) + 650
    return {
        "state": "complete", "sparsity": sparsity, "channel_sparsity": 0.0,
        "compression_ratio": BASELINE["params"] / nonzero, "baseline_accuracy": BASELINE["accuracy"],
        "baseline_test_accuracy": BASELINE["test_accuracy"], "accuracy": accuracy,
        "accuracy_drop": BASELINE["accuracy"] - accuracy, "test_accuracy": test_accuracy, "params": BASELINE["params"],
        "nonzero_params": nonzero, "macs": BASELINE["macs"], "nonzero_macs": nonzero_macs,
        "theoretical_speedup": BASELINE["macs"] / nonzero_macs, "size_bytes": BASELINE["size_bytes"], "feasible": True,
        "train_seconds": 25.25, "finished": 1.7e9 + 100,
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
