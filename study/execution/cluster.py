"""Connects to a Ray cluster, or starts one, and sends it the code."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import models
from study import PACKAGES, ROOT, find_own_packages
from study.config import RefusedError, StudyFile
from study.execution import ray_adapter

# Of OpenMP, read when torch is imported. By default threads spin at barriers: fastest on an idle machine, but where
# others compute too, they wait for threads that do not run (`python -m benchmarks.shared_machine`).
WAIT_POLICY = "OMP_WAIT_POLICY"
CONTENDED = 0.25  # load per core above which threads yield instead
_HOOK = f"{find_own_packages.__module__}.{find_own_packages.__name__}"  # run by each worker as it starts


@contextmanager
def cluster(address: str | None, file: StudyFile, staging: Path) -> Iterator[str]:
    """Connects to the Ray cluster at `address`, or starts a local one; yields the dashboard's URL, or "".

    A remote cluster is sent the code, user modules included, so its nodes need only the installed packages.

    Args:
      address: of a cluster; None: start a local one.
      file: the study file.
      staging: a folder where code is put together that is to be sent.

    Raises:
      RefusedError: no cluster at `address`, or Ray Client (`ray://`): the searcher would run far from its journal.
    """
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    try:
        arguments = _init_arguments(address, file, staging)
        context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **arguments)
    except (ConnectionError, ValueError) as error:
        raise RefusedError(
            f"--address {address}: cannot reach a Ray cluster there: {error}; if it needs a token (`ray start` does "
            f"where ~/.ray/auth_token exists), set RAY_AUTH_MODE=token and put the token in that file"
        ) from None
    for path in _own_files(file):  # other processes cannot import it by name, to unpickle a network of its classes
        ray.cloudpickle.register_pickle_by_value(models.file_module(path))
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def _init_arguments(address: str | None, file: StudyFile, staging: Path) -> dict[str, Any]:
    if ray_adapter.JOB_CONFIG in os.environ:  # submitted as a Ray job, which includes the code
        return {"address": address or "auto"}
    if address and address.startswith("ray://"):
        raise RefusedError(
            f"--address {address}: a study does not run through Ray Client; run the command on the head node with "
            f"--address auto, or submit it: ray job submit --address http://HEAD:8265 --working-dir . -- python -m ..."
        )
    environment: dict[str, Any] = {"worker_process_setup_hook": _HOOK} if _has_name_clash() else {}
    if address:
        ray_adapter.connect_once()
        return {"address": address, "runtime_env": {"py_modules": code(file, staging), **environment}}
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > CONTENDED * (os.cpu_count() or 1):
        os.environ.setdefault(WAIT_POLICY, "passive")
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
