"""The rows of trials.csv: the recipe's settings and the measurements of its network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from models.formats import open_onnx
from pruning.allocation.channel_budget import achieved
from pruning.measure import cost
from pruning.pipeline import Pruned
from pruning.weights import masks
from study.config import Recipe
from study.quantization import int8, onnx_file, runtime
from study.training import evaluation
from study.training.device_data import DeviceData
from study.training.epochs import Row
from study.training.speed import speeds
from study.trials.context import TrialContext

FLOAT_BITS = 32


def recipe_columns(recipe: Recipe) -> Row:
    """The recipe's keys as columns; `sparsity` becomes `requested_sparsity` (`sparsity` is the achieved one)."""
    columns = recipe.model_dump()
    return {
        "requested_sparsity": columns.pop("sparsity"),
        **columns,
        "finetune_epochs": recipe.epochs,
        "protect": " ".join(recipe.protect),
    }


def failed_row(recipe: Mapping[str, Any], error: str) -> Row:
    """The row of a failed recipe (complete or partial) without a trial result."""
    columns = {key: value for key, value in recipe.items() if key != "sparsity"}
    if isinstance(columns.get("protect"), (list, tuple)):
        columns["protect"] = " ".join(columns["protect"])
    return {**columns, "requested_sparsity": recipe.get("sparsity"), "state": "failed", "error": error}


def stopped_row(recipe: Recipe, seed: int, history: list[Row], dense: Row) -> Row:
    """The row of a trial that was stopped early.

    Args:
      recipe: the trial's recipe.
      seed: of the trial.
      history: history rows; the last one gives accuracy and sparsity.
      dense: the baseline's card.
    """
    last = history[-1]
    seconds = sum(record["seconds"] for record in history)
    return {
        **recipe_columns(recipe),
        "seed": seed,
        "state": "stopped",
        "error": None,
        "sparsity": last["sparsity"],
        "accuracy": last["accuracy"],
        "baseline_accuracy": dense["accuracy"],
        "baseline_test_accuracy": dense["test_accuracy"],
        "accuracy_drop": dense["accuracy"] - last["accuracy"],
        "train_seconds": seconds,
        "wall_seconds": seconds,
    }


def measured_columns(
    pruned: Pruned, context: TrialContext, data: DeviceData, history: list[Row]
) -> tuple[Row, np.ndarray | None, list[Row]]:
    """Measurements of a finished network: sparsities, accuracies and costs.

    Args:
      pruned: the network.
      context: the study's baseline and data.
      data: the data set on its device.
      history: history rows; the last one, if any, gives the validation accuracy.

    Returns: the columns; which test images it gets right, bool (n,), or None; and the costs of its layers.
    """
    in_shape, dense, model = context.data.in_shape, context.baseline.card, pruned.model
    accuracy = history[-1]["accuracy"] if history else evaluation.evaluate(model, data.images, data.validation)
    # Networks of a sensitivity scan only need validation accuracy, which takes a third of the time.
    is_scan = pruned.settings.only is not None
    correct = None if is_scan else evaluation.correct(model, data.images, data.test)
    nonzero, costs = cost.nonzero_parameters(model), cost.measured(model, in_shape)
    row = {
        "sparsity": masks.sparsity(model, pruned.dense_weights),
        "channel_sparsity": achieved(pruned.graph, pruned.plan)["channels"] if pruned.graph and pruned.plan else 0.0,
        "compression_ratio": dense["params"] / nonzero,
        "baseline_accuracy": dense["accuracy"],
        "baseline_test_accuracy": dense["test_accuracy"],
        "accuracy": accuracy,
        "accuracy_drop": dense["accuracy"] - accuracy,
        "test_accuracy": None if correct is None else evaluation.accuracy(correct),
        "bits": FLOAT_BITS,
        "params": cost.parameters(model),
        "nonzero_params": nonzero,
        "macs": costs.macs,
        "nonzero_macs": costs.nonzero_macs,
        "theoretical_speedup": dense["macs"] / costs.nonzero_macs,
        "size_bytes": cost.size_bytes(model),
        "sparse_size_bytes": cost.sparse_size_bytes(model),
    }
    return row, correct, costs.layers


def quantized_columns(content: bytes, floats: Row, data: DeviceData) -> tuple[Row, np.ndarray | None]:
    """What changes for a network that is quantized: accuracies as the runtime executes it, and bytes.

    Args:
      content: the quantized file.
      floats: the columns of the network before, which become those that begin with `float_`.
      data: the data set on its device.
    """
    run = open_onnx(content, torch.get_num_threads())
    accuracy = evaluation.accuracy(runtime.correct(run, data.images, data.validation))
    correct = None if floats["test_accuracy"] is None else runtime.correct(run, data.images, data.test)
    before = {f"float_{name}": floats[name] for name in ("accuracy", "test_accuracy", "size_bytes")}
    row = before | {
        "accuracy": accuracy,
        "accuracy_drop": floats["baseline_accuracy"] - accuracy,
        "test_accuracy": None if correct is None else evaluation.accuracy(correct),
        "bits": int8.BITS,
        "size_bytes": len(content),
        "sparse_size_bytes": onnx_file.sparse_size_bytes(content),
    }
    return row, correct


def latency_columns(pruned: Pruned, content: bytes | None, context: TrialContext, device: torch.device) -> Row:
    """The latency of a finished network, beside the dense one, in the study's runtime; none if not `context.timed`.

    content: of its quantized file; None: not quantized.
    """
    if not context.timed:
        return {}
    network, dense = copy.deepcopy(pruned.model), context.baseline.network(device)
    if context.runtime == runtime.NAME:
        networks = {"": runtime.Finished(network, content)}
        return runtime.speeds(networks, dense, context.data.in_shape, device)[""]
    return speeds({"": network}, dense, context.data.in_shape, device)[""]
