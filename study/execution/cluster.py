"""Connects to a Ray cluster, or starts one, and sends it the code."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import models
from study import PACKAGES, ROOT, find_own_packages
from study.config import RefusedError, StudyFile
from study.execution import ray_adapter, remote

# Of OpenMP, read when torch is imported. By default threads spin at barriers: fastest on an idle machine, but where
# others compute too, they wait for threads that do not run (`python -m benchmarks.shared_machine`).
WAIT_POLICY = "OMP_WAIT_POLICY"
CONTENDED = 0.25  # load per core above which threads yield instead
NODE_SECONDS = 120.0  # in which a node must show that it can run trials; most of it is spent importing torch
LOST_SECONDS = 40.0  # without the head, after which a study is ended
_HOOK = f"{find_own_packages.__module__}.{find_own_packages.__name__}"  # run by each worker as it starts


@contextmanager
def cluster(address: str | None, file: StudyFile, staging: Path, images: str | None = None) -> Iterator[str]:
    """Connects to the Ray cluster at `address`, or starts a local one; yields the dashboard's URL, or "".

    A remote cluster is sent the code, user modules included, so its nodes need only the installed packages.

    Args:
      address: of a cluster; None: start a local one.
      file: the study file.
      staging: a folder for code that is to be sent, and for temporary files of a local cluster's processes.
      images: path of a file that every node must have: images too large to be sent.

    Nodes that cannot run trials are named in a warning and left out.

    Raises:
      RefusedError: no cluster at `address`, it refuses the token, or none of its nodes can run trials.
      ConnectionError: the cluster was lost in between.
    """
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    try:
        arguments = _init_arguments(address, file, staging)
        joins = arguments["address"] != "local"
        with ray_adapter.without_stderr() if joins else _temporary_files_in(staging):
            context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **arguments)
    except (ConnectionError, ValueError, AuthenticationError) as error:
        raise RefusedError(f"--address {address}: {_reason(error)}") from None
    for path in _own_files(file):  # other processes cannot import it by name, to unpickle a network of its classes
        ray.cloudpickle.register_pickle_by_value(models.file_module(path))
    head = ray.get_runtime_context().gcs_address
    with _watched(head) if joins else nullcontext():
        try:
            remote.leave_out(_unfit(images) if joins else ())
            yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
        except RayError as error:
            if isinstance(error, RayTaskError) or not joins:  # failed by itself, not for lack of the head
                raise
            raise ConnectionError(_lost(head, ray_adapter.in_short(error))) from error
        finally:
            ray.shutdown()


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Processes started in this context have their temporary files in `folder`: Ray leaves an empty one per cluster.

    Ray's sessions stay where they are, since the path of a socket in one must not be long.
    """
    before = {name: os.environ.get(name) for name in ("TMPDIR", "RAY_TMPDIR")}
    os.environ.setdefault("RAY_TMPDIR", (sys.platform == "linux" and before["TMPDIR"]) or "/tmp")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {name: value} if value is not None else {}


def _lost(head: str, reason: str) -> str:
    return (
        f"the head of the Ray cluster, {head}, was lost or started again ({reason}); start what is missing "
        f"(`ray status` there tells), then go on"
    )


@contextmanager
def _watched(head: str) -> Iterator[None]:
    """Ends this process, with exit code 1 and a message, if nobody accepts connections at `head` any more.

    Calls of Ray's then wait without an end that Python sees, until after a minute Ray's core ends the process itself.
    What is finished is in the journal by then.
    """
    over = threading.Event()
    host, _, port = head.rpartition(":")

    def watch() -> None:
        seen = time.monotonic()
        while not over.wait(2):
            with contextlib.suppress(OSError):
                socket.create_connection((host.strip("[]"), int(port)), 5).close()
                seen = time.monotonic()
            if time.monotonic() - seen > LOST_SECONDS:
                problem = _lost(head, f"no connection for {LOST_SECONDS:g} seconds")
                print(f"error: the study failed: {problem} with --resume", file=sys.stderr, flush=True)
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _reason(error: Exception) -> str:
    """Why a cluster could not be joined; Ray has the reason in the error that it turned into this one."""
    text = f"{error} {error.__cause__}"
    if isinstance(error, AuthenticationError) or AuthenticationError.__name__ in text:
        return (
            "the Ray cluster there refuses this command's token; set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token "
            "from the cluster's first machine to this one (or set RAY_AUTH_TOKEN)"
        )
    return (
        f"no Ray cluster answers there: {error}; `ray status` on the first machine tells whether it runs, "
        f"`ray start --head` starts it"
    )


