"""One trial: baseline -> [score -> allocate -> mask or cut -> recalibrate -> fine-tune] x cuts -> measure -> row."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Iterable

import torch
from torch import nn

from pruning.channels.plans import Plan
from pruning.channels.surgery import carry_state
from pruning.measure import cost
from pruning.pipeline import Pruned, prune_to
from pruning.schedules import cut_points
from pruning.sparse_learning import group_lasso
from study.baseline.network import arrays
from study.config import Recipe
from study.data.splits import calibration
from study.quantization import int8
from study.training import evaluation, optimisers
from study.training.device_data import DeviceData, place, rows_of
from study.training.epochs import Row, epoch_line
from study.trials.context import NetworkState, Outcome, TrialContext
from study.trials.finetuning import FineTuning, training_images
from study.trials.from_scratch import train_from_scratch
from study.trials.rows import latency_columns, measured_columns, quantized_columns, recipe_columns
from study.trials.scoring import baseline_scores, dense_network

CALIBRATION_BATCH = 32  # images; with 512 of 32x32 pixels at once a ResNet-20 took 1.8 GB


def run_trial(
    recipe: Recipe,
    seed: int,
    context: TrialContext,
    device: torch.device,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run one trial to its end; see `trial_epochs`.

    Args:
      recipe: what to do to the baseline.
      seed: of all random draws of this trial.
      context: input shared by the trials of the study.
      device: where to run.
      say: called with a line of text per fine-tuning epoch.
    """
    epochs = trial_epochs(recipe, seed, context, device)
    try:
        while True:
            say(epoch_line(next(epochs), recipe.epochs))
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def trial_epochs(
    recipe: Recipe,
    seed: int,
    context: TrialContext,
    device: torch.device,
    from_scratch: Plan | None = None,
) -> Generator[Row, None, Outcome]:
    """Run one trial; yields a history row per fine-tuning epoch and returns the outcome.

    Errors caused by the recipe (infeasible target, diverged loss, out of memory, an exception in a user-defined
    function) give a row with state `failed` and the reason in `error`.

    Args:
      recipe: what to do to the baseline.
      seed: of all random draws of this trial.
      context: input shared by the trials of the study.
      device: where to run.
      from_scratch: plan of a cut network to train from scratch instead (see `study.trials.from_scratch`).
    """
    started = time.perf_counter()
    row: Row = {**recipe_columns(recipe), "seed": seed, "error": None}
    history: list[Row] = []
    network, trace, correct = None, "", None
    try:
        data = place(context.data, device)
        if from_scratch:
            pruned = yield from train_from_scratch(from_scratch, recipe, seed, context, data, history)
        else:
            pruned = yield from _prune_and_finetune(recipe, seed, context, data, history)
        measured, correct, layers = measured_columns(pruned, context, data, history)
        content = None
        if recipe.quantize != "none":
            content = _quantized(recipe, seed, pruned, context, data)
            changed, correct = quantized_columns(content, measured, data)
            measured |= changed
        row |= measured | latency_columns(pruned, content, context, device) | {"state": "complete"}
        network = NetworkState(arrays(pruned.model), pruned.plan, layers, content)
    except (Exception, SystemExit) as error:  # a failing recipe is a result and must not stop the study
        trace = traceback.format_exc()
        row |= {"state": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())}
    row["train_seconds"] = sum(record["seconds"] for record in history)
    row["wall_seconds"] = time.perf_counter() - started
    return Outcome(row, history, network, trace, correct if network else None)


def _prune_and_finetune(
    recipe: Recipe, seed: int, context: TrialContext, data: DeviceData, history: list[Row]
) -> Generator[Row, None, Pruned]:
    device = data.images.device
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same
    calibrating = rows_of(calibration(context.data, recipe.calibration_samples, seed), device)
    pruned = dense_network(recipe, context, data)
    optimizer = _optimizer(recipe, pruned.model)
    tuned = data._replace(train=rows_of(training_images(context.data, recipe.finetune_samples), device))
    tuning = FineTuning(recipe, tuned, context.section, lambda: context.baseline.network(device), seed, history)
    cuts = cut_points(recipe.schedule, recipe.sparsity, recipe.steps, recipe.initial_sparsity)
    if recipe.sparse_epochs:
        assert pruned.graph is not None
        lasso = group_lasso(pruned.graph, pruned.model, recipe.group_lasso)
        yield from _with_costs(tuning.until(tuning.sparse_steps, pruned, optimizer, lasso), pruned, context, device)
        scores = None  # of the baseline, which this no longer is
    else:
        scores = baseline_scores(recipe, seed, context, data.images, pruned)
    for number, sparsity in enumerate(cuts, start=1):
        before, batches = pruned, data.images.batches(calibrating)
        pruned = prune_to(before, sparsity, batches, generator, scores)
        optimizer, scores = _carry_optimizer(optimizer, recipe, before, pruned), None
        if recipe.recalibrate:
            evaluation.recalibrate(pruned.model, data.images, calibrating, generator)
        end = tuning.sparse_steps + round(number * (tuning.steps - tuning.sparse_steps) / len(cuts))
        yield from _with_costs(tuning.until(end, pruned, optimizer), pruned, context, device)
    return pruned


def _with_costs(
    records: Iterable[Row], pruned: Pruned, context: TrialContext, device: torch.device
) -> Generator[Row, None, None]:
    """Adds to the history rows between two cuts the network's MACs, and to the first its latency, if it is measured."""
    macs = cost.macs(pruned.model, context.data.in_shape) if pruned.plan else context.baseline.card["macs"]
    latency = latency_columns(pruned, None, context, device).get("latency_ms")
    for record in records:
        record.update(macs=macs, latency_ms=latency)
        latency = None
        yield record


def _quantized(recipe: Recipe, seed: int, pruned: Pruned, context: TrialContext, data: DeviceData) -> bytes:
    """The network in 8 bits, calibrated on the recipe's calibration images, as they are."""
    rows = rows_of(calibration(context.data, recipe.calibration_samples, seed), data.images.device)
    batches = (inputs for inputs, _ in data.images.stream(rows.split(CALIBRATION_BATCH)))
    return int8.quantize(pruned.model, context.data.in_shape, batches)


def _carry_optimizer(
    optimizer: torch.optim.Optimizer, recipe: Recipe, before: Pruned, after: Pruned
) -> torch.optim.Optimizer:
    """The optimiser for the network after a cut; after surgery a new one with the old state carried over."""
    if after.last is None:
        return optimizer
    rebuilt = _optimizer(recipe, after.model)
    carry_state(optimizer, before.model, rebuilt, after.model, after.last)
    return rebuilt


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    return optimisers.OPTIMIZERS[recipe.optimizer](model.parameters(), recipe.finetune_lr, recipe.weight_decay)
