"""What a trial gets of a cluster, and how many fit on its nodes and into the memory of its GPUs."""

from __future__ import annotations

import math
from typing import NamedTuple

import ray
import torch

from study.config import Refused, Resources
from study.training import device_data, loop, optimisers
from study.trials.context import TrialContext


class Allotment(NamedTuple):
    """What one trial gets ({"cpu", "gpu"}), how many run at once, and how many devices there are to be alone on."""

    each: dict[str, float]
    at_once: int
    devices: int


def allotment(resources: Resources, alone: bool = False) -> Allotment:
    """What a trial gets of this cluster. `alone`: a whole node, since it measures latency.

    What fits is counted node by node, and GPU by GPU: no trial is spread. Raises Refused if none could ever run.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([node.get(what, 0.0) for node in nodes] for what in ("CPU", "GPU"))
    gpu = float(any(gpus)) if resources.gpus == "auto" else resources.gpus
    cpu = max(c for c, g in zip(cpus, gpus, strict=True) if bool(g) >= bool(gpu)) if alone else resources.cpus
    fits = sum(_fits(c, g, cpu, gpu) for c, g in zip(cpus, gpus, strict=True))
    if fits < 1:
        raise Refused(
            f"resources: a trial asks for {cpu:g} CPUs and {gpu:g} GPUs; the nodes have "
            + ", ".join(f"{c:g} and {g:g}" for c, g in zip(cpus, gpus, strict=True))
        )
    wanted = fits if resources.concurrency == "auto" else min(fits, resources.concurrency)
    return Allotment({"cpu": cpu, "gpu": gpu}, wanted, int(sum(gpus)) or len(nodes))


def _fits(cpus: float, gpus: float, cpu: float, gpu: float) -> int:
    """How many trials fit on one node; a fraction of a GPU is one of a single one."""
    by_cpu = int(cpus // cpu)
    if not gpu:
        return by_cpu
    return min(by_cpu, int(gpus // gpu) if gpu >= 1 else int(gpus) * math.floor(1 / gpu + 1e-9))


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
