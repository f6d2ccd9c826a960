"""Updates of the weights that stay, against numpy's least squares on the inputs themselves, and by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
import pruning.calibration.least_squares as least_squares_module
from pruning.calibration import grams
from pruning.calibration.grams import damped
from pruning.calibration.least_squares import RECONSTRUCTIONS, layer, least_squares, sequential
from pruning.weights.masks import prunable
from tests.layer_inputs import generator, layer_and_columns, refitted, with_damping
from tests.networks import trained_like


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("structured", [True, False])
def test_the_update_is_numpys_least_squares(structured: Any) -> None:
    conv, batches, x = layer_and_columns()
    mask = torch.rand(1 if structured else 4, 27, generator=generator()) < 0.5
    mask = mask.expand(4, 27).clone()
    mask[2] = False  # a filter that goes whole
    moved = layer(conv, {"weight": mask.reshape(conv.weight.shape)}, batches, generator())["weight"]
    assert moved.shape == conv.weight.shape
    for row, weight in enumerate(conv.weight.detach().flatten(1).numpy()):
        expected, _ = refitted(with_damping(x), weight, mask[row].numpy())
        np.testing.assert_allclose(moved.flatten(1)[row], expected, atol=1e-7)


def test_grouped_layers_are_reconstructed_group_by_group() -> None:
    torch.manual_seed(2)
    conv = nn.Conv2d(4, 4, 1, groups=2).double()
    x = torch.randn(30, 4, 2, 2, dtype=torch.float64)
    mask = torch.tensor([[True, False], [False, True], [True, True], [True, False]]).reshape(4, 2, 1, 1)
    moved = layer(conv, {"weight": mask}, [(x, x)], generator())["weight"].flatten(1)
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
        monkeypatch.setattr(least_squares_module, "ITERATIONS", steps)
        after = errors(least_squares(weight, gram, mask))
        assert (after < before).all()
        before = after


@pytest.mark.parametrize("function", [layer])
def test_what_loses_nothing_or_all_is_left(function: Any) -> None:
    model = trained_like(models.build("resnet8", 3))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    masks["conv1.weight"][::2] = False
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for name, tensor in function(model, masks, [(images, torch.arange(3))], generator()).items():
        assert torch.equal(tensor, model.get_parameter(name) * masks[name])


def test_a_network_of_which_nothing_goes_is_not_even_run() -> None:
    model = trained_like(models.build("resnet8", 3))
    masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in prunable(model).items()}
    for name, tensor in sequential(model, masks, [], generator()).items():
        assert torch.equal(tensor, model.get_parameter(name))


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs (1, 1, 0) and (0, 0, 2): the second copies the first, and the third is alone. Outputs 5 and 10."""
    monkeypatch.setattr(grams, "DAMPING", 1e-12)
    linear = nn.Linear(3, 1, bias=False).double()
    linear.weight.data = torch.tensor([[3.0, 2.0, 5.0]]).double()
    batches = [(torch.tensor([[1.0, 1, 0], [0, 0, 2]]).double(), torch.zeros(2))]
    mask = {"weight": torch.tensor([[True, False, True]])}
    for function in (layer, sequential):
        assert function(linear, mask, batches, generator())["weight"].tolist() == [[pytest.approx(5), 0, 5]]


def two_layers() -> Any:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    images = torch.randn(200, 6, dtype=torch.float64)
    masks = {"0.weight": torch.rand(5, 6) < 0.6, "2.weight": torch.rand(3, 5) < 0.6}
    masks["0.weight"][1] = False
    return model, masks, [(images[:120], images[:120]), (images[120:], images[120:])], images