def _unfit(images: str | None) -> list[str]:
    """Ids of nodes that cannot run trials: each is tried and named in a warning. Raises RefusedError if none can."""

    @ray.remote(num_cpus=0, max_retries=0)
    def attempt() -> str:
        import importlib

        try:  # all imports are in here: one outside fails as Ray unpickles this function, with a text of its own
            importlib.import_module("study.execution.trainable")
            return str(importlib.import_module("study.execution.cluster").lack(images))
        except ImportError as error:
            return f"{type(error).__name__}: {error}"

    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    attempts = {
        name: attempt.options(scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote()
        for name in nodes
    }
    ray.wait(list(attempts.values()), num_returns=len(attempts), timeout=NODE_SECONDS)
    reasons = {name: reason for name, reference in attempts.items() if (reason := _outcome(reference))}
    said = [
        f"node {nodes[name]['NodeManagerAddress']} ({nodes[name]['NodeManagerHostname']}) cannot run trials: {reason}"
        for name, reason in reasons.items()
    ]
    advice = "; it needs the packages of this environment (pip install), the cluster's token, and room on its disk"
    if len(reasons) == len(nodes):
        raise RefusedError("; ".join(said) + advice)
    for line in said:
        print(f"warning: {line}{advice}. The study goes on without it", file=sys.stderr, flush=True)
    return list(reasons)


def lack(images: str | None) -> str:
    """What this node lacks to run trials: room for temporary files, or the images; "" if nothing."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(2**20))
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    if images and not Path(images).is_file():
        shared = "let STUDY_CACHE be on a disk that all nodes share, or copy this folder to the same place there"
        return f"it has no {images}, and images of this size are not sent ({shared})"
    return ""


def _outcome(reference: Any) -> str:
    """What went wrong with an attempt on a node, in one line; "" if nothing."""
    try:
        return str(ray.get(reference, timeout=0))
    except GetTimeoutError:
        return f"no answer within {NODE_SECONDS:g} seconds"
    except RayError as error:
        return ray_adapter.in_short(error)


def _init_arguments(address: str | None, file: StudyFile, staging: Path) -> dict[str, Any]:
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > CONTENDED * (os.cpu_count() or 1):
        os.environ.setdefault(WAIT_POLICY, "passive")
    policy = {name: os.environ[name] for name in (WAIT_POLICY,) if name in os.environ}
    if (job := ray_adapter.job_variables()) is not None:  # submitted as a Ray job, which includes the code
        added = {name: value for name, value in policy.items() if name not in job}  # Ray refuses a variable set twice
        return {"address": address or "auto", "runtime_env": {"env_vars": added}}
    environment: dict[str, Any] = {"worker_process_setup_hook": _HOOK} if _has_name_clash() else {}
    if address:
        ray_adapter.connect_once()
        return {
            "address": address,
            "runtime_env": {"py_modules": code(file, staging), "env_vars": policy, **environment},
        }
    os.environ[ray_adapter.NICENESS] = str(file.resources.niceness)
    # Ray adds the current folder, with user modules, to the workers' path; the project may be in another folder.
    if "site-packages" not in ROOT.parts:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1", "runtime_env": environment}


def _has_name_clash() -> bool:
    """Whether the current folder has other packages with the names of ours.

    Workers search that folder first, so a setup hook must find ours before; it makes each worker start more slowly.
    """
    current = Path.cwd()
    return current != ROOT and any((current / name).exists() or (current / f"{name}.py").exists() for name in PACKAGES)


def code(file: StudyFile, staging: Path) -> list[str]:
    """Paths of the project's packages, and of the modules that the study file names unless pip installed them.

    A file named by a function's path is copied into its own folder in `staging`.
    """
    files = _own_files(file)
    modules = {source.split(".")[0] for source in _own_sources(file) - files}
    packages = [str(ROOT / name) for name in PACKAGES]
    user_modules = sorted(path for path in map(_module_path, modules) if "site-packages" not in path)
    return packages + user_modules + [_staged(path, staging) for path in sorted(files)]


def _own_sources(file: StudyFile) -> set[str]:
    return {name.rpartition(":")[0] for name in [file.baseline.model, *file.values("criterion")] if ":" in name}


def _own_files(file: StudyFile) -> set[str]:
    return {source for source in _own_sources(file) if source.endswith(".py")}


def _staged(path: str, staging: Path) -> str:
    folder = staging / models.parcel(path)
    folder.mkdir(parents=True)
    shutil.copy(path, folder)
    return str(folder)


def _module_path(name: str) -> str:
    module = importlib.import_module(name)
    return str(next(iter(module.__path__))) if hasattr(module, "__path__") else str(module.__file__)
