"""Export formats of networks. To add one: write two functions and add an entry to FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

About = Mapping[str, str]
Run = Callable[[Tensor], Tensor]  # images (batch, C, H, W) -> logits (batch, classes), on the CPU


class Format(NamedTuple):
    """An export format.

    suffix: of the file name.
    engine: the runtime, as shown to users.
    needs: modules it requires from the extra `export`.
    write: (network in eval mode, example of two images, metadata, path) -> None. torch would export a batch of one as a
        constant batch size.
    open: path -> function that runs the file.
    """

    suffix: str
    engine: str
    needs: tuple[str, ...]
    write: Callable[[nn.Module, Tensor, About, Path], None]
    open: Callable[[Path], Run]


def write_onnx(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """Write ONNX with torch's exporter: `images` (batch, C, H, W) -> `logits`. Args: see `Format.write`."""
    program = torch.onnx.export(
        network, (example,), input_names=["images"], output_names=["logits"],
        dynamo=True, dynamic_shapes=_dynamic_batch(), verbose=False,
    )  # fmt: skip
    assert program is not None  # returned because no path is given
    program.model.metadata_props.update(about)
    program.save(path, external_data=False)


def open_onnx(file: Path | bytes, threads: int = 1) -> Run:
    """Open an ONNX file, or its content, in onnxruntime on the CPU."""
    import onnxruntime  # of the extra `export`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def write_program(network: nn.Module, example: Tensor, about: About, path: Path) -> None:
    """Write a torch.export program; `about` is stored as extra files. Args: see `Format.write`."""
    program = torch.export.export(network, (example,), dynamic_shapes=_dynamic_batch())
    torch.export.save(program, path, extra_files=dict(about))


def open_program(path: Path) -> Run:
    """Open an exported program, run by PyTorch."""
    module = torch.export.load(path).module()
    return lambda images: module(images)


def _dynamic_batch() -> tuple[dict[int, torch.export.Dim], ...]:
    return ({0: torch.export.Dim("batch")},)


FORMATS = {
    "onnx": Format(".onnx", "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "exported_program": Format(".pt2", "exported program", (), write_program, open_program),
}
