"""Resources of a trial, and how many trials fit on the cluster's nodes and into the memory of its GPUs."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from study.config import RefusedError, Resources
from study.execution import remote
from study.training import device_data, loop, optimisers
from study.trials.context import TrialContext


class Allotment(NamedTuple):
    """Resources of the trials.

    Attributes:
      each: {"cpu", "gpu"} of one trial.
      at_once: trials that run in parallel.
      devices: GPUs of the cluster, or nodes if it has none: trials that can each have a device to themselves.
    """

    each: dict[str, float]
    at_once: int
    devices: int


def allotment(resources: Resources, alone: bool = False) -> Allotment:
    """The resources of each trial on this cluster. `alone`: all CPUs of a node, for trials that measure latency.

    Trials are counted per node and per GPU: none spans two. Raises RefusedError if no trial fits.
    """
    nodes = remote.resources()
    cpus, gpus = ([node.get(name, 0.0) for node in nodes] for name in ("CPU", "GPU"))
    gpu = float(any(gpus)) if resources.gpus == "auto" else resources.gpus
    cpu = max(c for c, g in zip(cpus, gpus, strict=True) if bool(g) >= bool(gpu)) if alone else resources.cpus
    fits = sum(_trials_on_node(c, g, cpu, gpu) for c, g in zip(cpus, gpus, strict=True))
    if fits < 1:
        raise RefusedError(
            f"resources: a trial asks for {cpu:g} CPUs and {gpu:g} GPUs; the nodes have "
            + ", ".join(f"{c:g} and {g:g}" for c, g in zip(cpus, gpus, strict=True))
        )
    wanted = fits if resources.concurrency == "auto" else min(fits, resources.concurrency)
    return Allotment({"cpu": cpu, "gpu": gpu}, wanted, int(sum(gpus)) or len(nodes))


def _trials_on_node(node_cpus: float, node_gpus: float, cpu: float, gpu: float) -> int:
    """How many trials fit on one node; a trial with a fraction of a GPU does not span two GPUs."""
    by_cpu = int(node_cpus // cpu)
    if not gpu:
        return by_cpu
    return min(by_cpu, int(node_gpus // gpu) if gpu >= 1 else int(node_gpus) * math.floor(1 / gpu + 1e-9))


def check_memory(gpu: float, peak: int, total: int) -> None:
    """Raise RefusedError if trials of `peak` bytes, each with the share `gpu` of a GPU, exceed its `total` bytes."""
    sharing = math.floor(1 / gpu + 1e-9)
    if peak * sharing > total:
        enough = math.ceil(100 / max(1, total // peak)) / 100
        raise RefusedError(
            f"resources.gpus: {gpu:g} puts {sharing} trials on a GPU of {total / 2**30:.1f} GiB, and one takes about "
            f"{peak / 2**30:.1f} GiB; give each at least {enough:g}"
        )


def trial_memory(context: TrialContext, device: torch.device) -> tuple[int, int] | None:
    """Peak bytes of a trial on `device`, and the device's total bytes; None on a CPU.

    Measured in one training step of the dense network at the baseline's batch size: images, weights, gradients,
    optimiser state, activations, the teacher if a recipe of the study has one, and the CUDA context.
    """
    if device.type != "cuda":
        return None
    data = device_data.place(context.data, device)
    network = context.baseline.network(device)
    optimizer = optimisers.OPTIMIZERS["adamw"](network.parameters(), 1e-6, 0.0)  # the optimiser with the largest state
    section = context.section
    batches = device_data.endless_batches(data.images, data.train, section.batch_size, 0)
    teacher = loop.Distillation(context.baseline.network(device).eval(), 0.5, 1.0) if context.taught else None
    loop.train(network, batches, optimizer, [1e-6], distillation=teacher)
    free, total = torch.cuda.mem_get_info(device)
    outside_torch = total - free - torch.cuda.memory_reserved(device)
    return torch.cuda.max_memory_reserved(device) + outside_torch, total
