"""Forward-pass latency of several networks, timed in turn so that other load on the machine affects all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Latency(NamedTuple):
    """Milliseconds of one forward pass: median and quartiles."""

    median: float
    lower: float
    upper: float


@torch.inference_mode()
def measure_latency(
    networks: Mapping[str, nn.Module],
    example: Tensor,
    *,
    seconds: float = 1.0,
    warm_up: int = 3,
    least: int = 10,
) -> dict[str, Latency]:
    """Latency of every network on `example`, timed in turn in this process.

    Each round times every network once; the order rotates by one per round. Rounds continue until every network has
    about `seconds` of measured time and at least `least` rounds. On CUDA, timing waits until the kernels have finished.

    Args:
      networks: name -> network, put into eval mode and left so.
      example: a batch on the networks' device.
      seconds: measured time per network.
      warm_up: untimed passes per network.
      least: minimum number of rounds.

    Returns:
      Name -> latency.
    """
    for network in networks.values():
        network.eval()
        for _ in range(warm_up):
            _time_forward(network, example)
    times: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    spent = dict.fromkeys(networks, 0.0)
    while len(times[order[0]]) < least or min(spent.values()) < seconds:
        for name in order:
            times[name].append(_time_forward(networks[name], example))
            spent[name] += times[name][-1]
        order = order[1:] + order[:1]
    return {name: _summary(measured) for name, measured in times.items()}


def _time_forward(network: nn.Module, example: Tensor) -> float:
    _synchronize(example)
    start = time.perf_counter()
    network(example)
    _synchronize(example)
    return time.perf_counter() - start


def _synchronize(example: Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize(example.device)


def _summary(seconds: list[float]) -> Latency:
    lower, median, upper = np.percentile(1e3 * np.asarray(seconds), [25, 50, 75])
    return Latency(float(median), float(lower), float(upper))
