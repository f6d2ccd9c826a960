"""What an ONNX file holds, against files made by hand."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from study.quantization import onnx_file

WEIGHTS = np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 7]], np.int8)  # 10 weights: 2 bytes of a bitmap, 2 values


def matmul(weights: np.ndarray) -> bytes:
    """images (batch, 10) -> logits (batch, 1), by a matrix of 8 bits and scale 1/2, or by one of floats."""
    quantized = weights.dtype == np.int8
    constants = {"weight": weights, "scale": np.float32(0.5), "zero": np.int8(0)}
    nodes = [helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["float"])] * quantized
    nodes.append(helper.make_node("Gemm", ["images", "float" if quantized else "weight"], ["logits"], transB=1))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def test_zeros_are_left_out_where_that_is_less() -> None:
    beside = 4 + 1  # scale and zero point
    assert onnx_file.sparse_size_bytes(matmul(WEIGHTS)) == 2 + 2 + beside
    full = np.arange(1, 11, dtype=np.int8)[None]
    assert onnx_file.sparse_size_bytes(matmul(full)) == 10 + beside


def test_weights_in_floats_are_named() -> None:
    onnx_file.check_quantized(matmul(WEIGHTS), 10)
    with pytest.raises(ValueError, match=r"quantizes 0 of the 10 weights; in floats stay: Gemm \(weight\)"):
        onnx_file.check_quantized(matmul(WEIGHTS.astype(np.float32)), 10)


def test_texts_are_among_the_files_properties() -> None:
    content = onnx_file.with_metadata(matmul(WEIGHTS), {"mean": "[0.5]"})
    assert {p.key: p.value for p in onnx.load_model_from_string(content).metadata_props} == {"mean": "[0.5]"}


def test_the_normalisation_goes_inside() -> None:
    """A network that returns its images; two pixels of two channels."""
    kind, shape = TensorProto.FLOAT, ["batch", 2, 1, 2]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["logits"])],
        "graph",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info("logits", kind, shape)],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    content = onnx_file.with_normalisation(plain, [0.5, 0.2], [0.25, 0.1])
    onnx.checker.check_model(onnx.load_model_from_string(content))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"images": np.array([[[[0, 255]], [[51, 102]]]], np.uint8)})
    assert given == pytest.approx(np.array([[[[-2, 2]], [[0, 2]]]]), abs=1e-5)
