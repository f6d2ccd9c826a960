"""How much of a GPU's memory one trial takes."""

from __future__ import annotations

import torch

from study import training
from study.trial import Shared


def held(shared: Shared, device: torch.device) -> tuple[int, int] | None:
    """Bytes that a trial holds on `device` while it trains the dense network, and those the device has; CPU: None.

    A step at the baseline's batch size: images, weights, gradients, the optimiser's state, activations, CUDA's own.
    """
    if device.type != "cuda":
        return None
    images = training.on_device(shared.data, device)
    network = shared.baseline.network(device)
    optimizer = training.OPTIMIZERS["adamw"](network.parameters(), 1e-6, 0.0)  # keeps the most
    rows = training.rows_of(shared.data.train, device)
    batches = training.endless_batches(images, rows, shared.section.batch_size, shared.section.augment, 0)
    training.train(network, batches, optimizer, [1e-6])
    free, total = torch.cuda.mem_get_info(device)
    around = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + around, total
