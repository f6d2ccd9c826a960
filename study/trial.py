"""One trial: baseline -> [score -> allocate -> mask or cut -> recalibrate -> fine-tune] x cuts -> measure -> row.

    python -m study.trial --space quickstart --set space.sparsity=0.8 --seed 1

runs one recipe in this process, without Ray; the last line of stdout is its row as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import models
from pruning import cost, masks
from pruning.allocation import achieved
from pruning.criteria import CRITERIA, Criterion
from pruning.cutting import Pruned, begin, further
from pruning.plans import Plan
from pruning.schedules import cut_points
from pruning.surgery import carry_state
from study import baseline as baselines
from study import space as spaces
from study import training
from study.baseline import Baseline, epoch_line
from study.config import BaselineSection, Recipe, StudyFile, read_study
from study.data import Data, calibration
from study.finetuning import FineTuning
from study.results import COLUMNS

Record = dict[str, Any]


class Shared(NamedTuple):
    """What all trials of a study have in common; never written to."""

    baseline: Baseline
    data: Data
    section: BaselineSection


class Network(NamedTuple):
    """A network on its way to the driver: its state, the plan that cut it (None: not cut), and its layers' costs."""

    state: dict[str, np.ndarray]
    plan: Plan | None
    layers: list[Record]


class Outcome(NamedTuple):
    """What a trial leaves: its row, a history row per fine-tuning epoch, and the network (None if it failed)."""

    row: Record
    history: list[Record]
    network: Network | None


def run_trial(
    recipe: Recipe, seed: int, shared: Shared, device: torch.device, say: Callable[[str], None] = lambda line: None
) -> Outcome:
    """The whole trial at once; see `live`. `say` gets a line per fine-tuning epoch."""
    story = live(recipe, seed, shared, device)
    try:
        while True:
            say(epoch_line(next(story), recipe.epochs))
    except StopIteration as end:
        return end.value


def live(recipe: Recipe, seed: int, shared: Shared, device: torch.device) -> Generator[Record, None, Outcome]:
    """The story of one trial; yields a history row after every fine-tuning epoch.

    What the recipe itself causes (a target that cannot be met, a loss that is no number, no memory left, a
    user's function that raises) becomes a row with state `failed` and the reason in `error`.
    """
    started = time.perf_counter()
    row: Record = {**_recipe_columns(recipe), "seed": seed, "error": None}
    history: list[Record] = []
    network = None
    try:
        images = training.on_device(shared.data, device)
        pruned = yield from _pruned(recipe, seed, shared, images, history)
        row |= _measured(pruned, shared, images, history) | {"state": "complete"}
        network = Network(
            baselines.arrays(pruned.model), pruned.plan, cost.layer_costs(pruned.model, shared.data.in_shape)
        )
    except Exception as error:  # a recipe's own failure is a result, not an accident of the study
        row |= {"state": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())}
    row["train_seconds"] = sum(record["seconds"] for record in history)
    row["wall_seconds"] = time.perf_counter() - started
    return Outcome(row, history, network)


def _pruned(
    recipe: Recipe, seed: int, shared: Shared, images: training.Images, history: list[Record]
) -> Generator[Record, None, Pruned]:
    baseline, data, section = shared
    device = images.images.device
    torch.manual_seed(seed)
    generator = torch.Generator(device).manual_seed(seed)
    train, validation = (training.rows_of(rows, device) for rows in (data.train, data.validation))
    probe = training.rows_of(calibration(data, recipe.calibration_samples, seed), device)

    pruned = begin(baseline.network(device), images.batch(validation[:1])[0], recipe.granularity, recipe.protect)
    optimizer = _optimizer(recipe, pruned.model)
    tuning = FineTuning(recipe, images, train, validation, section.batch_size, section.augment, seed, history)
    cuts = cut_points(recipe.schedule, recipe.sparsity, recipe.steps, recipe.initial_sparsity)
    for number, sparsity in enumerate(cuts, start=1):
        pruned, optimizer = _cut(pruned, optimizer, recipe, sparsity, images, probe, generator)
        if recipe.recalibrate:
            training.recalibrate(pruned.model, images, probe)
        yield from tuning.until(round(number * tuning.steps / len(cuts)), pruned, optimizer)
    return pruned


