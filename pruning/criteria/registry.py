"""Criteria by name; the higher a score, the longer a weight or channel is kept.

A weight criterion is a function (model, batches, generator) -> Scores for `prunable(model)`. `batches` are pairs
(images (N, C, H, W), labels (N,)) of calibration data; `generator` is the only source of randomness. A criterion leaves
the model unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from pruning.calibration.hooks import Batches
from pruning.channels.graph import Graph
from pruning.channels.plans import Plan
from pruning.criteria import activations, consumers, gradients, layerwise, second_order
from pruning.criteria.magnitude import (
    bn_scale,
    bn_scale_channels,
    fpgm_channels,
    magnitude_l1,
    magnitude_l2,
    random,
    random_channels,
)
from pruning.weights.masks import Scores

# What a criterion computes on calibration data: nothing, forward passes, a backward pass per batch, or gradients of
# single images.
COMPUTE_COSTS = ("weights", "forward", "backward", "per-image")


class Criterion(NamedTuple):
    """A criterion's functions for weights and channels, and its description.

    Attributes:
      weight: (model, batches, generator) -> a score per weight; None: cannot score weights.
      channel: (graph, model, plan, batches, generator) -> a score per unit of every group, where `model` is what `plan`
        leaves of the network that `graph` describes. None: channel scores are reduced from weight scores by
        `pruning.channels.graph.group_scores`.
      of_weight: formula of a weight's score, for the documentation.
      of_channel: formula of a channel's score, for the documentation.
      source: publications.
      cost: one of COMPUTE_COSTS.
    """

    weight: Callable[[nn.Module, Batches, torch.Generator], Scores] | None = None
    channel: Callable[[Graph, nn.Module, Plan | None, Batches, torch.Generator], Scores] | None = None
    of_weight: str = ""
    of_channel: str = ""
    source: str = ""
    cost: str = ""


CRITERIA: dict[str, Criterion] = {
    "magnitude_l1": Criterion(
        magnitude_l1,
        of_weight="abs(w)",
        of_channel="L1 norm of the unit's filters, or its mean (`reduce`)",
        source="Han 2015, arXiv:1506.02626; Li 2017, arXiv:1608.08710",
        cost="weights",
    ),
    "magnitude_l2": Criterion(
        magnitude_l2,
        of_weight="w^2",
        of_channel="squared L2 norm of the unit's filters, or its mean (`reduce`)",
        source="Han 2015, arXiv:1506.02626; Li 2017, arXiv:1608.08710",
        cost="weights",
    ),
    "bn_scale": Criterion(
        bn_scale,
        bn_scale_channels,
        of_weight="abs(gamma / sigma * w), batch norm folded in",
        of_channel="abs(gamma), mean over the unit's batch norms",
        source="Liu 2017, arXiv:1708.06519",
        cost="weights",
    ),
    "gradient_norm": Criterion(
        gradients.gradient_norm,
        gradients.gradient_norm_channels,
        of_weight="abs(dL/dw), L the mean loss over all images",
        of_channel="L2 norm of dL/dw over the unit's filters",
        source="common practice",
        cost="backward",
    ),
    "saliency": Criterion(
        gradients.saliency,
        of_weight="abs(w * dL/dw)",
        of_channel="sum over the unit's filters, or its mean (`reduce`)",
        source="SNIP: Lee 2019, arXiv:1810.02340",
        cost="backward",
    ),
    "taylor": Criterion(
        gradients.taylor,
        gradients.taylor_channels,
        of_weight="(w * dL/dw)^2 per batch, mean over batches",
        of_channel="(sum of w * dL/dw over the filter, batch norm folded in)^2 per batch, mean over batches",
        source="Molchanov 2017, arXiv:1611.06440; 2019, arXiv:1906.10771",
        cost="backward",
    ),
    "fisher": Criterion(
        gradients.fisher,
        gradients.fisher_channels,
        of_weight="w^2 / 2 * mean over images of (dL/dw)^2",
        of_channel="mean over images of (sum of w * dL/dw over the filter, batch norm folded in)^2 / 2",
        source="LeCun 1990 (OBD); Theis 2018, arXiv:1801.05787",
        cost="per-image",
    ),
    "obs": Criterion(
        second_order.obs,
        of_weight="w^2 / (2 [F^-1]_ii), F the empirical Fisher in blocks of at most 128 weights of a filter",
        of_channel="sum over the unit's filters, or its mean (`reduce`)",
        source="Hassibi 1993; WoodFisher: Singh 2020, arXiv:2004.14340",
        cost="per-image",
    ),
    "activation": Criterion(
        activations.activation,
        activations.activation_channels,
        of_weight="rank of abs(w) * L2 norm of what w multiplies, among the weights of its filter",
        of_channel="mean abs(a), a the channel after its activation function",
        source="Wanda: Sun 2024, arXiv:2306.11695",
        cost="forward",
    ),
    "apoz": Criterion(
        activations.apoz,
        activations.apoz_channels,
        of_weight="abs(w) * share of non-zeros of what w multiplies",
        of_channel="1 - share of zeros after ReLU, mean over the unit's ReLUs",
        source="Hu 2016, arXiv:1607.03250",
        cost="forward",
    ),
    "regression": Criterion(
        layerwise.regression,
        consumers.regression_channels,
        of_weight="w^2 / [(X X^T)^-1]_jj, X the layer's input, relative to the energy of its output",
        of_channel="least-squares error of the next layers' outputs without it and all that the LASSO drops before",
        source="weights: OBS of a layer's output, Hassibi 1993; channels: He 2017, arXiv:1707.06168",
        cost="forward",
    ),
    "obc": Criterion(
        layerwise.obc,
        of_weight="w^2 / [(X X^T)^-1]_jj when its turn comes, the weights before it gone and the rest updated",
        of_channel="sum over the unit's filters, or its mean (`reduce`)",
        source="Optimal Brain Compression: Frantar 2022, arXiv:2208.11580",
        cost="forward",
    ),
    "thinet": Criterion(
        channel=consumers.thinet_channels,
        of_channel="energy that the next layers' outputs lose without it and all that are greedily removed before",
        source="ThiNet: Luo 2017, arXiv:1707.06342",
        cost="forward",
    ),
    "fpgm": Criterion(
        channel=fpgm_channels,
        of_channel="mean distance to the layer's filters (low: near their geometric median)",
        source="He 2019, arXiv:1811.00250",
        cost="weights",
    ),
    "random": Criterion(
        random, random_channels, of_weight="uniform", of_channel="uniform", source="control", cost="weights"
    ),
}
