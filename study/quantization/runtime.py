"""Run networks in onnxruntime: accuracy on a data set, and latency of dense, pruned and 8-bit networks in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.formats import Run, open_onnx, write_onnx
from study.quantization.int8 import missing
from study.training import speed
from study.training.device_data import Images
from study.training.epochs import Row

NAME = "onnxruntime"


class Finished(NamedTuple):
    """A network to be timed: as floats, and its quantized file if there is one."""

    network: nn.Module
    int8: bytes | None = None


class Engine(nn.Module):
    """A network that another engine runs, as a module, for `measure_latency`.

    The callable is kept in a tuple, so that it is not a submodule: `eval` must not reach an exported program, which
    refuses it.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = (run,)

    def forward(self, images: Tensor) -> Tensor:
        """The logits for `images`."""
        return self._run[0](images)


def opened(path: Path, content: bytes, card: Mapping[str, Any]) -> Run:
    """Open a quantized file that was read from `path`, in onnxruntime on one thread.

    Raises ValueError, naming the path, if onnxruntime is missing, cannot run the file, or gets from it anything but a
    logit per class of the network's card.
    """
    if needed := missing():
        raise ValueError(f"{path}: needs {', '.join(needed)}; install the extra: pip install '.[export]'")
    try:
        run = open_onnx(content)
        shape = tuple(run(torch.zeros(1, *card["in_shape"])).shape)
    except Exception as error:  # onnxruntime has a type of its own for every status
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: onnxruntime cannot run it: {reason}") from error
    if shape != (1, card["num_classes"]):
        raise ValueError(f"{path}: gives {shape} for an image, not a logit for each of {card['num_classes']} classes")
    return run


def correct(run: Run, images: Images, rows: Tensor) -> np.ndarray:
    """Which of `rows` a network that runs on the CPU classifies correctly; see `study.training.evaluation.correct`."""
    found = [
        run(inputs.cpu().contiguous()).argmax(1) == labels.cpu()
        for inputs, labels in images.stream(rows.split(images.evaluated_at_once))
    ]
    return torch.cat(found).numpy()


def speeds(
    networks: Mapping[str, Finished],
    dense: nn.Module,
    in_shape: tuple[int, int, int],
    device: torch.device,
    seconds: float = 0.3,
) -> dict[str, Row]:
    """The columns of `study.training.speed.speeds`, measured in onnxruntime on one CPU thread, whatever `device` is.

    Of a quantized network, latency_ms is that of its 8-bit file, and float_latency_ms that of the network before.
    """
    in_floats = engine(dense, in_shape)
    result = {}
    for name, (network, int8) in networks.items():
        before = engine(network, in_shape)
        timed = {"dense": in_floats, "pruned": before}
        if int8 is not None:
            timed |= {"pruned": Engine(open_onnx(int8)), "float": before}
        result[name] = speed.columns(timed, torch.randn(speed.LARGE_BATCH["cpu"], *in_shape), seconds)
        result[name]["runtime"] = NAME
    return result


def engine(network: nn.Module, in_shape: tuple[int, int, int]) -> Engine:
    """The network as onnxruntime runs it, on one thread. in_shape: (channels, height, width) of its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        write_onnx(network.cpu().float().eval(), torch.zeros(2, *in_shape), {}, path)
        return Engine(open_onnx(path))