def _cut(
    pruned: Pruned,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    sparsity: float,
    images: training.Images,
    probe: Tensor,
    generator: torch.Generator,
) -> tuple[Pruned, torch.optim.Optimizer]:
    """One cut to a cumulative `sparsity`; a smaller network gets a new optimiser with the old one's state."""
    cut = further(
        pruned,
        sparsity,
        criterion=criterion(recipe.criterion),
        scope=recipe.scope,
        batches=[images.batch(rows) for rows in probe.split(128)],
        generator=generator,
        reduce=recipe.reduce,
        sparsity_of=recipe.sparsity_of,
        min_channels=recipe.min_channels,
        round_to=recipe.round_to,
    )
    if cut.last is None:
        return cut, optimizer
    rebuilt = _optimizer(recipe, cut.model)
    carry_state(optimizer, pruned.model, rebuilt, cut.model, cut.last)
    return cut, rebuilt


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    return training.OPTIMIZERS[recipe.optimizer](model.parameters(), recipe.finetune_lr, recipe.weight_decay)


def criterion(name: str) -> Criterion:
    """A criterion of `pruning`, or a user's own `package.module:function` for single weights."""
    return CRITERIA[name] if name in CRITERIA else Criterion(weight=models.imported(name, "criterion"))


def check(file: StudyFile, data: Data) -> None:
    """Finds, before anything runs, what would fail in every trial: the model, the criteria, the groups, the samples.

    Raises ValueError naming the key.
    """
    model = baselines.check(file.baseline, data)
    values = {key: axis.choices or (axis.high,) for key, axis in file.axes.items()}
    defaults = {key: (field.default,) for key, field in Recipe.model_fields.items()}
    for name in values["criterion"]:
        criterion(name)
    samples = max(values.get("calibration_samples", defaults["calibration_samples"]))
    if samples > len(data.train):
        raise ValueError(f"space.calibration_samples: {samples}, but there are {len(data.train)} train images")
    example = torch.zeros(2, *data.in_shape)
    for granularity in values.get("granularity", defaults["granularity"]):
        for protect in values.get("protect", defaults["protect"]):
            try:
                begin(model, example, granularity, protect)
            except ValueError as error:
                raise ValueError(f"space.granularity {granularity}: {error}") from None


def _measured(pruned: Pruned, shared: Shared, images: training.Images, history: list[Record]) -> Record:
    data, dense, model, device = shared.data, shared.baseline.card, pruned.model, images.images.device
    accuracy = (
        history[-1]["accuracy"]
        if history
        else training.evaluate(model, images, training.rows_of(data.validation, device))
    )
    nonzero, nonzero_macs = cost.nonzero_parameters(model), cost.nonzero_macs(model, data.in_shape)
    return {
        "sparsity": masks.sparsity(model, pruned.dense_weights),
        "channel_sparsity": achieved(pruned.graph, pruned.plan)["channels"] if pruned.graph and pruned.plan else 0.0,
        "compression_ratio": dense["params"] / nonzero,
        "baseline_accuracy": dense["accuracy"],
        "baseline_test_accuracy": dense["test_accuracy"],
        "accuracy": accuracy,
        "accuracy_drop": dense["accuracy"] - accuracy,
        "test_accuracy": training.evaluate(model, images, training.rows_of(data.test, device)),
        "params": cost.parameters(model),
        "nonzero_params": nonzero,
        "macs": cost.macs(model, data.in_shape),
        "nonzero_macs": nonzero_macs,
        "theoretical_speedup": dense["macs"] / nonzero_macs,
        "size_bytes": cost.size_bytes(model),
        "sparse_size_bytes": cost.sparse_size_bytes(model),
    }


def _recipe_columns(recipe: Recipe) -> Record:
    columns = recipe.model_dump()
    return {
        "requested_sparsity": columns.pop("sparsity"),
        **columns,
        "finetune_epochs": recipe.epochs,
        "protect": " ".join(recipe.protect),
    }


def main(argv: list[str] | None = None) -> int:
    """Run one recipe in this process; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m study.trial", description="Run one recipe, without Ray.")
    parser.add_argument("--space", metavar="NAME_OR_PATH", required=True, help="the study file")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are")
    parser.add_argument("--set", metavar="a.b=c", action="append", default=[], help="change a key of the study file")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="draws the axes left open; the trial's seed")
    args = parser.parse_args(argv)
    try:
        file = read_study(args.space, args.set)
        data = baselines.read_data(file.baseline, args.data_dir)
        check(file, data)
        recipe = Recipe(**spaces.draw(file.axes, spaces.picker(args.seed)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    baseline = baselines.obtain(file.baseline, data, lambda: baselines.make(file.baseline, data, device))
    outcome = run_trial(recipe, args.seed, Shared(baseline, data, file.baseline), device, say=print)
    print(json.dumps({name: outcome.row.get(name) for name in COLUMNS}))
    return 0 if outcome.row["state"] == "complete" else 1


if __name__ == "__main__":
    sys.exit(main())
