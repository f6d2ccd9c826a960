"""Runs trials with Ray Tune: reused actors, results sent to the driver, lost trials run again on other workers."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from study.config import Resources
from study.execution import remote
from study.execution.allotment import Allotment
from study.execution.score_cache import ClusterScoreStore
from study.execution.trainable import Trainable
from study.execution.tune_adapters import EarlyStoppingAdapter, ResultListener, SearcherAdapter
from study.results.handlers import TrialHandlers
from study.trials.context import TrialContext


def run_trials(
    context: TrialContext,
    resources: Resources,
    allotted: Allotment,
    handlers: TrialHandlers,
    temporary: Path | None = None,
) -> None:
    """Run trials from `handlers.ask` until it returns None.

    Trials that ran out of memory on a shared GPU run again after the others have ended, each alone on a device.

    Args:
      context: shared by all trials.
      resources: as the study file asks for them; a trial has as many threads as `cpus`.
      allotted: resources of each trial, and how many run at once.
      handlers: the driver's callbacks.
      temporary: a folder for Tune's files, which are removed again; None: the system's.
    """
    context = context._replace(score_store=ClusterScoreStore())
    each, at_once, devices = allotted
    searcher = SearcherAdapter(handlers.ask)

    def fit(searcher: SearcherAdapter, each: dict[str, float], at_once: int, shares: bool) -> None:
        parameters = {"context": context, "allotted": each, "resources": resources}
        trainable = tune.with_resources(tune.with_parameters(Trainable, **parameters), _placement(each))
        listener = ResultListener(searcher, handlers.report, handlers.interrupted, shares, context.minutes)
        stopper = EarlyStoppingAdapter(searcher, handlers.epoch, handlers.screened)
        with tempfile.TemporaryDirectory(dir=temporary, ignore_cleanup_errors=True) as storage:
            _fit(trainable, at_once, searcher, listener, stopper, storage)

    fit(searcher, each, at_once, each["gpu"] > 0)
    while searcher.short:
        alone = SearcherAdapter(partial(next, iter(searcher.short), None))
        searcher.short = []
        fit(alone, each | {"gpu": max(1.0, each["gpu"])}, devices, False)
        fit(searcher, each, at_once, each["gpu"] > 0)


def _placement(each: dict[str, float]) -> tune.PlacementGroupFactory:
    """Where a trial may run: on any node with room for it that can run trials."""
    bundle: dict[str, int | float] = {name.upper(): amount for name, amount in each.items()}
    where: Any = {"bundle_label_selector": [remote.usable()]} if remote.usable() else {}
    return tune.PlacementGroupFactory([bundle], **where)


def _fit(
    trainable: Any,
    at_once: int,
    searcher: SearcherAdapter,
    listener: ResultListener,
    stopper: EarlyStoppingAdapter,
    storage: str,
) -> None:
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher, num_samples=-1, max_concurrent_trials=at_once, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=storage,
            name="trials",
            verbose=0,
            stop=stopper,
            callbacks=[listener],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    tuner.fit()
