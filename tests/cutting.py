"""Pruning step by step, with the settings of a test as keywords."""

from pruning import pipeline
from pruning.settings import Granularity, PruneSettings


def begin(model, images, granularity="weight", protect=()):
    """`pipeline.begin` for a granularity by name."""
    settings = PruneSettings(granularity=Granularity(granularity), protect=tuple(protect))
    return pipeline.begin(model, images, settings)


def score(pruned, criterion, batches=(), generator=None, **settings):
    """`pipeline.score` by this criterion."""
    return pipeline.score(pruned.with_settings(criterion=criterion, **settings), batches, generator)


def prune_to(pruned, sparsity, batches=(), generator=None, scores=None, **settings):
    """`pipeline.prune_to` with these settings in place of those the network began with."""
    return pipeline.prune_to(pruned.with_settings(**{"only": None, **settings}), sparsity, batches, generator, scores)
