"""Measured time of a forward pass, networks taken in turn so that whatever else the machine does hits all alike."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn


class Latency(NamedTuple):
    """Milliseconds of one forward pass: the median and the quartiles around it."""

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
    """Latency of every network on `example` (a batch on the networks' device), in turn, in this process.

    Each round times every network once, in an order that is turned by one from round to round; rounds go on
    until every network had about `seconds` of time, and `least` rounds at the least. The networks are put in
    eval mode and left so. On CUDA a forward pass is timed until its kernels have ended.
    """
    for network in networks.values():
        network.eval()
        for _ in range(warm_up):
            _timed(network, example)
    times: dict[str, list[float]] = {name: [] for name in networks}
    order = list(networks)
    while len(times[order[0]]) < least or any(sum(spent) < seconds for spent in times.values()):
        for name in order:
            times[name].append(_timed(networks[name], example))
        order = order[1:] + order[:1]
    return {name: _summary(spent) for name, spent in times.items()}


def _timed(network: nn.Module, example: Tensor) -> float:
    _wait(example)
    start = time.perf_counter()
    network(example)
    _wait(example)
    return time.perf_counter() - start


def _wait(example: Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize(example.device)


def _summary(seconds: list[float]) -> Latency:
    lower, median, upper = np.percentile(1e3 * np.asarray(seconds), [25, 50, 75])
    return Latency(float(median), float(lower), float(upper))
