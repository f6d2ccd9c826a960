"""What a trial gets of a cluster, and how many fit on its nodes."""

from __future__ import annotations

import math
from typing import NamedTuple

import ray

from study.config import Refused, Resources


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
