"""A Ray cluster: joining it, sending the code, what fits on its nodes, and work that needs a device to itself."""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

# Before ray is imported: no usage statistics; a task without a GPU sees the GPUs there are, and no warning of it.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study import baseline as baselines
from study.config import BaselineSection, Refused, Resources, StudyFile
from study.data import Data
from study.ledger import Record

PACKAGES = ("study", "pruning", "models", "search_spaces", "analysis")


class Allotment(NamedTuple):
    """What one trial gets ({"cpu", "gpu"}), how many run at once, and how many devices there are to be alone on."""

    each: dict[str, float]
    at_once: int
    devices: int


@contextmanager
def cluster(address: str | None, file: StudyFile) -> Iterator[str]:
    """A running Ray: the one at `address`, or one of this machine's own; gives the dashboard's address.

    A cluster is sent the code, the user's own modules included, so that its nodes need only what is installed. Raises
    Refused if there is no cluster, or it is reached as a client, whose searcher would run far from its journal.
    """
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    try:
        context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **_joining(address, file))
    except (ConnectionError, ValueError) as error:
        raise Refused(
            f"--address {address}: no Ray cluster to be reached there: {error}; if it asks for a token (as those of "
            f"`ray start` do where ~/.ray/auth_token is), set RAY_AUTH_MODE=token and have its token there"
        ) from None
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def _joining(address: str | None, file: StudyFile) -> dict[str, Any]:
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:  # submitted as a job, which has brought the code with it
        return {"address": address or "auto"}
    if address and address.startswith("ray://"):
        raise Refused(
            f"--address {address}: a study does not run through Ray Client; run the command on the head node with "
            f"--address auto, or submit it: ray job submit --address http://HEAD:8265 --working-dir . -- python -m ..."
        )
    if address:
        return {"address": address, "runtime_env": {"py_modules": code(file)}}
    # Workers import the user's own modules (model, criterion) from where the command was typed.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    return {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1"}


def code(file: StudyFile) -> list[str]:
    """The folders and files of the project, and of the modules that the study file names and pip did not bring."""
    named = [file.baseline.model, *file.values("criterion")]
    modules = {name.split(":")[0].split(".")[0] for name in named if ":" in name}
    ours = [str(Path(__file__).parent.parent / name) for name in PACKAGES]
    return ours + sorted(place for place in map(_place, modules) if "site-packages" not in place)


def _place(module: str) -> str:
    found = importlib.import_module(module)
    return str(next(iter(found.__path__))) if hasattr(found, "__path__") else str(found.__file__)


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


def make_baseline(section: BaselineSection, data: Data) -> Iterator[Record | baselines.Baseline]:
    """`baseline.make` as a Ray task, on all cores of a node (and a GPU where there is one)."""
    cores, gpus = _largest()

    @ray.remote(num_cpus=cores, num_gpus=gpus, num_returns="streaming", max_retries=2)
    def task(section: BaselineSection, data: Data) -> Any:
        torch.set_num_threads(int(cores))
        yield from baselines.make(section, data, device(gpus))

    references: Any = task.remote(section, data)
    for reference in references:
        yield ray.get(reference)


def on_device_alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """`work(*arguments, device)` as a Ray task on all cores of a node (and a GPU where there is one), one thread."""
    cores, gpus = _largest()

    @ray.remote(num_cpus=cores, num_gpus=gpus)
    def task(*arguments: Any) -> Any:
        torch.set_num_threads(1)
        return work(*arguments, device(gpus))

    return ray.get(task.remote(*arguments))  # as arguments they may be large, captured by the function not


def here() -> NodeAffinitySchedulingStrategy:
    """On the driver's own node: what is lost with that is lost with the study."""
    return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=True)


def device(gpus: float) -> torch.device:
    """The device of a trial or task that was given this much of a GPU."""
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def _largest() -> tuple[float, int]:
    """CPUs and GPUs (one, or none) of the largest node; where there are GPUs, of those that have one."""
    nodes: Iterable[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cores = max((min(1, int(node.get("GPU", 0))), node.get("CPU", 1.0)) for node in nodes)
    return cores, gpus
