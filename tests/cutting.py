"""Pruning step by step, with the settings of a test as keywords."""

from typing import Any

from pruning import pipeline
from pruning.settings import Granularity, PruneSettings


def begin(model: Any, images: Any, granularity: Any = "weight", protect: Any = ()) -> Any:
    """`pipeline.begin` for a granularity by name."""
    settings = PruneSettings(granularity=Granularity(granularity), protect=tuple(protect))
    return pipeline.begin(model, images, settings)


def score(pruned: Any, criterion: Any, batches: Any = (), generator: Any = None, **settings: Any) -> Any:
    """`pipeline.score` by this criterion."""
    return pipeline.score(pruned.with_settings(criterion=criterion, **settings), batches, generator)


def prune_to(
    pruned: Any, sparsity: Any, batches: Any = (), generator: Any = None, scores: Any = None, **settings: Any
) -> Any:
    """`pipeline.prune_to` with these settings in place of those the network began with."""
    return pipeline.prune_to(pruned.with_settings(**{"only": None, **settings}), sparsity, batches, generator, scores)
