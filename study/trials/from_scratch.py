"""The control that asks whether pruning was worth it: a cut network's shape, trained from scratch.

With the baseline's whole budget, after Liu et al. 2019, arXiv:1810.05270 ("Scratch-E": as many epochs as the dense
network had).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch

import models
from pruning.channels.plans import Plan
from pruning.channels.surgery import apply_plan
from pruning.pipeline import Pruned, begin
from pruning.settings import CHANNEL, PruneSettings
from pruning.weights import masks
from study.baseline.making import train_epochs
from study.config import Recipe
from study.training import precision
from study.training.device_data import DeviceData
from study.training.epochs import Row
from study.trials.context import TrialContext


def train_from_scratch(
    plan: Plan, recipe: Recipe, seed: int, context: TrialContext, data: DeviceData, history: list[Row]
) -> Generator[Row, None, Pruned]:
    """Trains the network that `plan` leaves of the baseline's kind, with weights drawn by `seed`, as the baseline was.

    Weights are drawn for the dense network's shapes, and then cut. Yields a history row after every epoch, and appends
    it to `history`.
    """
    section, device = context.section, data.images.images.device
    torch.manual_seed(seed)
    settings = PruneSettings(granularity=CHANNEL, protect=recipe.protect)
    dense = begin(context.baseline.network(device), data.images.batch(data.validation[:1])[0], settings)
    fresh = models.build(section.model, len(context.data.class_names), context.data.in_shape)
    small = precision.placed(apply_plan(fresh, plan), device)
    pruned = replace(dense, model=small, plan=plan)
    sparsity = masks.sparsity(small, dense.dense_weights)
    for record in train_epochs(section, small, data, seed):
        history.append(record | {"progress": record["epoch"] / section.epochs, "sparsity": sparsity})
        yield history[-1]
    return pruned
