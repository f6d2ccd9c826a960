"""The kinds of file a network is exported to. A new one is two functions and a line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

About = Mapping[str, str]
Run = Callable[[Tensor], Tensor]  # images (batch, C, H, W) -> logits (batch, classes), on the CPU


class Format(NamedTuple):
    """How a file ends, what runs it, the modules of the extra `export` it needs, how it is written and opened.

    `write` gets a network in eval mode, two images (torch takes a batch of one for a constant), what the file is to
    carry as text, and the path.
    """

    suffix: str
    engine: str
    needs: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, About, Path], None]
    open: Callable[[Path], Run]


def write_onnx(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """ONNX by torch's exporter: `images` (batch, C, H, W) -> `logits`; `about` is its metadata."""
    program = torch.onnx.export(
        network, (example,), input_names=["images"], output_names=["logits"],
        dynamo=True, dynamic_shapes=_free_batch(), verbose=False,
    )  # fmt: skip
    assert program is not None  # without a path to write to, it is returned
    program.model.metadata_props.update(about)
    program.save(path, external_data=False)


def open_onnx(path: Path) -> Run:
    """An ONNX file in onnxruntime, on one thread of the CPU."""
    import onnxruntime  # of the extra `export`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_program(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """torch.export's program; `about` travels as extra files."""
    program = torch.export.export(network, (example,), dynamic_shapes=_free_batch())
    torch.export.save(program, path, extra_files=dict(about))


def open_program(path: Path) -> Run:
    """An exported program, run by PyTorch."""
    module = torch.export.load(path).module()
    return lambda images: module(images)


def _free_batch() -> tuple[dict[int, torch.export.Dim], ...]:
    return ({0: torch.export.Dim("batch")},)


FORMATS = {
    "onnx": Format(".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "exported_program": Format(".pt2", "exported program", (), write_program, open_program),
}
