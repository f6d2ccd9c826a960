"""One trial: baseline -> [score -> allocate -> mask or cut -> recalibrate -> fine-tune] x cuts -> measure -> row.

    python -m study.trial --space quickstart --set space.sparsity=0.8 --seed 1

runs one recipe in this process, without Ray; the last line of stdout is its row as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import models
from pruning import cost, masks
from pruning.allocation import achieved
from pruning.criteria import CRITERIA, Batches, Criterion
from pruning.cutting import Pruned, begin, further, score
from pruning.plans import Plan
from pruning.schedules import cut_points
from pruning.surgery import carry_state
from study import baseline as baselines
from study import scan, scores, training
from study import space as spaces
from study.baseline import Baseline
from study.config import BaselineSection, Recipe, StudyFile, read_study
from study.data import Data, calibration
from study.finetuning import FineTuning
from study.results import COLUMNS
from study.scan import Curves, curve_key
from study.scores import Store, unshared
from study.scratch import trained_anew
from study.speed import speeds
from study.view import epoch_line

Record = dict[str, Any]


class Shared(NamedTuple):
    """What all trials of a study have in common; never written to.

    seed, draws: the untouched baseline is scored on `draws` different draws of calibration images, those of the seeds
    seed .. seed + draws - 1, and each of these scores is computed once. curves: of the sensitivity scan.
    timed: trials measure their network's latency, for which each has a device to itself.
    """

    baseline: Baseline
    data: Data
    section: BaselineSection
    seed: int = 0
    draws: int = 1
    scores: Store = unshared
    curves: dict[str, Curves] = {}
    timed: bool = False


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


def live(
    recipe: Recipe, seed: int, shared: Shared, device: torch.device, anew: Plan | None = None
) -> Generator[Record, None, Outcome]:
    """The story of one trial; yields a history row after every fine-tuning epoch.

    anew: the plan of a cut network that is trained from scratch instead (see `study.scratch`).

    What the recipe itself causes (a target that cannot be met, a loss that is no number, no memory left, a
    user's function that raises) becomes a row with state `failed` and the reason in `error`.
    """
    started = time.perf_counter()
    row: Record = {**_recipe_columns(recipe), "seed": seed, "error": None}
    history: list[Record] = []
    network = None
    try:
        images = training.on_device(shared.data, device)
        if anew:
            pruned = yield from trained_anew(anew, recipe, seed, *shared[:3], images, history)
        else:
            pruned = yield from _pruned(recipe, seed, shared, images, history)
        row |= _measured(pruned, shared, images, history, recipe.part is not None) | {"state": "complete"}
        network = Network(
            baselines.arrays(pruned.model), pruned.plan, cost.layer_costs(pruned.model, shared.data.in_shape)
        )
    except Exception as error:  # a recipe's own failure is a result, not an accident of the study
        row |= {"state": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())}
    row["train_seconds"] = sum(record["seconds"] for record in history)
    row["wall_seconds"] = time.perf_counter() - started
    return Outcome(row, history, network)


def stopped(recipe: Recipe, seed: int, history: list[Record], dense: Record) -> Record:
    """The row of a trial that was ended early: what its last epoch showed. `dense`: the baseline's card."""
    last = history[-1]
    seconds = sum(record["seconds"] for record in history)
    return {
        **_recipe_columns(recipe),
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


def _pruned(
    recipe: Recipe, seed: int, shared: Shared, images: training.Images, history: list[Record]
) -> Generator[Record, None, Pruned]:
    baseline, data, section = shared[:3]
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
        batches = [images.batch(rows) for rows in probe.split(128)]
        known = _first_scores(recipe, seed, shared, images, pruned) if number == 1 else None
        cut = _cut(pruned, recipe, sparsity, batches, generator, known, shared.curves)
        optimizer = _carried(optimizer, recipe, pruned, cut)
        pruned = cut
        if recipe.recalibrate:
            training.recalibrate(pruned.model, images, probe, generator if section.augment else None)
        yield from tuning.until(round(number * tuning.steps / len(cuts)), pruned, optimizer)
    return pruned


def _first_scores(
    recipe: Recipe, seed: int, shared: Shared, images: training.Images, dense: Pruned
) -> masks.Scores | None:
    """Scores of the untouched baseline, which its trials share; None for those that cost nothing, or are random."""
    form = criterion(recipe.criterion)
    if form.cost in ("", "weights"):
        return None
    draw = shared.seed + seed % shared.draws
    device = images.images.device

    def compute() -> masks.Scores:
        chosen = training.rows_of(calibration(shared.data, recipe.calibration_samples, draw), device)
        batches = [images.batch(rows) for rows in chosen.split(128)]
        return score(dense, form, batches, torch.Generator(device).manual_seed(draw), recipe.reduce)

    what = (recipe.criterion, recipe.granularity, recipe.reduce, recipe.protect, recipe.calibration_samples, draw)
    return scores.shared(shared.scores, repr(what), compute, device)


def _cut(
    pruned: Pruned,
    recipe: Recipe,
    sparsity: float,
    batches: Batches,
    generator: torch.Generator,
    known: masks.Scores | None,
    curves: dict[str, Curves],
) -> Pruned:
    """One cut to a cumulative `sparsity`."""
    return further(
        pruned,
        sparsity,
        criterion=criterion(recipe.criterion),
        scope=recipe.scope,
        batches=batches,
        generator=generator,
        reduce=recipe.reduce,
        sparsity_of=recipe.sparsity_of,
        min_channels=recipe.min_channels,
        round_to=recipe.round_to,
        channel_share=recipe.channel_share,
        scores=known,
        only=recipe.part,
        curves=curves.get(curve_key(recipe)) if recipe.scope == "sensitivity" else None,
    )


def _carried(optimizer: torch.optim.Optimizer, recipe: Recipe, before: Pruned, after: Pruned) -> torch.optim.Optimizer:
    """The optimiser; for a network that a cut made smaller a new one, with the old one's state."""
    if after.last is None:
        return optimizer
    rebuilt = _optimizer(recipe, after.model)
    carry_state(optimizer, before.model, rebuilt, after.model, after.last)
    return rebuilt


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    return training.OPTIMIZERS[recipe.optimizer](model.parameters(), recipe.finetune_lr, recipe.weight_decay)


def criterion(name: str) -> Criterion:
    """A criterion of `pruning`, or a user's own `package.module:function` for single weights."""
    return CRITERIA[name] if name in CRITERIA else Criterion(weight=models.imported(name, "criterion"))


def resolve(file: StudyFile, data: Data) -> StudyFile:
    """The study file with the network's own layers and groups where it says `each`.

    Finds, before anything runs, what would fail in every trial: the model, the criteria, the groups, the samples.
    Raises ValueError naming the key.
    """
    model = baselines.check(file.baseline, data)
    for name in file.values("criterion"):
        criterion(name)
    samples = max(file.values("calibration_samples"))
    if samples > len(data.train):
        raise ValueError(f"space.calibration_samples: {samples}, but there are {len(data.train)} train images")
    return of_network(file, model, data.in_shape)


def of_network(file: StudyFile, model: nn.Module, in_shape: tuple[int, int, int]) -> StudyFile:
    """The study file with the layers and groups of `model` where it says `each`. Raises ValueError naming the key."""
    groups: list[str] = []
    for granularity in file.values("granularity"):
        for protect in file.values("protect"):
            try:
                graph = begin(model, torch.zeros(2, *in_shape), granularity, protect).graph
            except ValueError as error:
                raise ValueError(f"space.granularity {granularity}: {error}") from None
            groups = [group.name for group in graph.groups] if graph else groups
    return file.with_parts([name.removesuffix(".weight") for name in masks.prunable(model)], groups)


def _measured(pruned: Pruned, shared: Shared, images: training.Images, history: list[Record], scanned: bool) -> Record:
    data, dense, model, device = shared.data, shared.baseline.card, pruned.model, images.images.device
    accuracy = (
        history[-1]["accuracy"]
        if history
        else training.evaluate(model, images, training.rows_of(data.validation, device))
    )
    # A scan's networks are no candidates: only validation accuracy is asked of them, which takes a third of the time.
    test = None if scanned else training.evaluate(model, images, training.rows_of(data.test, device))
    nonzero, nonzero_macs = cost.nonzero_parameters(model), cost.nonzero_macs(model, data.in_shape)
    timed = {}
    if shared.timed:
        network = shared.baseline.network(device)
        timed = speeds({"": copy.deepcopy(model)}, network, data.in_shape, device)[""]
    return timed | {
        "sparsity": masks.sparsity(model, pruned.dense_weights),
        "channel_sparsity": achieved(pruned.graph, pruned.plan)["channels"] if pruned.graph and pruned.plan else 0.0,
        "compression_ratio": dense["params"] / nonzero,
        "baseline_accuracy": dense["accuracy"],
        "baseline_test_accuracy": dense["test_accuracy"],
        "accuracy": accuracy,
        "accuracy_drop": dense["accuracy"] - accuracy,
        "test_accuracy": test,
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


def _scanned(file: StudyFile, recipe: Recipe, shared: Shared, device: torch.device) -> dict[str, Curves]:
    """The curves that a recipe of scope `sensitivity` is allocated by; cuts that were not scanned before are now."""
    wanted = scan.needed(file)
    assert wanted is not None
    kept, rows = scan.Kept(baselines.key(file.baseline, shared.data)), []
    points = [p for p in spaces.grid(resolve(wanted, shared.data).axes) if curve_key(Recipe(**p)) == curve_key(recipe)]
    print(f"sensitivity scan: {len(points)} cuts of one layer or group", flush=True)
    for point in points:
        known = kept(point)
        rows.append(known[0] if known else run_trial(Recipe(**point), file.study.seed, shared, device).row)
        kept.add(point, rows[-1])
    return scan.curves(rows)


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
        file = resolve(file, data)
        recipe = Recipe(**spaces.draw(file.axes, spaces.picker(args.seed)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    baseline = baselines.obtain(file.baseline, data, lambda: baselines.make(file.baseline, data, device))
    shared = Shared(baseline, data, file.baseline, seed=file.study.seed, draws=file.study.seeds)
    if recipe.scope == "sensitivity":
        shared = shared._replace(curves=_scanned(file, recipe, shared, device))
    outcome = run_trial(recipe, args.seed, shared, device, say=print)
    print(json.dumps({name: outcome.row.get(name) for name in COLUMNS}))
    return 0 if outcome.row["state"] == "complete" else 1


if __name__ == "__main__":
    sys.exit(main())
