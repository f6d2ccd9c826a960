"""Latency of saved networks: dense and pruned measured alternately, in the precision and format of deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
    """Measure the latency of every network, alternately with `dense`, at batch 1 and at a large batch.

    Weights and inputs are channels last, in bf16 if `gains_by_bf16(device)`, else fp32. On a CPU, uses torch's current
    number of threads.

    Args:
      networks: name -> pruned network.
      dense: the network to compare with.
      in_shape: (channels, height, width) of the inputs.
      device: where to measure; nothing else should run there.
      seconds: measuring time per network and batch size, see `measure_latency`.

    Returns:
      Name -> columns. latency_ms, latency_low_ms, latency_high_ms: median and quartiles of one forward pass at batch 1;
      baseline_latency_ms: the dense network's median; speedup: baseline_latency_ms / latency_ms. batch_latency_ms,
      baseline_batch_latency_ms, batch_speedup: the same for a batch of `large_batch` images. runtime: `torch`.
    """
    dtype = torch.bfloat16 if gains_by_bf16(device) else torch.float32
    dense = dense.to(device, dtype).to(memory_format=torch.channels_last)
    inputs = torch.randn(LARGE_BATCH[device.type], *in_shape, device=device, dtype=dtype).to(
        memory_format=torch.channels_last
    )
    result = {}
    for name, network in networks.items():
        pair = {"dense": dense, "pruned": network.to(device, dtype).to(memory_format=torch.channels_last)}
        result[name] = columns(pair, inputs, seconds) | {"runtime": "torch"}
    return result


def columns(networks: Mapping[str, nn.Module], inputs: Tensor, seconds: float) -> dict[str, Any]:
    """The columns of a network that is measured in turn with others.

    Args:
      networks: `dense`, `pruned` and, if `pruned` is a quantized network, `float`: the same before.
      inputs: the large batch; its first image is the small one.
      seconds: measuring time per network and batch size.
    """
    single, batched = (
        measure_latency(networks, inputs[:batch], seconds=seconds, least=least)
        for batch, least in ((1, 20), (len(inputs), 5))
    )
    before = {"float_latency_ms": single["float"].median} if "float" in networks else {}
    return before | {
        "latency_ms": single["pruned"].median,
        "latency_low_ms": single["pruned"].lower,
        "latency_high_ms": single["pruned"].upper,
        "baseline_latency_ms": single["dense"].median,
        "speedup": single["dense"].median / single["pruned"].median,
        "large_batch": len(inputs),
        "batch_latency_ms": batched["pruned"].median,
        "baseline_batch_latency_ms": batched["dense"].median,
        "batch_speedup": batched["dense"].median / batched["pruned"].median,
    }
