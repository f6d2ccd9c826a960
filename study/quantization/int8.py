"""Make an 8-bit network of a finished one: static quantization by onnxruntime, calibrated on training images."""

from __future__ import annotations

import copy
import importlib.util
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from models.formats import FORMATS, write_onnx
from pruning.weights.masks import prunable
from study.quantization import onnx_file

BITS = 8


def missing() -> list[str]:
    """The packages of the extra `export` that quantization needs and that are not installed."""
    return [name for name in FORMATS["onnx"].needs if importlib.util.find_spec(name) is None]


def quantize(network: nn.Module, in_shape: Sequence[int], batches: Iterable[Tensor]) -> bytes:
    """The network in 8 bits, as the content of an ONNX file: `images` float32 (batch, C, H, W) -> `logits`.

    Weights are int8 with a scale per output channel, activations uint8 with one scale, from the smallest to the
    largest value seen; each is followed by its way back to floats (QDQ), which the runtime merges into its kernels.
    Batch norms are folded into the layers before them.

    Args:
      network: left unchanged.
      in_shape: (channels, height, width) of the inputs.
      batches: of training images, as the network takes them.

    Raises:
      ValueError: some convolution or linear layer stays in floats.
      Exception: whatever torch or onnxruntime raise for a network that they cannot export or quantize.
    """
    # Imported here: only studies that quantize need the extra.
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    network = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format).eval()
    with tempfile.TemporaryDirectory() as folder, _one_thread(), _quiet():
        floats, prepared, finished = (Path(folder, name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        write_onnx(network, torch.zeros(2, *in_shape), {}, floats)
        quant_pre_process(str(floats), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared, finished, _reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        content = finished.read_bytes()
    onnx_file.check_quantized(content, sum(weight.numel() for weight in prunable(network).values()))
    return content


def _reader(batches: Iterable[Tensor]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch.cpu().contiguous().numpy()}

    return Reader()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Calibrates on one thread: onnxruntime's calibrator would take every core of the machine from the other trials."""
    import onnxruntime
    from onnxruntime.quantization.calibrate import CalibraterBase

    def create_inference_session(self: Any) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.infer_session = onnxruntime.InferenceSession(
            self.augmented_model_path, options, providers=["CPUExecutionProvider"]
        )

    with patch.object(CalibraterBase, "create_inference_session", create_inference_session):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is logged of layers whose scale has one channel, and so cannot be quantized per channel."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
