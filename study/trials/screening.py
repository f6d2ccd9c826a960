"""Screening: candidate recipes are cut, recalibrated and evaluated without training, to choose one to train.

A cut network with recalibrated batch norm tells hopeless recipes from the others at a small part of a trial's price
(EagleEye: Li et al. 2020, arXiv:2007.02491). It does not tell the best: see docs/searching.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from pruning.pipeline import prune_to
from pruning.weights import masks
from study.config import Recipe
from study.data.splits import calibration, stratified
from study.training import evaluation
from study.training.device_data import DeviceData, place, rows_of
from study.training.epochs import Row
from study.trials.context import Ticket, TrialContext
from study.trials.rows import recipe_columns
from study.trials.scoring import baseline_scores, dense_network

_STREAM = (0, 5)  # a seed for all studies, and a stream apart from those of other draws


def screen(tickets: Sequence[Ticket], context: TrialContext, device: torch.device) -> list[Row]:
    """The rows of candidates, in state `screened`; `error` says why one cannot be cut."""
    data = place(context.data, device)
    labels = context.data.labels[context.data.validation]
    chosen = stratified(labels, min(context.screening, len(labels)), _STREAM)
    data = data._replace(validation=rows_of(context.data.validation[chosen], device))
    return [_screened(Recipe(**ticket.recipe), ticket.seed, context, data) for ticket in tickets]


def _screened(recipe: Recipe, seed: int, context: TrialContext, data: DeviceData) -> Row:
    started = time.perf_counter()
    row: Row = {**recipe_columns(recipe), "seed": seed, "state": "screened", "error": None}
    try:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        calibrating = rows_of(calibration(context.data, recipe.calibration_samples, seed), data.images.device)
        dense = dense_network(recipe, context, data)
        scores = baseline_scores(recipe, seed, context, data.images, dense)
        pruned = prune_to(dense, recipe.sparsity, data.images.batches(calibrating), generator, scores)
        evaluation.recalibrate(pruned.model, data.images, calibrating, generator)
        row["screened_accuracy"] = evaluation.evaluate(pruned.model, data.images, data.validation)
        row["sparsity"] = masks.sparsity(pruned.model, pruned.dense_weights)
    except (Exception, SystemExit) as error:  # of a recipe that cannot be cut, or a user's own criterion
        row["error"] = " ".join(f"{type(error).__name__}: {error}".split())
    return row | {"train_seconds": 0.0, "wall_seconds": time.perf_counter() - started}
