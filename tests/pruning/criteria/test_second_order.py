"""Block-diagonal OBS: by hand, and against the inverse of a dense Fisher."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from pruning.calibration import grams
from pruning.criteria import gradients, second_order
from pruning.weights.masks import prunable
from tests.pruning.criteria.test_gradients import Shared, example, per_image

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def dense(model: Any, images: Any, labels: Any, name: Any, block: Any) -> Iterator[Any]:
    """For each filter and block: the weights and the damped Fisher, from vmap's gradients."""
    each = per_image(model, images, labels)[name].flatten(2)  # (N, filters, weights)
    weight = model.get_parameter(name).detach().flatten(1)
    count = -(-weight.shape[1] // block)
    edges = [round(i * weight.shape[1] / count) for i in range(count + 1)]
    for row in range(len(weight)):
        for left, right in zip(edges, edges[1:], strict=False):
            g = each[:, row, left:right].numpy()
            fisher = g.T @ g / len(g)
            mean = np.trace(fisher) / len(fisher)
            yield (
                row,
                slice(left, right),
                weight[row, left:right].numpy(),
                fisher + second_order.DAMPING * mean * np.eye(len(fisher)),
            )


@pytest.mark.parametrize(("count", "block"), [(7, 128), (40, 128), (40, 5)])
@pytest.mark.parametrize("held", [1, 2**28])
def test_scores_against_a_dense_inverse(count: Any, block: Any, held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer images than weights (Woodbury) and with more; layers one at a time, and all at once."""
    monkeypatch.setattr(second_order, "BLOCK", block)
    monkeypatch.setattr(second_order, "HELD", held)
    monkeypatch.setattr(second_order, "STACKED", 2000)
    monkeypatch.setattr(gradients, "CHUNK", 1000)
    model, images, labels = example(Shared(), count=count)
    scores = second_order.obs(model, [(images[:5], labels[:5]), (images[5:], labels[5:])], GENERATOR)
    assert list(scores) == list(prunable(model))
    for name, score in scores.items():
        for row, part, weight, fisher in dense(model, images, labels, name, block):
            expected = weight**2 / (2 * np.diag(np.linalg.inv(fisher))) if fisher.any() else 0 * weight
            np.testing.assert_allclose(score.flatten(1)[row, part], expected, rtol=1e-6)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One logit pair of x = (1, 1) and (1, -1), zero weights but one row: gradients (s - y) x, F diagonal."""
    monkeypatch.setattr(grams, "DAMPING", 1e-9)
    monkeypatch.setattr(second_order, "DAMPING", 1e-9)
    model = nn.Linear(2, 2, bias=False).double()
    model.weight.data = torch.zeros(2, 2).double()
    images = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    assert second_order.obs(model, [(images, torch.tensor([0, 0]))], GENERATOR)["weight"].tolist() == [[0, 0], [0, 0]]
    # Large equal logits keep the softmax at 1/2: every gradient is -+ x / 2, and F is I / 4.
    model.weight.data = torch.tensor([[3.0, 2.0], [3.0, 2.0]]).double()
    score = second_order.obs(model, [(images, torch.tensor([0, 0]))], GENERATOR)["weight"]
    assert score.flatten().tolist() == pytest.approx([9 / 8, 4 / 8, 9 / 8, 4 / 8])
    # Two equal inputs: either weight alone can be made up for, so it costs (next to) nothing.
    twins = [(torch.tensor([[1.0, 1.0]]).double(), torch.tensor([0]))]
    model.weight.data = torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double()
    assert second_order.obs(model, twins, GENERATOR)["weight"].max() < 1e-8


def test_with_uncorrelated_gradients_obs_is_fisher(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight per block: F is its diagonal, so obs is w^2 F_ii / 2, but for the damping."""
    monkeypatch.setattr(second_order, "BLOCK", 1)
    model, images, labels = example(models.build("resnet8", 3))
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    scores, diagonal = (f(model, batches, GENERATOR) for f in (second_order.obs, gradients.fisher))
    for name, score in scores.items():
        if score.numel() < 3000:
            torch.testing.assert_close(score, diagonal[name] * (1 + second_order.DAMPING))
