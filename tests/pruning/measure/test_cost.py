"""Cost: the worked example of the accounting, closed forms per layer, and published numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pruning.allocation.weight_budget import weight_masks
from pruning.measure.cost import (
    layer_costs,
    macs,
    nonzero_macs,
    nonzero_parameters,
    parameters,
    size_bytes,
    sparse_size_bytes,
)
from pruning.weights.masks import apply_masks, prunable, sparsity

IMAGE = (3, 8, 8)


def worked_example(filters: int = 4) -> nn.Sequential:
    """Conv(3 -> 4, 3x3, no bias), BN, ReLU, global pool, Linear(4 -> 2)."""
    conv = nn.Conv2d(3, filters, 3, padding=1, bias=False)
    head = [nn.BatchNorm2d(filters), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, 2)]
    return nn.Sequential(conv, *head)


def test_the_worked_example() -> None:
    model = worked_example()
    assert sum(weight.numel() for weight in prunable(model).values()) == 116
    assert (parameters(model), nonzero_parameters(model), macs(model, IMAGE)) == (126, 126, 6920)


def test_the_worked_example_with_29_weights_masked() -> None:
    model = worked_example()
    scores = {name: weight.detach().abs() for name, weight in prunable(model).items()}
    apply_masks(model, weight_masks(scores, 0.25, "global"))
    assert sparsity(model) == 0.25
    assert (parameters(model), nonzero_parameters(model), macs(model, IMAGE)) == (126, 97, 6920)


def test_the_worked_example_with_one_filter_cut() -> None:
    cut = worked_example(filters=3)
    assert sparsity(cut, dense_total=116) == 0.25
    assert (parameters(cut), macs(cut, IMAGE)) == (95, 5190)


def test_nonzero_macs_of_the_worked_example_by_hand() -> None:
    model = worked_example()  # every conv weight is used 64 times, every linear weight once
    model[0].weight.data[1] = 0  # 27 weights
    model[5].weight.data[:, 1] = 0  # 2 weights
    assert nonzero_macs(model, IMAGE) == 6920 - 27 * 64 - 2
    rows = [
        (row["layer"], row["nonzero_weights"], row["macs"], row["nonzero_macs"]) for row in layer_costs(model, IMAGE)
    ]
    assert rows == [("0", 81, 6912, 5184), ("5", 6, 8, 6)]


@settings(deadline=None, max_examples=25)
@given(
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    size=st.integers(5, 9),
    bias=st.booleans(),
    transposed=st.booleans(),
)
def test_a_convolution_costs_its_closed_form(
    groups: Any, per_group: Any, kernel: Any, stride: Any, size: Any, bias: Any, transposed: Any
) -> None:
    c_in, c_out = groups * per_group[0], groups * per_group[1]
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = kind(c_in, c_out, kernel, stride=stride, groups=groups, bias=bias)
    positions = size**2 if transposed else ((size - kernel) // stride + 1) ** 2
    weights = c_in * c_out // groups * kernel**2
    assert layer_costs(model, (c_in, size, size)) == [
        {
            "layer": "",
            "type": kind.__name__,
            "in_channels": c_in,
            "out_channels": c_out,
            "params": weights + bias * c_out,
            "weights": weights,
            "nonzero_weights": weights,
            "macs": positions * weights,
            "nonzero_macs": positions * weights,
        }
    ]
    assert macs(model, (c_in, size, size)) == positions * weights


def test_a_linear_layer_costs_its_weights_times_its_positions() -> None:
    assert macs(nn.Linear(7, 5), (7,)) == 35
    assert macs(nn.Linear(7, 5, bias=False), (3, 7)) == 105


def test_resnet18_as_published() -> None:
    model = torchvision.models.resnet18()
    total = macs(model, (3, 224, 224))
    assert total == 1_814_073_344  # torchvision publishes it as 1.814 GFLOPS
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta
    assert total / 1e9 == pytest.approx(published["_ops"], abs=5e-4)
    assert parameters(model) == published["num_params"]
    rows = layer_costs(model, (3, 224, 224))
    assert len(rows) == 21
    assert sum(row["macs"] for row in rows) == total
    assert rows[0]["macs"] == 112 * 112 * 64 * 3 * 49
    assert [row["layer"] for row in rows if row["type"] == "Linear"] == ["fc"]
    assert sum(row["params"] for row in rows) < parameters(model)  # batch norms have no row


class Twice(nn.Module):
    """A layer called twice under two names, another that shares a weight, and a product outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False)
        self.same = self.a
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.a.weight
        self.unused = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.tied(self.same(self.a(x))))
        return F.linear(x, torch.ones(6, 4))


def test_shared_layers_and_products_that_no_layer_owns() -> None:
    model = Twice()
    model.a.weight.data[0] = 0
    assert parameters(model) == 16 + 16 + 4
    assert nonzero_parameters(model) == 32
    assert [(row["layer"], row["macs"]) for row in layer_costs(model, (4,))] == [
        ("a", 32),
        ("tied", 16),
        ("unused", 0),
    ]
    assert macs(model, (4,)) == 3 * 16 + 24
    assert nonzero_macs(model, (4,)) == 3 * 12 + 24


def test_counting_leaves_the_model_as_it_was() -> None:
    model = worked_example().double()
    model.train()
    model[2].eval()
    seen = []
    model[1].register_forward_hook(lambda *_: seen.append((model[1].training, torch.is_grad_enabled())))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    random_state = torch.get_rng_state()
    assert nonzero_macs(model, IMAGE) == macs(model, IMAGE) == 6920
    assert modes == [module.training for module in model.modules()]
    assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(random_state, torch.get_rng_state())
    assert seen == [(False, False)] * 2


def test_an_input_that_does_not_fit_leaves_the_model_as_it_was_too() -> None:
    model = worked_example().train()
    with pytest.raises(RuntimeError, match="channels"):
        macs(model, (5, 8, 8))
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()
    assert macs(model, IMAGE) == 6920


def test_size_is_that_of_the_saved_file(tmp_path: Path) -> None:
    model = worked_example()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    # The archive pads each tensor by its name's length, and an unnamed stream has another name than a file.
    assert abs(size_bytes(model) - (tmp_path / "model.pt").stat().st_size) < 200
    large = nn.Linear(1000, 1000)
    assert 4e6 < size_bytes(large) < 4.02e6
    assert size_bytes(large.bfloat16()) < 2.02e6


def test_sparse_size_is_a_bitmap_and_the_values_left_or_the_dense_tensor() -> None:
    model = nn.Linear(10, 10)  # 100 weights and 10 biases of 4 bytes
    assert sparse_size_bytes(model) == 440  # 13 + 400 would be more
    with torch.no_grad():
        model.weight.view(-1)[:90] = 0
    assert sparse_size_bytes(model) == 13 + 40 + 40


def test_size_is_that_of_a_file_made_on_the_cpu_whatever_the_device(device: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    assert size_bytes(model) == size_bytes(model.to(device))
