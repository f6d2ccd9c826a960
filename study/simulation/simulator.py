"""A search in simulated time, on recorded trials."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from study.config import Recipe
from study.search.early_stopping import Stopper, after_last_cut
from study.simulation.recorded import Recorded, Run
from study.simulation.searchers import LISTED, _List, _Model, searchers


class Course(NamedTuple):
    """How a replayed search went: after each ended trial the seconds of training spent in all, and the hypervolume.

    makespan: simulated seconds from the first trial's start to the last one's end. idle: share of the workers' time,
    until the last trial was handed out, that they waited for the driver. driver: measured seconds a trial took here.
    """

    compute: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    stopped: int
    makespan: float
    idle: float
    driver: float

    def at(self, compute: float) -> float:
        """The hypervolume when so many seconds had been spent."""
        reached = int(np.searchsorted(self.compute, compute, side="right"))
        return float(self.volume[reached - 1]) if reached else 0.0


def replay(
    recorded: Recorded,
    searcher: str,
    seed: int,
    *,
    trials: float = math.inf,
    compute: float = math.inf,
    stopper: Stopper | None = None,
    workers: int = 1,
    overhead: float = 0.0,
) -> Course:
    """Search until so many trials are handed out, or so many seconds of training are spent in ended trials.

    Raises ValueError for an unknown searcher.
    """
    if searcher not in searchers():
        raise ValueError(f"unknown sampler {searcher!r}; choices: {', '.join(searchers())}")
    source = (_List if searcher in LISTED else _Model)(recorded.file, searcher, seed)
    queue = [(0.0, worker) for worker in range(workers)]  # when something happens at which worker
    running: dict[int, _Trial] = {}
    done: set[int] = set()
    course: list[tuple[float, float]] = []
    spent = volume = makespan = driver_free = waited = measured = 0.0
    handed = stops = 0
    while queue:
        now, worker = heapq.heappop(queue)
        began = time.perf_counter()
        if worker in running:
            trial = running[worker]
            try:
                heapq.heappush(queue, (trial.started + next(trial.story), worker))
                continue
            except StopIteration as end:
                stopped = bool(end.value)
            del running[worker]
            source.tell(trial.handle, None if stopped else recorded.runs[trial.run].values)
            spent, makespan, stops = spent + now - trial.started, now, stops + stopped
            if not stopped and trial.run not in done:
                done.add(trial.run)
                volume = recorded.volume(done)
            course.append((spent, volume))
        if handed < trials and spent < compute:
            handle, recipe = source.ask()
            run = recorded.nearest(recipe)
            story = _story(recorded.runs[run], str(handed), stopper)
            took = time.perf_counter() - began
            measured += took
            driver_free = max(now, driver_free) + took + overhead
            waited += driver_free - now
            running[worker] = _Trial(handle, run, driver_free, story)
            heapq.heappush(queue, (driver_free + next(story), worker))
            handed += 1
    columns = np.array(course).T
    idle = waited / (driver_free * workers) if driver_free else 0.0
    return Course(columns[0], columns[1], stops, makespan, min(idle, 1.0), measured / max(1, handed))


class _Trial(NamedTuple):
    """A trial on a worker: the searcher's name for it, the run that stands in for it, its start, what is to come."""

    handle: Any
    run: int
    started: float
    story: Generator[float, None, bool]


def _story(run: Run, trial_id: str, stopper: Stopper | None) -> Generator[float, None, bool]:
    """The seconds after its start at which something happens to a trial; returns whether it was stopped."""
    if stopper:
        recipe = Recipe(**run.recipe)
        for epoch, (seconds, accuracy) in enumerate(run.epochs, start=1):
            yield seconds
            goes_on = stopper.continues(trial_id, after_last_cut(recipe, epoch), accuracy, recipe.sparsity)
            if not goes_on and epoch < len(run.epochs):
                return True
    yield run.seconds
    return False
