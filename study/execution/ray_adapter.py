"""All uses of Ray's private API (Ray 2.60), each with the reason and the public API that would replace it.

`tests/study/execution/test_ray_adapter.py` checks each of them, so that an incompatible upgrade is noticed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

# Private: an environment variable that is set in a job of `ray job submit`, which includes the code. Replaceable by a
# public test whether this process is such a job.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Private: an environment variable that Ray reads when it starts on a node; its default, 15, leaves workers next to no
# time beside other programs. Replaceable by an argument of `ray.init`.
NICENESS = "RAY_worker_niceness"


def job_variables() -> dict[str, str] | None:
    """The environment variables that this process's job was submitted with; None if it is no job."""
    if JOB_CONFIG not in os.environ:
        return None
    environment = json.loads(os.environ[JOB_CONFIG]).get("runtime_env") or {}
    return dict(environment.get("env_vars") or {})


def connect_once() -> None:
    """Lets `ray.init` try an address once, not 20 times, which would take 14 minutes where there is no cluster.

    Private: `ray._private.ray_constants.NUM_REDIS_GET_RETRIES`. Replaceable by a timeout of `ray.init`.
    """
    ray_constants.NUM_REDIS_GET_RETRIES = 1


@contextmanager
def without_stderr() -> Iterator[None]:
    """Nothing that Ray's core writes to stderr is shown: lines of its own about what its error then tells."""
    shown, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        os.close(nowhere)


def in_short(error: RayError) -> str:
    """What an error of Ray's says, in one line without the traceback of another process."""
    if isinstance(error, RayTaskError):
        return " ".join(f"{type(error.cause).__name__}: {error.cause}".split())
    said, traceback, rest = str(error).partition("Traceback (most recent call last):")
    last = rest.strip().rpartition("\n")[2] if traceback else ""
    return " ".join(f"{said[:300]} {last}".split())


# Private: `ray._raylet.setproctitle`. Shows the current trial in the dashboard, where a reused actor keeps the name of
# its first trial. Replaceable by a mutable actor name.
set_title: Callable[[str], None] = getattr(ray._raylet, "setproctitle", lambda title: None)

_task_failed = RayActorManager._actor_task_failed


def _task_failed_or_killed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """Treats an actor that Ray killed for lack of memory as a dead actor.

    Otherwise Tune aborts the study, since it does not expect this error. Private:
    `RayActorManager._actor_task_failed`. Unnecessary once Tune treats OutOfMemoryError like RayActorError.
    """
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    _task_failed(self, tracked_actor_task, exception)


setattr(RayActorManager, _task_failed.__name__, _task_failed_or_killed)
