"""Per-layer distributions of scores and histograms of weights, for figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from pruning.calibration.hooks import Batches
from pruning.criteria import gradients
from pruning.weights.masks import layer_name, weight_name

Row = dict[str, Any]
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
SCORES = ["layer", "criterion", "weights", "norm", "mean", *(f"q{q:02d}" for q in QUANTILES)]
HISTOGRAM = ["layer", "low", "high", "dense", "pruned"]
BINS = 60


def layer_scores(model: nn.Module, batches: Batches) -> list[Row]:
    """Distributions of abs(dL/dw) and abs(w * dL/dw) per layer: a row each with L2 norm, mean and quantiles."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for criterion in (gradients.gradient_norm, gradients.saliency):
        for name, score in criterion(model, batches, generator).items():
            values = score.double().flatten().cpu().numpy()
            quantiles = np.percentile(values, QUANTILES).tolist()
            about = {"layer": layer_name(name), "criterion": criterion.__name__, "weights": len(values)}
            about |= {"norm": float(np.linalg.norm(values)), "mean": float(values.mean())}
            rows.append(about | {f"q{q:02d}": value for q, value in zip(QUANTILES, quantiles, strict=True)})
    return rows


def histograms(layers: list[str], dense: Mapping[str, np.ndarray], pruned: Mapping[str, np.ndarray]) -> list[Row]:
    """Histograms of each layer's weights in two networks, given as states; zeros of the second are left out.

    One row per bin (low, high, both counts): BINS bins of equal width from the lowest to the highest weight of both.
    """
    rows = []
    for layer in layers:
        before, after = (state[weight_name(layer)].ravel() for state in (dense, pruned))
        after = after[after != 0]
        both = np.concatenate([before, after])
        edges = np.linspace(both.min(), both.max(), BINS + 1)
        counts = zip(edges[:-1], edges[1:], *(np.histogram(w, edges)[0] for w in (before, after)), strict=True)
        rows += [
            dict(zip(HISTOGRAM, (layer, *map(float, (low, high)), int(a), int(b)), strict=True))
            for low, high, a, b in counts
        ]
    return rows
