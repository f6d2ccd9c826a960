"""Distributions of scores and weights, layer by layer."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pruning.measure.distributions import BINS, histograms, layer_scores


def test_scores_are_those_of_the_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 10))
    inputs, labels = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    F.cross_entropy(model(inputs), labels).backward()
    gradients = {"0": model[0].weight.grad.clone(), "3": model[3].weight.grad.clone()}
    model.zero_grad()
    rows = {(row["layer"], row["criterion"]): row for row in layer_scores(model, [(inputs, labels)])}
    assert len(rows) == 4
    for layer, gradient in gradients.items():
        row = rows[layer, "gradient_norm"]
        assert row["weights"] == gradient.numel()
        np.testing.assert_allclose(row["norm"], gradient.norm().item(), rtol=1e-4)
        np.testing.assert_allclose(row["q50"], gradient.abs().quantile(0.5).item(), rtol=1e-3)
        np.testing.assert_allclose(row["q100"], gradient.abs().max().item(), rtol=1e-4)
    saliency = (model[0].weight.detach() * gradients["0"]).abs()
    np.testing.assert_allclose(rows["0", "saliency"]["mean"], saliency.mean().item(), rtol=1e-4)


def test_histograms_count_every_weight_once_and_no_zeros_of_the_pruned() -> None:
    generator = np.random.default_rng(0)
    dense = {"a.weight": generator.normal(size=(4, 25)).astype("float32"), "a.bias": np.ones(4)}
    pruned = {"a.weight": np.where(np.abs(dense["a.weight"]) > 0.5, 1.5 * dense["a.weight"], 0), "a.bias": np.ones(4)}
    rows = histograms(["a"], dense, pruned)
    assert len(rows) == BINS
    assert sum(row["dense"] for row in rows) == 100
    assert sum(row["pruned"] for row in rows) == np.count_nonzero(pruned["a.weight"])
    middle = [row for row in rows if row["low"] > -0.5 and row["high"] < 0.5]
    assert middle
    assert all(row["pruned"] == 0 for row in middle)
    assert all(a["high"] == b["low"] for a, b in zip(rows, rows[1:], strict=False))


def test_a_layer_of_equal_weights_or_of_zeros_has_a_histogram() -> None:
    rows = histograms(["a"], {"a.weight": np.zeros((2, 2))}, {"a.weight": np.zeros((2, 2))})
    assert sum(row["dense"] for row in rows) == 4
    assert sum(row["pruned"] for row in rows) == 0
