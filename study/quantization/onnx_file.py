"""What a quantized ONNX file holds, and that file with the normalisation of the images inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def check_quantized(content: bytes, weights: int) -> None:
    """Raise ValueError, naming them, if operations of the file still have weights in floats.

    weights: number of the network's prunable weights, of which each should be int8.
    """
    graph = _read(content).graph
    found = sum(array.size for array in _weights(graph))
    if found < weights:
        floats = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 and tensor.data_type == _FLOAT}
        left = [f"{node.op_type} ({name})" for node in graph.node for name in node.input if name in floats]
        raise ValueError(
            f"onnxruntime quantizes {found:,} of the {weights:,} weights; in floats stay: {', '.join(left) or 'others'}"
        )


def sparse_size_bytes(content: bytes) -> int:
    """Size of the tensors of a quantized file in bytes if zeros are not stored; as `pruning.measure.cost` counts them.

    Each int8 weight is a bitmap (one bit per weight) and its non-zero values of a byte, or the dense tensor where that
    is smaller. All other tensors (scales, biases) are dense, and the file's description of the network is left out.
    Values that rounding made zero are zeros like those that pruning made.
    """
    graph = _read(content).graph
    weights = _weights(graph)
    dense = sum(_array(tensor).nbytes for tensor in graph.initializer)
    return dense - sum(max(0, a.size - (-(-a.size // 8) + int(np.count_nonzero(a)))) for a in weights)


def with_metadata(content: bytes, about: Mapping[str, str]) -> bytes:
    """The file with these texts among its `metadata_props`."""
    import onnx

    model = _read(content)
    onnx.helper.set_model_props(model, dict(about))
    return bytes(model.SerializeToString())


def with_normalisation(content: bytes, mean: Sequence[float], std: Sequence[float]) -> bytes:
    """The file taking raw pixels, uint8 (batch, C, H, W), which it normalises: (pixel / 255 - mean) / std.

    mean, std: per channel, in [0, 1] units.
    """
    from onnx import helper, numpy_helper

    model = _read(content)
    graph = model.graph
    scale = 1 / (255 * np.array(std, np.float32))
    shift = -np.array(mean, np.float32) / np.array(std, np.float32)
    for node in graph.node:
        node.input[:] = ["normalised" if name == "images" else name for name in node.input]
    for number, node in enumerate(
        [
            helper.make_node("Cast", ["images"], ["pixels"], to=_FLOAT),
            helper.make_node("Mul", ["pixels", "pixel_scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "pixel_shift"], ["normalised"]),
        ]
    ):
        graph.node.insert(number, node)
    for name, values in (("pixel_scale", scale), ("pixel_shift", shift)):
        graph.initializer.append(numpy_helper.from_array(values.reshape(-1, 1, 1), name))
    graph.input[0].type.tensor_type.elem_type = _UINT8
    return bytes(model.SerializeToString())


_FLOAT, _UINT8, _INT8 = 1, 2, 3  # onnx.TensorProto's, which is imported only where files are read


def _read(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content)


def _weights(graph: Any) -> list[np.ndarray]:
    """The int8 weights: what the file turns back to floats and knows beforehand."""
    int8 = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == _INT8}
    used = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return [_array(int8[name]) for name in sorted(used & int8.keys())]


def _array(tensor: Any) -> np.ndarray:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))
