"""Ray tasks that need exclusive use of a node's device: training the baseline, measuring latency and memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.baseline import training
from study.baseline.network import Baseline
from study.config import BaselineSection
from study.data.splits import Data
from study.execution import ray_adapter
from study.training.epochs import Row

_LEFT_OUT: set[str] = set()  # ids of nodes that cannot run trials


def leave_out(node_ids: Iterable[str]) -> None:
    """Use these nodes no more, and all others."""
    _LEFT_OUT.clear()
    _LEFT_OUT.update(node_ids)


def usable() -> dict[str, str]:
    """Ray's label selector of the nodes that are not left out; empty if all may be used."""
    return {"ray.io/node-id": f"!in({','.join(sorted(_LEFT_OUT))})"} if _LEFT_OUT else {}


def resources() -> list[Mapping[str, float]]:
    """What each node has, {"CPU", "GPU", ...}, of those that are alive and not left out."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in _LEFT_OUT]


class TaskError(Exception):
    """A task failed. `traceback`: of the failure, in the task's process."""

    def __init__(self, error: RayTaskError) -> None:
        super().__init__(ray_adapter.in_short(error))
        self.traceback = str(error)


def make_baseline(section: BaselineSection, data: Data, niceness: int = 0) -> Iterator[Row | Baseline]:
    """Trains and measures the baseline as a Ray task, on all cores of a node (and a GPU if available).

    Yields a record per epoch, then the baseline; see `study.baseline.training.make`. Raises TaskError if it fails.
    """
    cores, gpus = _largest_node()

    @ray.remote(num_cpus=cores, num_gpus=gpus, num_returns="streaming", max_retries=2, label_selector=usable())
    def task(section: BaselineSection, data: Data) -> Any:
        set_niceness(niceness)
        torch.set_num_threads(int(cores))
        yield from training.make(section, data, device(gpus))

    references: Any = task.remote(section, data)
    for reference in references:
        try:
            yield ray.get(reference)
        except RayTaskError as error:
            raise TaskError(error) from None


def on_device_alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs `work(*arguments, device)` as a Ray task with one thread on an otherwise idle node, and returns its result.

    The task reserves all cores of the node, and a GPU if available, which is then the device.
    """
    cores, gpus = _largest_node()

    @ray.remote(num_cpus=cores, num_gpus=gpus, label_selector=usable())
    def task(*arguments: Any) -> Any:
        torch.set_num_threads(1)
        return work(*arguments, device(gpus))

    return ray.get(task.remote(*arguments))  # Ray limits the size of captured variables, not of arguments


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's node, so that it is lost only if the driver is."""
    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=True)


def set_niceness(niceness: int) -> None:
    """Sets this worker's niceness, where its user may. On an existing cluster, Ray started it with the cluster's."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def device(gpus: float) -> torch.device:
    """The device of a trial or task with this share of a GPU (0: the CPU)."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def _largest_node() -> tuple[float, int]:
    """CPUs and GPUs (0 or 1) of the node with the most CPUs, among nodes with a GPU if there are any."""
    gpus, cores = max((min(1, int(node.get("GPU", 0))), node.get("CPU", 1.0)) for node in resources())
    return cores, gpus
