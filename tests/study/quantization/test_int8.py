"""A network in 8 bits, beside what its scales, weights and answers have to be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from models.formats import open_onnx
from study.quantization import int8, runtime
from study.training import device_data

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)
    model = nn.Sequential(*layers)
    model.train()(2 * torch.randn(64, *SHAPE) + 1)  # so that the norm's statistics are not those of a new one
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(96, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def content(network: nn.Module, images: torch.Tensor) -> bytes:
    return int8.quantize(network, SHAPE, images.split(32))


def test_weights_are_int8_by_channel_with_the_norm_folded_in(network: Any, content: bytes) -> None:
    graph = onnx.load_model_from_string(content).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (name,) = [name for name, array in arrays.items() if array.shape == (4, 3, 3, 3)]
    (node,) = [node for node in graph.node if name in node.input]
    assert node.op_type == "DequantizeLinear"
    weight, scale, zero = (arrays[part] for part in node.input)
    assert weight.dtype == np.dtype(np.int8)
    assert scale.shape == (4,)
    assert not zero.any()
    conv, norm = network[0], network[1]
    gain = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    folded = (conv.weight.detach() * gain.view(-1, 1, 1, 1)).numpy()
    assert scale == pytest.approx(np.abs(folded).reshape(4, -1).max(1) / 127, rel=0.01)
    assert np.abs(weight * scale[:, None, None, None] - folded).max() <= scale.max() * 0.51


def test_activations_are_uint8_over_what_was_seen(content: bytes, images: torch.Tensor) -> None:
    graph = onnx.load_model_from_string(content).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    assert {arrays[node.input[2]].dtype for node in found.values()} == {np.dtype(np.uint8)}
    spread = (images.max() - images.min()).item()
    assert arrays[found["images"].input[1]] == pytest.approx(spread / 255, rel=1e-3)


def test_it_answers_as_the_network_does_at_any_batch_size(network: Any, content: bytes, images: torch.Tensor) -> None:
    run = open_onnx(content)
    expected = network(images).detach()
    # Without VNNI, sums of two products are cut off at 16 bits (onnxruntime's documentation of quantization).
    share = 0.03 if torch.cpu._is_vnni_supported() else 0.12
    assert torch.allclose(run(images), expected, atol=share * expected.abs().max().item())
    assert torch.allclose(run(images[:1]), run(images)[:1], atol=1e-6)


def test_the_network_itself_stays_as_it_was(network: Any, images: torch.Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    int8.quantize(network, SHAPE, images[:32].split(32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_accuracy_is_the_share_of_right_answers() -> None:
    """Two pixels of two channels; the logits are the sums of the channels."""
    pixels = torch.tensor([[9, 1], [1, 9], [9, 1], [1, 9]], dtype=torch.uint8).view(4, 1, 1, 2)
    images = device_data.Images(pixels, torch.tensor([0, 1, 1, 1]), torch.zeros(2), torch.ones(2))
    assert runtime.correct(lambda x: x.sum((2, 3)), images, torch.arange(4)).tolist() == [True, True, False, True]
    assert runtime.correct(lambda x: x.sum((2, 3)), images, torch.tensor([2])).tolist() == [False]


def test_dense_pruned_and_8_bits_are_timed_in_turn(network: Any, content: bytes) -> None:
    networks = {"a": runtime.Finished(network, content), "b": runtime.Finished(network)}
    found = runtime.speeds(networks, network, SHAPE, torch.device("cpu"), seconds=0.01)
    for row in found.values():
        assert row["runtime"] == "onnxruntime"
        assert row["speedup"] == pytest.approx(row["baseline_latency_ms"] / row["latency_ms"])
    assert found["a"]["float_latency_ms"] > 0
    assert "float_latency_ms" not in found["b"]


@pytest.mark.parametrize(
    ("num_classes", "in_shape", "said"),
    [(7, SHAPE, r"gives \(1, 5\) for an image, not a logit for each of 7"), (5, (1, 4, 4), "cannot run it")],
)
def test_a_file_of_another_network_is_refused(
    content: bytes, num_classes: int, in_shape: Any, said: str, tmp_path: Any
) -> None:
    card = {"num_classes": num_classes, "in_shape": in_shape}
    with pytest.raises(ValueError, match=f"^{tmp_path}: .*{said}"):
        runtime.opened(tmp_path, content, card)


def test_damaged_bytes_are_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="onnxruntime cannot run it"):
        runtime.opened(tmp_path, b"\x08 no network", {"num_classes": 5, "in_shape": SHAPE})
