"""How much of a GPU's memory one trial takes, and whether those that share a GPU fit on it."""

from __future__ import annotations

import math

import torch

from study.config import Refused
from study.training import device_data, loop, optimisers
from study.trials.context import TrialContext


def check_memory(gpu: float, peak: int, total: int) -> None:
    """Raise Refused if the trials that share a GPU of `total` bytes, `gpu` of it each, hold more at `peak` bytes."""
    sharing = math.floor(1 / gpu + 1e-9)
    if peak * sharing > total:
        enough = math.ceil(100 / max(1, total // peak)) / 100
        raise Refused(
            f"resources.gpus: {gpu:g} puts {sharing} trials on a GPU of {total / 2**30:.1f} GiB, and one takes about "
            f"{peak / 2**30:.1f} GiB; give each at least {enough:g}"
        )


def trial_memory(context: TrialContext, device: torch.device) -> tuple[int, int] | None:
    """Bytes that a trial holds on `device` while it trains the dense network, and those the device has; CPU: None.

    A step at the baseline's batch size: images, weights, gradients, the optimiser's state, activations, CUDA's own.
    """
    if device.type != "cuda":
        return None
    data = device_data.place(context.data, device)
    network = context.baseline.network(device)
    optimizer = optimisers.OPTIMIZERS["adamw"](network.parameters(), 1e-6, 0.0)  # keeps the most
    section = context.section
    batches = device_data.endless_batches(data.images, data.train, section.batch_size, section.augment, 0)
    loop.train(network, batches, optimizer, [1e-6])
    free, total = torch.cuda.mem_get_info(device)
    around = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + around, total
