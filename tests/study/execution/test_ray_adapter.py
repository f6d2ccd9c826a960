"""Each private thing of Ray's that is used, and that it behaves as is assumed: an upgrade that lacks one says so.

Ray is not started. The adapter is imported within the tests, so that they can say what is wrong even where that fails.
"""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import OutOfMemoryError, RayActorError

FILE = Path(__file__).parents[3] / "study" / "execution" / "ray_adapter.py"
MANAGER = "ray.air.execution._internal.actor_manager"
BREAKS = {  # private name -> what no longer works without it
    MANAGER: "the adapter, and with it every study, cannot be imported",
    "_actor_task_failed": "a worker that Ray kills for its memory ends the whole study",
    "_raylet": "the dashboard shows a reused worker under the name of its first trial",
    "setproctitle": "the dashboard shows a reused worker under the name of its first trial",
    "ray._private": "a wrong --address is refused after 14 minutes only",
    "NUM_REDIS_GET_RETRIES": "a wrong --address is refused after 14 minutes only",
    "RAY_worker_niceness": "trials get next to no time beside other programs",
    "RAY_JOB_CONFIG_JSON_ENV_VAR": "a study submitted by `ray job submit` starts a Ray of its own inside the cluster",
}


def need(holds: Any, name: Any) -> None:
    """Fail where Ray is no longer as the adapter has it."""
    assert holds, f"Ray {ray.__version__} changed {name!r}: {BREAKS[name]}. To be mended in {FILE.name}"


def manager_class() -> Any:
    try:
        return importlib.import_module(MANAGER).RayActorManager
    except (ImportError, AttributeError):
        return need(False, MANAGER)


def test_every_private_name_that_the_adapter_uses_is_listed_here() -> None:
    tree = ast.parse(FILE.read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and "._" in str(n.module)}
    used = {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr.startswith("_") and n.attr[1] != "_"
    }
    assert modules | used <= set(BREAKS)
    assert [name for name in BREAKS if name not in FILE.read_text()] == []


def test_tune_tells_its_actor_manager_of_a_failed_task_by_these_names() -> None:
    found = getattr(manager_class(), "_actor_task_failed", None)
    need(callable(found), "_actor_task_failed")
    from study.execution import ray_adapter

    need(
        list(inspect.signature(ray_adapter._task_failed).parameters)[1:] == ["tracked_actor_task", "exception"],
        "_actor_task_failed",
    )
    source = inspect.getsource(sys.modules[MANAGER])
    need("self._actor_task_failed(" in source, "_actor_task_failed")  # or what takes its place is called by nobody


def failed(exception: Any, method: Any) -> Any:
    """What becomes of an actor whose task failed: whether it counts as failed, and what its callbacks got."""
    told = []
    actor = SimpleNamespace(actor_id="a", _on_error=lambda actor, error: told.append(error))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, error: told.append(error))
    manager = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    method(manager, tracked_actor_task=task, exception=exception)
    return manager._failed_actor_ids == {"a"}, told


def test_an_actor_killed_for_its_memory_counts_as_one_that_died() -> None:
    from study.execution import ray_adapter

    died = RayActorError(error_msg="it died")
    need(failed(died, ray_adapter._task_failed) == (True, [died, died]), "_actor_task_failed")
    counts, told = failed(OutOfMemoryError("running low on memory"), manager_class()._actor_task_failed)
    need(counts and all(isinstance(error, RayActorError) for error in told), "_actor_task_failed")
    need("running low on memory" in str(told[0]), "_actor_task_failed")


def test_without_the_adapter_tune_still_gives_up_on_it() -> None:
    """Once this fails, Ray has learnt it, and the adapter's own way can go."""
    from study.execution import ray_adapter

    with pytest.raises(RuntimeError, match="unexpected exception"):
        failed(OutOfMemoryError("running low on memory"), ray_adapter._task_failed)


def test_a_process_can_be_given_a_title() -> None:
    need(hasattr(ray, "_raylet"), "_raylet")
    need(callable(getattr(ray._raylet, "setproctitle", None)), "setproctitle")
    program = (
        "from study.execution import ray_adapter as adapter; adapter.set_title('ray::trial 0007'); "
        "print(open('/proc/self/cmdline').read())"
    )
    if sys.platform == "linux":
        where = FILE.parents[2]
        found = subprocess.run([sys.executable, "-c", program], cwd=where, capture_output=True, text=True, check=True)
        need("ray::trial 0007" in found.stdout, "setproctitle")


def test_a_submitted_job_is_known_by_its_environment() -> None:
    from study.execution import ray_adapter

    try:
        constants = importlib.import_module("ray._private.runtime_env.constants")
    except ImportError:
        need(False, "RAY_JOB_CONFIG_JSON_ENV_VAR")
    found = getattr(constants, "RAY_JOB_CONFIG_JSON_ENV_VAR", None)
    need(found == ray_adapter.JOB_CONFIG, "RAY_JOB_CONFIG_JSON_ENV_VAR")