def test_sequential_is_numpys_least_squares_on_what_the_updated_layers_before_give() -> None:
    model, masks, batches, images = two_layers()
    moved = sequential(model, masks, batches, generator())
    x, (first, second) = images.numpy().T, (model[0].weight.detach().numpy(), model[2].weight.detach().numpy())
    for row in range(5):
        expected, _ = refitted(with_damping(x), first[row], masks["0.weight"][row].numpy())
        np.testing.assert_allclose(moved["0.weight"][row], expected, atol=1e-8)
    bias = model[0].bias.detach().numpy()[:, None]
    dense, now = (np.maximum(w @ x + bias, 0) for w in (first, moved["0.weight"].numpy()))
    ridge = np.sqrt(0.01 * np.square(now).sum() / 5) * np.eye(5)
    for row, mask in enumerate(masks["2.weight"].numpy()):
        target = np.concatenate([second[row] @ dense, second[row] @ ridge])  # damping draws to the weights as they were
        expected = np.linalg.lstsq(np.hstack([now, ridge])[mask].T, target, rcond=None)[0]
        np.testing.assert_allclose(moved["2.weight"][row, mask], expected, atol=1e-8)
    assert not any(weight[~masks[name]].any() for name, weight in moved.items())


def test_the_network_is_left_as_it_was() -> None:
    model, masks, batches, _ = two_layers()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for function in (layer, sequential):
        function(model, masks, batches, generator())
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_each_comes_closer_to_the_dense_outputs_than_the_one_before(sparsity: float) -> None:
    model = trained_like(models.build("resnet8", 3)).eval()
    images = torch.randn(64, 3, 8, 8, dtype=torch.float64)
    masks = {name: torch.rand(weight.shape) >= sparsity for name, weight in prunable(model).items()}
    wanted, errors = model(images), []
    for function in RECONSTRUCTIONS.values():
        small = trained_like(models.build("resnet8", 3)).eval()
        small.load_state_dict(model.state_dict())
        moved = function(model, masks, [(images, images)], generator()) if function else {}
        for name, weight in prunable(small).items():
            weight.data = moved.get(name, weight.data * masks[name])
        errors.append(float((small(images) - wanted).square().mean().detach()))
    none, alone, in_turn = errors
    assert in_turn < 0.7 * alone
    assert alone < 0.7 * none


class Twice(nn.Module):
    """A layer that is called twice, and attention, whose weights no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up = nn.ConvTranspose1d(4, 2, 2)

    def forward(self, x: Any) -> Any:
        x = self.shared(self.shared(x).relu())
        x, _ = self.attention(x, x, x)
        return self.up(x.transpose(1, 2))


@pytest.mark.parametrize("function", [layer, sequential])
def test_what_cannot_be_restored_is_only_masked(function: Any) -> None:
    model = Twice().double()
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(model).items()}
    assert len(masks) == 4
    images = torch.randn(30, 5, 4, dtype=torch.float64)
    moved = function(model, masks, [(images, images)], generator())
    assert list(moved) == list(masks)
    for name, weight in moved.items():
        as_masked = torch.equal(weight, model.get_parameter(name) * masks[name])
        assert as_masked == (name != "shared.weight")


class ChangesInPlace(nn.Module):
    """The input of `second` is changed after its call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        y = self.second(x)
        return self.third(x.relu_()) + y


def test_inputs_are_held_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ChangesInPlace().double().eval()
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(model).items()}
    batches = [(torch.randn(40, 6, dtype=torch.float64), torch.zeros(40))]
    several = sequential(model, masks, batches, generator())
    monkeypatch.setattr(least_squares_module, "AHEAD", 1)
    for name, weight in sequential(model, masks, batches, generator()).items():
        assert torch.equal(weight, several[name])


def test_how_many_inputs_are_held_at_once_does_not_matter_and_of_too_many_images_the_first_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = trained_like(models.build("resnet8", 3))
    masks = {name: torch.rand(weight.shape) < 0.5 for name, weight in prunable(model).items()}
    images = torch.randn(20, 3, 8, 8, dtype=torch.float64)
    batches = [(part, torch.zeros(len(part))) for part in images.split(8)]
    expected = sequential(model, masks, batches, generator())
    monkeypatch.setattr(least_squares_module, "AHEAD", 1)
    for name, weight in sequential(model, masks, batches, generator()).items():
        torch.testing.assert_close(weight, expected[name])
    monkeypatch.setattr(least_squares_module, "HELD", 12 * 3 * 8 * 8)
    first = sequential(model, masks, [batches[0], (images[8:12], torch.zeros(4))], generator())
    for name, weight in sequential(model, masks, batches, generator()).items():
        assert torch.equal(weight, first[name])
        assert not torch.equal(weight, expected[name])
