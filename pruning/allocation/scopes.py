"""Scopes by name: over what scores are ranked, or how a target is distributed over the layers.

To add one, write a function for weights, optionally one for channels, and name both in SCOPES.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pruning.allocation import channel_scopes, weight_scopes
from pruning.allocation.sensitivity import Curves
from pruning.allocation.weight_scopes import Counts, Facts
from pruning.channels.graph import Graph
from pruning.weights.masks import Scores


class Scope(NamedTuple):
    """A scope's functions for weights and channels, and its description.

    Attributes:
      weights: (scores, keep, floor, facts) -> the number of weights that each layer keeps.
      channels: (graph, scores, sparsity_of, curves) -> the rank of every unit, lowest removed first; None: no such
        form.
      meaning: for the documentation.
      source: publication.
    """

    weights: Callable[[Scores, int, int, Facts], Counts]
    channels: Callable[[Graph, np.ndarray, str, Curves | None], np.ndarray] | None
    meaning: str
    source: str = ""


SCOPES: dict[str, Scope] = {
    "global": Scope(
        weight_scopes.global_counts,
        channel_scopes.global_ranks,
        "the lowest scores of the whole network are removed",
    ),
    "knapsack": Scope(
        weight_scopes.global_counts,
        channel_scopes.knapsack_ranks,
        "the lowest scores per cost, of what `sparsity_of` counts, are removed; single weights as `global`",
        "Aflalo 2020, arXiv:2002.08258",
    ),
    "layer": Scope(
        weight_scopes.layer_counts,
        channel_scopes.layer_ranks,
        "every layer loses the same share",
    ),
    "both": Scope(
        weight_scopes.both_counts,
        channel_scopes.both_ranks,
        "by the higher of two ranks, in the whole network and in the layer: what is low in both is removed first",
    ),
    "erk": Scope(
        weight_scopes.erk_counts,
        channel_scopes.erk_ranks,
        "a layer's density is proportional to (inputs + outputs + kernel sizes) / weights, at most 1",
        "Evci 2020, arXiv:1911.11134",
    ),
    "lamp": Scope(
        weight_scopes.lamp_counts,
        channel_scopes.lamp_ranks,
        "each score is divided by the sum of its layer's scores that are not lower; then as `global`",
        "Lee 2021, arXiv:2010.07611",
    ),
    "uniform_plus": Scope(
        weight_scopes.uniform_plus_counts,
        channel_scopes.uniform_plus_ranks,
        "as `layer`, but the first layer is not cut and the classifier loses at most 80 %",
        "Gale 2019, arXiv:1902.09574",
    ),
    "sensitivity": Scope(
        weight_scopes.sensitivity_counts,
        channel_scopes.sensitivity_ranks,
        "minimises the sum of accuracy drops, measured by a scan that cuts each layer alone",
        "Shoham & Gersho 1988",
    ),
}
