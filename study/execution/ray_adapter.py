"""All that is used of Ray's private names, each with its reason and what would replace it.

Ray 2.60. `tests/study/execution/test_ray_adapter.py` names each of them, so that an upgrade that lacks one is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

# Private: an environment variable that is set in a job submitted by `ray job submit`, which has brought the code with
# it. Would be replaced by a public way to ask whether this process is such a job.
JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"

# Private: `ray._raylet.setproctitle`. Shows the current trial in the dashboard, where an actor that is reused keeps the
# name of its first one. Would be replaced by an actor name that can change.
set_title: Callable[[str], None] = getattr(ray._raylet, "setproctitle", lambda title: None)

_task_failed = RayActorManager._actor_task_failed


def _task_failed_or_killed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
    """An actor that Ray killed for its memory counts as one that died.

    Tune stops a whole study for it, since it does not know this error as a way for actors to end. Private:
    `RayActorManager._actor_task_failed`. Would be replaced by Tune treating OutOfMemoryError as it does RayActorError.
    """
    if isinstance(exception, OutOfMemoryError):
        exception = RayActorError(error_msg=str(exception))
    _task_failed(self, tracked_actor_task, exception)


setattr(RayActorManager, _task_failed.__name__, _task_failed_or_killed)
