"""Shared parts of criteria: unfolded columns against the layer itself, and restored modes."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.calibration.hooks import as_matrices, columns, evaluating, rows


@given(
    dims=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    mode=st.sampled_from(["zeros", "reflect", "circular"]),
)
@settings(max_examples=40, deadline=None)
def test_weights_times_columns_are_a_convolution(
    dims: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: Any, mode: Any
) -> None:
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](
        4, 6, kernel, stride, padding, dilation, groups, bias=False, padding_mode=mode
    ).double()
    x = torch.randn(2, 4, *(6, 5, 7)[:dims], dtype=torch.float64)
    with torch.no_grad():
        y = layer(x)
        product = as_matrices(layer, layer.weight) @ columns(layer, x)
    torch.testing.assert_close(product, rows(layer, y))
    torch.testing.assert_close(product.reshape(y.shape), y)
    some = torch.tensor([product.shape[3] - 1, 0])
    assert torch.equal(columns(layer, x, some), columns(layer, x)[..., some])


@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 4)])
def test_weights_times_columns_are_a_linear_layer(shape: Any) -> None:
    layer, x = nn.Linear(4, 6, bias=False), torch.randn(shape)
    product = as_matrices(layer, layer.weight) @ columns(layer, x)
    torch.testing.assert_close(product, rows(layer, layer(x)))
    torch.testing.assert_close(product[:, 0, :, 0], layer(x).reshape(3, -1, 6)[:, 0])
    assert torch.equal(columns(layer, x, torch.tensor([0])), columns(layer, x)[..., :1])


def test_no_batch_no_columns() -> None:
    with pytest.raises(ValueError, match="only batches"):
        columns(nn.Conv2d(3, 4, 3), torch.randn(3, 8, 8))


def test_every_module_gets_its_own_mode_back_even_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.ReLU())
    model[1].eval()

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [module.training for module in model.modules()] == [True, True, False, True]
