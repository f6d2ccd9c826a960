"""A Ray cluster: joining it, and sending it the code."""

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
    if ray_adapter.JOB_CONFIG in os.environ:  # submitted as a job, which has brought the code with it
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
    ours = [str(Path(__file__).parents[2] / name) for name in PACKAGES]
    return ours + sorted(place for place in map(_place, modules) if "site-packages" not in place)


def _place(module: str) -> str:
    found = importlib.import_module(module)
    return str(next(iter(found.__path__))) if hasattr(found, "__path__") else str(found.__file__)
