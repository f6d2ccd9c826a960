"""Connects to a Ray cluster, or starts one, and sends it the code."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from study.config import Refused, StudyFile
from study.execution import ray_adapter

PACKAGES = ("study", "pruning", "models", "search_spaces", "analysis")


@contextmanager
def cluster(address: str | None, file: StudyFile) -> Iterator[str]:
    """Connects to the Ray cluster at `address`, or starts a local one; yields the dashboard's URL, or "".

    A remote cluster is sent the code, user modules included, so its nodes need only the installed packages.

    Raises:
      Refused: no cluster at `address`, or Ray Client (`ray://`), where the searcher would run far from its journal.
    """
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a lost worker becomes a row, not a traceback
    try:
        context = ray.init(logging_level=logging.ERROR, log_to_driver=False, **_init_arguments(address, file))
    except (ConnectionError, ValueError) as error:
        raise Refused(
            f"--address {address}: cannot reach a Ray cluster there: {error}; if it needs a token (`ray start` does "
            f"where ~/.ray/auth_token exists), set RAY_AUTH_MODE=token and put the token in that file"
        ) from None
    try:
        yield f"http://{context.dashboard_url}" if context.dashboard_url else ""
    finally:
        ray.shutdown()


def _init_arguments(address: str | None, file: StudyFile) -> dict[str, Any]:
    if ray_adapter.JOB_CONFIG in os.environ:  # submitted as a Ray job, which includes the code
        return {"address": address or "auto"}
    if address and address.startswith("ray://"):
        raise Refused(
            f"--address {address}: a study does not run through Ray Client; run the command on the head node with "
            f"--address auto, or submit it: ray job submit --address http://HEAD:8265 --working-dir . -- python -m ..."
        )
    if address:
        return {"address": address, "runtime_env": {"py_modules": code(file)}}
    # Workers import user modules (model, criterion) from the current directory.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    return {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1"}


def code(file: StudyFile) -> list[str]:
    """Paths of the project's packages, and of the modules that the study file names unless pip installed them."""
    named = [file.baseline.model, *file.values("criterion")]
    modules = {name.split(":")[0].split(".")[0] for name in named if ":" in name}
    ours = [str(Path(__file__).parents[2] / name) for name in PACKAGES]
    return ours + sorted(path for path in map(_module_path, modules) if "site-packages" not in path)


def _module_path(name: str) -> str:
    module = importlib.import_module(name)
    return str(next(iter(module.__path__))) if hasattr(module, "__path__") else str(module.__file__)
