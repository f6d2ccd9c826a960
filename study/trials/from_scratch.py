"""The `scratch` control: train a cut network's architecture from random weights, to compare with pruning.

It gets as many epochs as the dense network ("Scratch-E" of Liu et al. 2019, arXiv:1810.05270).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import torch

import models
from pruning.channels.plans import Plan
from pruning.channels.surgery import apply_plan
from pruning.measure import cost
from pruning.pipeline import Pruned, begin
from pruning.settings import CHANNEL, PruneSettings
from pruning.weights import masks
from study.baseline.training import train_epochs
from study.config import Recipe
from study.training import precision
from study.training.device_data import DeviceData
from study.training.epochs import Row
from study.trials.context import TrialContext


def train_from_scratch(
    plan: Plan, recipe: Recipe, seed: int, context: TrialContext, data: DeviceData, history: list[Row]
) -> Generator[Row, None, Pruned]:
    """Train the architecture that `plan` cuts, from random weights and with the baseline's training settings.

    Weights are initialised in the dense shapes, then cut. Yields a history row after every epoch.

    Args:
      plan: the channels to cut.
      recipe: only `protect` is used.
      seed: of initialisation, shuffling and augmentation.
      context: the study's baseline and data.
      data: the data set on its device.
      history: history rows are appended to this list.

    Returns:
      The trained network.
    """
    section, device = context.section, data.images.device
    torch.manual_seed(seed)
    settings = PruneSettings(granularity=CHANNEL, protect=recipe.protect)
    dense = begin(context.baseline.network(device), data.images.batch(data.validation[:1])[0], settings)
    fresh = models.build(section.model, len(context.data.class_names), context.data.in_shape)
    small = precision.placed(apply_plan(fresh, plan), device)
    pruned = replace(dense, model=small, plan=plan)
    sparsity = masks.sparsity(small, dense.dense_weights)
    macs = cost.macs(small, context.data.in_shape)
    for record in train_epochs(section, small, data, seed):
        history.append(record | {"progress": record["epoch"] / section.epochs, "sparsity": sparsity, "macs": macs})
        yield history[-1]
    return pruned
