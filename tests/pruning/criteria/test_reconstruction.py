"""Reconstruction of layers against numpy's least squares on the inputs themselves, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models
from pruning.allocation.weight_budget import weight_masks
from pruning.criteria import activations, reconstruction
from pruning.criteria.reconstruction import (
    damped,
    least_squares,
    regression,
    regression_reconstruct,
    thinet_reconstruct,
)
from pruning.weights.masks import prunable
from tests.networks import trained_like


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def generator() -> Any:
    return torch.Generator().manual_seed(0)


def layer_and_columns() -> Any:
    """A convolution, its batches, and its input unfolded by torch: (columns, images and positions)."""
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    x = torch.randn(20, 3, 7, 7, dtype=torch.float64).relu()  # 16 positions: all are drawn
    unfolded = F.unfold(x, 3, padding=1, stride=2).transpose(0, 1).flatten(1)
    return conv, [(x[:8], x[:8]), (x[8:], x[8:])], unfolded.numpy()


def with_damping(x: Any) -> Any:
    """X with extra columns for the damping: least squares on these equals damped least squares on X."""
    return np.hstack([x, np.sqrt(0.01 * np.trace(x @ x.T) / len(x)) * np.eye(len(x))])


def refitted(x: Any, w: Any, kept: Any) -> Any:
    """Least squares by numpy for the target w @ x from the rows `kept` of x only, and the squared error."""
    new = np.zeros_like(w)
    new[kept] = np.linalg.lstsq(x[kept].T, w @ x, rcond=None)[0]
    return new, np.square((w - new) @ x).sum()


def test_grams_are_products_of_the_unfolded_input() -> None:
    conv, batches, x = layer_and_columns()
    (_, gram), *_ = reconstruction.grams(conv, ["weight"], batches, generator()).values()
    np.testing.assert_allclose(gram[0], x @ x.T)


def test_drawn_positions_estimate_the_sum_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, batches, x = layer_and_columns()
    monkeypatch.setattr(reconstruction, "POSITIONS", 4)
    rng = generator()
    found = [reconstruction.grams(conv, ["weight"], batches, rng)["weight"][1][0] for _ in range(400)]
    mean = torch.stack(found).mean(0).numpy()
    np.testing.assert_allclose(mean, x @ x.T, rtol=0.2)
    assert not torch.equal(found[0], found[1])


def test_scores_are_the_errors_that_numpys_least_squares_leaves() -> None:
    conv, batches, x = layer_and_columns()
    score, x = regression(conv, batches, generator())["weight"].flatten(1), with_damping(x)
    energy = np.square(conv.weight.detach().flatten(1).numpy() @ x).sum()
    for row, weight in enumerate(conv.weight.detach().flatten(1).numpy()):
        for gone in (0, 5, 26):
            _, error = refitted(x, weight, np.arange(27) != gone)
            assert score[row, gone].item() == pytest.approx(error / energy)


@pytest.mark.parametrize("structured", [True, False])
def test_the_update_is_numpys_least_squares(structured: Any) -> None:
    conv, batches, x = layer_and_columns()
    mask = torch.rand(1 if structured else 4, 27, generator=generator()) < 0.5
    mask = mask.expand(4, 27).clone()
    mask[2] = False  # a filter that goes whole
    moved = regression_reconstruct(conv, {"weight": mask.reshape(conv.weight.shape)}, batches, generator())["weight"]
    assert moved.shape == conv.weight.shape
    for row, weight in enumerate(conv.weight.detach().flatten(1).numpy()):
        expected, _ = refitted(with_damping(x), weight, mask[row].numpy())
        np.testing.assert_allclose(moved.flatten(1)[row], expected, atol=1e-7)


def test_grouped_layers_are_reconstructed_group_by_group() -> None:
    torch.manual_seed(2)
    conv = nn.Conv2d(4, 4, 1, groups=2).double()
    x = torch.randn(30, 4, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[True, False], [False, True], [True, True], [True, False]]).reshape(4, 2, 1, 1)
    moved = regression_reconstruct(conv, {"weight": mask}, [(x, x)], generator())["weight"].flatten(1)
    for row in range(4):
        inputs = x.transpose(0, 1).flatten(1)[2 * (row // 2) : 2 * (row // 2) + 2].numpy()
        expected, _ = refitted(with_damping(inputs), conv.weight.detach().flatten(1)[row].numpy(), mask[row].flatten())
        np.testing.assert_allclose(moved[row], expected, atol=1e-9)


def test_an_unfinished_search_still_lessens_every_filters_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = generator()
    x = torch.randn(40, 60, generator=rng, dtype=torch.float64)
    x = torch.cat([x, x[:20] + 0.1 * torch.randn(20, 60, generator=rng, dtype=torch.float64)])
    gram, weight = damped(x @ x.T), torch.randn(5, 60, generator=rng, dtype=torch.float64)
    mask = torch.rand(5, 60, generator=rng) < 0.5

    def errors(new: Any) -> Any:
        return ((weight - new) @ gram * (weight - new)).sum(1)

    before = errors(weight * mask)
    for steps in (1, 3, 10, 60):
        monkeypatch.setattr(reconstruction, "ITERATIONS", steps)
        after = errors(least_squares(weight, gram, mask))
        assert (after < before).all()
        before = after


def test_diagonal_of_the_gram_is_wandas_norm() -> None:
    model = trained_like(models.build("resnet8", 3))
    images = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    batches = [(images, torch.tensor([0, 1, 2]))]
    wanda = activations.activation(model, batches, generator())
    for name, (layer, gram) in reconstruction.grams(model, list(wanda), batches, generator()).items():
        norms = gram.diagonal(dim1=1, dim2=2)[0].sqrt() * layer.weight.detach().abs().flatten(1)
        torch.testing.assert_close(norms, wanda[name].flatten(1))


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs (1, 1, 0) and (0, 0, 2): the second copies the first, and the third is alone. Outputs 5 and 10."""
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-12)
    layer = nn.Linear(3, 1, bias=False).double()
    layer.weight.data = torch.tensor([[3.0, 2.0, 5.0]]).double()
    batches = [(torch.tensor([[1.0, 1, 0], [0, 0, 2]]).double(), torch.zeros(2))]
    score = regression(layer, batches, generator())["weight"]
    assert score.tolist() == [[pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6), pytest.approx(100 / 125)]]
    mask = {"weight": torch.tensor([[True, False, True]])}
    assert regression_reconstruct(layer, mask, batches, generator())["weight"].tolist() == [[pytest.approx(5), 0, 5]]
    assert thinet_reconstruct(layer, mask, batches, generator())["weight"].tolist() == [[pytest.approx(5), 0, 5]]


