"""Latency of every layer at the widths that pruning may leave it, so that a target can count time.

As in HALP (Shen et al. 2022, arXiv:2210.06659), the time of a network is taken as the sum over its convolutions and
linear layers, each looked up in a table by its numbers of output and input channels. Between the measured widths the
tables are interpolated linearly. Norms, activations and sums are not counted, nor layers of other kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.calibration.hooks import evaluating, watching
from pruning.channels.graph import Graph
from pruning.measure.latency import measure_latency

TIMED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
WIDTHS = 6  # measured at most, of outputs and of inputs
SECONDS = 0.005  # measured time per layer and pair of widths


@dataclass(frozen=True)
class LayerLatency:
    """The time of one layer, by its numbers of channels.

    Attributes:
      outputs: numbers of output channels that were measured, rising.
      inputs: numbers of input channels, rising; a single one if they cannot be cut, or follow the outputs (groups).
      nanoseconds: (len(outputs), len(inputs)), not falling along either axis.
    """

    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    nanoseconds: np.ndarray

    def at(self, outputs: int, inputs: int) -> float:
        """Nanoseconds with these numbers of channels, interpolated; outside of the measured ones, at the nearest."""
        by_outputs = [np.interp(inputs, self.inputs, row) for row in self.nanoseconds]
        return float(np.interp(outputs, self.outputs, by_outputs))


def layer_latencies(model: nn.Module, example_input: Tensor, graph: Graph) -> dict[str, LayerLatency]:
    """Measure every layer of the kinds TIMED, on one image, at up to WIDTHS numbers of its outputs and of its inputs.

    Narrower layers are new ones with random weights, of the model's device, precision and memory format. A layer that
    is called several times counts as often, with the shape of its first input. Times are medians; a wider layer counts
    at least as much as a narrower one.

    Args:
      model: the dense network, which runs once; left in the mode that it was in.
      example_input: a batch (N, C, H, W); its first image is used.
      graph: the model's dependency groups.

    Returns:
      Path of the layer -> its table.
    """
    found = {}
    for path, (example, calls) in _first_inputs(model, example_input[:1], graph).items():
        layer: Any = model.get_submodule(path)
        grouped = getattr(layer, "groups", 1) > 1
        outputs = _widths(graph.axes[path, "out"], len(layer.weight) // layer.groups if grouped else 1)
        inputs = (layer.in_channels,) if grouped else _widths(graph.axes[path, "in"])
        times = np.array([[calls * _nanoseconds(layer, made, read, example) for read in inputs] for made in outputs])
        rising = np.maximum.accumulate(np.maximum.accumulate(times, axis=0), axis=1)
        found[path] = LayerLatency(outputs, inputs, rising)
    return found


def _first_inputs(model: nn.Module, example: Tensor, graph: Graph) -> Mapping[str, tuple[Tensor, int]]:
    """Path of each layer of the kinds TIMED -> the input of its first call, and its number of calls."""
    found: dict[str, tuple[Tensor, int]] = {}

    def note(path: str, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        first, calls = found.get(path, (x, 0))
        found[path] = first, calls + 1

    layers = {path: model.get_submodule(path) for path in graph.layers}
    timed = {path: [layer] for path, layer in layers.items() if type(layer) in TIMED}
    with evaluating(model), torch.no_grad(), watching(timed, note):
        model(example)
    return found


def _widths(units: np.ndarray, multiple: int = 1) -> tuple[int, ...]:
    """Numbers of channels from `multiple` to all, evenly spread; all channels if none can be cut."""
    count = len(units) // multiple
    least = 1 if (units >= 0).any() else count
    return tuple(multiple * width for width in sorted({round(width) for width in np.linspace(least, count, WIDTHS)}))


def _nanoseconds(layer: Any, outputs: int, inputs: int, example: Tensor) -> float:
    """The median time of such a layer with these numbers of channels, on an input like `example`."""
    options: dict[str, Any] = {"bias": layer.bias is not None}
    axis = -1
    if not isinstance(layer, nn.Linear):
        axis = 1
        options |= {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation")}
        if layer.groups > 1:
            inputs = layer.in_channels * outputs // layer.out_channels
            options["groups"] = layer.groups * outputs // layer.out_channels
    shape = list(example.shape)
    shape[axis] = inputs
    form = torch.contiguous_format if example.is_contiguous() or example.ndim != 4 else torch.channels_last
    narrow = type(layer)(inputs, outputs, **options).to(example.device, example.dtype)
    image = torch.randn(shape, device=example.device, dtype=example.dtype).contiguous(memory_format=form)
    return 1e6 * measure_latency({"": narrow.to(memory_format=form)}, image, seconds=SECONDS)[""].median
