"""Scores of the baseline, cached for all workers of a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ray

if TYPE_CHECKING:  # the actor's process needs nothing of torch, which takes seconds to import
    from study.trials.context import ScoreArrays

LEASE_SECONDS = 300.0  # time a worker has to compute scores before another worker may


class ScoreCacheActor:
    """Ray actor that caches baseline scores.

    The first caller of a key gets a lease to compute it; others wait for the result.
    """

    def __init__(self) -> None:
        self._leases: dict[str, float] = {}
        self._scores: dict[str, list[ray.ObjectRef[Any]]] = {}

    def claim(self, key: str) -> list[ray.ObjectRef[Any]] | bool:
        """The cached scores (in a list, since Ray resolves a bare reference), or whether the caller computes them."""
        if key in self._scores:
            return self._scores[key]
        free = self._leases.get(key, 0) < time.monotonic()
        if free:
            self._leases[key] = time.monotonic() + LEASE_SECONDS
        return free

    def keep(self, key: str, scores: ScoreArrays | None) -> None:
        """Cache computed scores; None: the computation failed, and the next caller may try."""
        self._leases.pop(key, None)
        if scores is not None:
            self._scores[key] = [ray.put(scores)]


class ClusterScoreStore:
    """A worker's handle to the cluster's cache actor; see `study.trials.context.ScoreStore`."""

    def __init__(self) -> None:
        from study.execution.remote import on_this_node

        remote: Any = ray.remote
        self._actor = remote(num_cpus=0, scheduling_strategy=on_this_node())(ScoreCacheActor).remote()

    def __call__(self, key: str, compute: Callable[[], ScoreArrays]) -> ScoreArrays:
        """The scores under `key`, computed here unless they are cached or another worker computes them."""
        found: Any
        while not (found := ray.get(self._actor.claim.remote(key))):
            time.sleep(0.2)
        if isinstance(found, list):
            cached: Any = ray.get(found[0])
            return dict(cached)
        scores: ScoreArrays | None = None
        try:
            scores = compute()
            return scores
        finally:
            ray.get(self._actor.keep.remote(key, scores))
