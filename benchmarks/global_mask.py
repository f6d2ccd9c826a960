"""A global 90 % magnitude mask on ResNet-50: CPU time and extra memory, ours against torch's own.

    python -m benchmarks.global_mask

Both compute L1 scores and masks from the weights, on one thread, each in a fresh process, so that neither inherits the
other's memory. Extra memory is the peak resident size minus the peak after building the network.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torchvision.models import resnet50

from pruning.allocation.weight_budget import weight_masks
from pruning.criteria.magnitude import magnitude_l1
from pruning.weights.masks import prunable

SPARSITY = 0.9
RUNS = 3


def ours(model: nn.Module) -> Iterable[Tensor]:
    """The masks of this project."""
    return weight_masks(magnitude_l1(model, [], torch.Generator()), SPARSITY, "global").values()


def torch_masks(model: nn.Module) -> Iterable[Tensor]:
    """The masks of torch.nn.utils.prune."""
    layers = [model.get_submodule(name.removesuffix(".weight")) for name in prunable(model)]
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=SPARSITY)
    return [layer.get_buffer("weight_mask") for layer in layers]


METHODS = {"ours": ours, "torch.nn.utils.prune.global_unstructured": torch_masks}


def measure(method: str) -> dict[str, Any]:
    """CPU seconds, extra MiB, and all masks as packed bits."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet50()
    before, start = _peak_mib(), time.process_time()
    masks = METHODS[method](model)
    seconds, extra = time.process_time() - start, _peak_mib() - before
    kept = torch.cat([mask.bool().flatten() for mask in masks]).numpy()
    # Packed to keep the parent small: a child's peak starts at its parent's size, which would hide some of its memory.
    return {"seconds": seconds, "mib": extra, "kept": np.packbits(kept)}


def main() -> None:
    """Print time, memory and kept weights of both methods, and their ratios."""
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for method in list(METHODS) * RUNS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            runs[method].append(pool.apply(measure, (method,)))
    us, them = (min(rows, key=lambda row: row["seconds"]) for rows in runs.values())
    for method, row in zip(METHODS, (us, them), strict=True):
        kept = np.bitwise_count(row["kept"]).sum()
        print(f"{method}: {row['seconds']:.3f} CPU s, {row['mib']:.0f} MiB extra, {kept} weights kept")
    faster, smaller = them["seconds"] / us["seconds"], them["mib"] / us["mib"]
    print(f"ratios: {faster:.1f}x less CPU time, {smaller:.1f}x less extra memory")
    differ = np.bitwise_count(us["kept"] ^ them["kept"]).sum()
    print(f"weights on which the masks differ: {differ} (torch's empties the classifier, ours leaves it one)")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


if __name__ == "__main__":
    main()
