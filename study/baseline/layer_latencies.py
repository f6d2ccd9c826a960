"""The times of the baseline's layers: measured once per study, and kept, so that resumed trials count the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.files import write_whole
from pruning.channels.graph import dependency_graph
from pruning.measure.layer_latency import LayerLatency, layer_latencies
from study.training.precision import gains_by_bf16

COLUMNS = ("layer", "outputs", "inputs", "nanoseconds")
Latencies = Mapping[str, LayerLatency]


def measure(network: nn.Module, in_shape: tuple[int, int, int], device: torch.device) -> dict[str, LayerLatency]:
    """Measure the layers of a dense network, in the precision and memory format in which saved networks are timed."""
    dtype = torch.bfloat16 if gains_by_bf16(device) else torch.float32
    graph = dependency_graph(network, torch.zeros(1, *in_shape))
    example = torch.zeros(1, *in_shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    return layer_latencies(network.to(device, dtype).to(memory_format=torch.channels_last), example, graph)


def kept(path: Path, measure: Callable[[], Latencies]) -> Latencies:
    """What the file holds; if there is none, what is measured, and then written. Raises ValueError if it is damaged."""
    if not path.exists():
        found = measure()
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *_rows(found)])
        write_whole(path, text.getvalue())
        return found
    try:
        with path.open(newline="") as file:
            return _tables(list(csv.DictReader(file)))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        message = f"{path}: not the layers' latencies that this study measured ({type(error).__name__}: {error})"
        raise ValueError(f"{message}; without the file they are measured again") from None


def _rows(found: Latencies) -> list[tuple[str, int, int, float]]:
    return [
        (path, made, read, float(table.nanoseconds[i, j]))
        for path, table in found.items()
        for i, made in enumerate(table.outputs)
        for j, read in enumerate(table.inputs)
    ]


def _tables(rows: list[dict[str, str]]) -> dict[str, LayerLatency]:
    cells: dict[str, dict[tuple[int, int], float]] = {}
    for row in rows:
        cells.setdefault(row["layer"], {})[int(row["outputs"]), int(row["inputs"])] = float(row["nanoseconds"])
    found = {}
    for path, table in cells.items():
        outputs, inputs = (tuple(sorted(set(side))) for side in zip(*table, strict=True))
        times = np.array([[table[made, read] for read in inputs] for made in outputs])
        if not np.isfinite(times).all():
            raise ValueError(f"a time of {path} is not a number")
        found[path] = LayerLatency(outputs, inputs, times)
    return found
