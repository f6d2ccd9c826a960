"""The control that asks whether pruning was worth it: a cut network's shape, trained anew with the baseline's budget.

After Liu et al. 2019, arXiv:1810.05270 ("Scratch-E": as many epochs as the dense network had).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import torch

import models
from pruning import masks
from pruning.cutting import Pruned, begin
from pruning.plans import Plan
from pruning.surgery import apply_plan
from study import baseline as baselines
from study import training
from study.baseline import Baseline
from study.config import BaselineSection, Recipe
from study.data import Data

Record = dict[str, Any]


def trained_anew(
    plan: Plan,
    recipe: Recipe,
    seed: int,
    baseline: Baseline,
    data: Data,
    section: BaselineSection,
    images: training.Images,
    history: list[Record],
) -> Generator[Record, None, Pruned]:
    """The network that `plan` leaves of the baseline's kind, with weights drawn by `seed`, trained as the baseline was.

    Yields a history row after every epoch. Weights are drawn for the dense network's shapes, and then cut.
    """
    device = images.images.device
    torch.manual_seed(seed)
    train, validation = (training.rows_of(rows, device) for rows in (data.train, data.validation))
    dense = begin(baseline.network(device), images.batch(validation[:1])[0], "channel", recipe.protect)
    fresh = models.build(section.model, len(data.class_names), data.in_shape)
    small = training.placed(apply_plan(fresh, plan), device)
    pruned = replace(dense, model=small, plan=plan)
    sparsity = masks.sparsity(small, dense.dense_weights)
    for record in baselines.epochs(section, small, images, train, validation, seed):
        history.append(record | {"progress": record["epoch"] / section.epochs, "sparsity": sparsity})
        yield history[-1]
    return pruned
