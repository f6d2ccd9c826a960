"""Connects to a Ray cluster, or starts one, and sends it the code."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

import models
from study import PACKAGES, ROOT, find_own_packages
from study.config import RefusedError, StudyFile
from study.execution import ray_adapter

_HOOK = f"{find_own_packages.__module__}.{find_own_packages.__name__}"  # run by each worker as it starts


@contextmanager
def cluster(address: str | None, file: StudyFile) -> Iterator[str]:
    """Connects to the Ray cluster at `address`, or starts a local one; yields the dashboard's URL, or "".

    A remote cluster is sent the code, user modules included, so its nodes need only the installed packages.

    Raises:
      RefusedError: no cluster at `address`, or Ray Client (`ray://`): the searcher would run far from its journal.
    """
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    try:
        with tempfile.TemporaryDirectory(prefix="pruning-study-") as parcels:
            arguments = _init_arguments(address, file, Path(parcels))
            context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **arguments)
    except (ConnectionError, ValueError) as error:
        raise RefusedError(
            f"--address {address}: cannot reach a Ray cluster there: {error}; if it needs a token (`ray start` does "
            f"where ~/.ray/auth_token exists), set RAY_AUTH_MODE=token and put the token in that file"
        ) from None
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def _init_arguments(address: str | None, file: StudyFile, parcels: Path) -> dict[str, Any]:
    if ray_adapter.JOB_CONFIG in os.environ:  # submitted as a job, which has brought the code with it
        return {"address": address or "auto"}
    if address and address.startswith("ray://"):
        raise RefusedError(
            f"--address {address}: a study does not run through Ray Client; run the command on the head node with "
            f"--address auto, or submit it: ray job submit --address http://HEAD:8265 --working-dir . -- python -m ..."
        )
    environment: dict[str, Any] = {"worker_process_setup_hook": _HOOK} if _others_are_here() else {}
    if address:
        return {"address": address, "runtime_env": {"py_modules": code(file, parcels), **environment}}
    # Ray puts the current folder, with the user's own modules, onto its workers' path; the project may be elsewhere.
    if "site-packages" not in ROOT.parts:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1", "runtime_env": environment}


def _others_are_here() -> bool:
    """Whether the current folder has packages of our names that are not ours.

    Ray's workers look there first, so they must know ours before. That costs each of them its quick start.
    """
    here = Path.cwd()
    return here != ROOT and any((here / name).exists() or (here / f"{name}.py").exists() for name in PACKAGES)


def code(file: StudyFile, parcels: Path) -> list[str]:
    """The folders and files of the project, and of the modules that the study file names and pip did not bring.

    A function that is named by its file travels in a folder of its own, which is made in `parcels`.
    """
    places = {name.rpartition(":")[0] for name in [file.baseline.model, *file.values("criterion")] if ":" in name}
    files = {place for place in places if place.endswith(".py")}
    modules = {place.split(".")[0] for place in places - files}
    ours = [str(ROOT / name) for name in PACKAGES]
    theirs = sorted(place for place in map(_module_path, modules) if "site-packages" not in place)
    return ours + theirs + [_parcelled(place, parcels) for place in sorted(files)]


def _parcelled(place: str, parcels: Path) -> str:
    folder = parcels / models.parcel(place)
    folder.mkdir(parents=True)
    shutil.copy(place, folder)
    return str(folder)


def _module_path(name: str) -> str:
    module = importlib.import_module(name)
    return str(next(iter(module.__path__))) if hasattr(module, "__path__") else str(module.__file__)
