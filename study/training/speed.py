"""How fast saved networks are: dense and pruned in turn, alone on the device, in the format one would deploy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pruning.measure.latency import measure_latency
from study.training.precision import gains_by_bf16

LARGE_BATCH = {"cpu": 64, "cuda": 512}


def speeds(
    networks: Mapping[str, nn.Module],
    dense: nn.Module,
    in_shape: tuple[int, int, int],
    device: torch.device,
    seconds: float = 0.3,
) -> dict[str, dict[str, Any]]:
    """For every network the columns of latency at batch 1 and at a large batch, each beside `dense` in the same turns.

    latency_ms, latency_low_ms, latency_high_ms: median and quartiles of one forward pass at batch 1;
    baseline_latency_ms: the dense network's median; speedup: the second by the first. large_batch, batch_latency_ms,
    baseline_batch_latency_ms, batch_speedup: the same for a batch of `large_batch`. Weights and inputs are channels
    last, in bf16 where the device multiplies it in hardware, else fp32. On a CPU with as many threads as torch has.
    """
    dtype = torch.bfloat16 if gains_by_bf16(device) else torch.float32
    dense = dense.to(device, dtype).to(memory_format=torch.channels_last)
    large = LARGE_BATCH[device.type]
    inputs = torch.randn(large, *in_shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    result = {}
    for name, network in networks.items():
        pair = {"dense": dense, "pruned": network.to(device, dtype).to(memory_format=torch.channels_last)}
        one, many = (
            measure_latency(pair, inputs[:batch], seconds=seconds, least=least)
            for batch, least in ((1, 20), (large, 5))
        )
        result[name] = {
            "latency_ms": one["pruned"].median,
            "latency_low_ms": one["pruned"].lower,
            "latency_high_ms": one["pruned"].upper,
            "baseline_latency_ms": one["dense"].median,
            "speedup": one["dense"].median / one["pruned"].median,
            "large_batch": large,
            "batch_latency_ms": many["pruned"].median,
            "baseline_batch_latency_ms": many["dense"].median,
            "batch_speedup": many["dense"].median / many["pruned"].median,
        }
    return result
