"""Scores of the baseline, cached for all workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray

from study.execution.remote import on_this_node
from study.trials.context import ScoreArrays

LEASE_SECONDS = 300.0  # after which scores that a worker began to compute, and did not bring, are another's to compute


class ScoreCacheActor:
    """Ray actor that caches baseline scores.

    The first caller of a key gets a lease to compute it; others wait for the result.
    """

    def __init__(self) -> None:
        self._leases: dict[str, float] = {}
        self._kept: dict[str, list[ray.ObjectRef]] = {}

    def claim(self, key: str) -> list[ray.ObjectRef] | bool:
        """The scores under `key` (in a list: Ray would resolve a bare reference); or whether to compute them."""
        if key in self._kept:
            return self._kept[key]
        free = self._leases.get(key, 0) < time.monotonic()
        if free:
            self._leases[key] = time.monotonic() + LEASE_SECONDS
        return free

    def keep(self, key: str, scores: ScoreArrays | None) -> None:
        """Cache what was computed; None: it could not be, the next caller may try."""
        self._leases.pop(key, None)
        if scores is not None:
            self._kept[key] = [ray.put(scores)]


class ClusterScoreStore:
    """The score store of a cluster: each worker's handle to the one cache actor."""

    def __init__(self) -> None:
        placed: Any = ray.remote
        self._actor = placed(num_cpus=0, scheduling_strategy=on_this_node())(ScoreCacheActor).remote()

    def __call__(self, key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays:
        """The scores under `key`, computed here if nobody else has or is about to."""
        found: Any
        while not (found := ray.get(self._actor.claim.remote(key))):
            time.sleep(0.2)
        if isinstance(found, list):
            found = ray.get(found[0])
            return found
        scores: ScoreArrays | None = None
        try:
            scores = compute()
            return scores
        finally:
            ray.get(self._actor.keep.remote(key, scores))