def test_thinets_factors_are_numpys_least_squares() -> None:
    conv, batches, x = layer_and_columns()
    weight = conv.weight.detach()
    mask = torch.ones_like(weight, dtype=torch.bool)
    mask[:, 1] = False
    mask[3] = False  # a filter that goes as well has no say
    moved = thinet_reconstruct(conv, {"weight": mask}, batches, generator())["weight"]
    # What each channel contributes to the outputs that stay, all of it in one long vector.
    parts = np.stack([(weight[:3, c].flatten(1).numpy() @ x[9 * c : 9 * c + 9]).ravel() for c in range(3)])
    ridge = np.sqrt(0.01 * np.square(parts).sum() / 3) * np.eye(3)
    parts = np.hstack([parts, ridge])
    factors = np.linalg.lstsq(parts[[0, 2]].T, parts.sum(0), rcond=None)[0]
    np.testing.assert_allclose(moved[:3, 0], factors[0] * weight[:3, 0])
    np.testing.assert_allclose(moved[:3, 2], factors[1] * weight[:3, 2])
    assert not moved[:, 1].any()
    assert not moved[3].any()


@pytest.mark.parametrize("function", [regression_reconstruct, thinet_reconstruct])
def test_what_loses_nothing_or_all_is_left(function: Any) -> None:
    model = trained_like(models.build("resnet8", 3))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["conv1.weight"][::2] = False
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for name, tensor in function(model, masks, [(images, torch.arange(3))], generator()).items():
        assert torch.equal(tensor, model.get_parameter(name) * masks[name])


def test_masks_of_its_own_scores_lose_less_with_the_update() -> None:
    conv, batches, x = layer_and_columns()
    masks = weight_masks(regression(conv, batches, generator()), 0.5, "global")
    moved = regression_reconstruct(conv, masks, batches, generator())["weight"].flatten(1).numpy()
    weight, mask = conv.weight.detach().flatten(1).numpy(), masks["weight"].flatten(1).numpy()
    assert np.square((weight - moved) @ x).sum() < 0.9 * np.square((weight - weight * mask) @ x).sum()
