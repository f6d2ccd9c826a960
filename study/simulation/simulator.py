"""Simulates a search on recorded trials, in simulated time."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from analysis.statistics import measures
from study.config import Recipe
from study.search.trial_store import SCREENED
from study.selection.candidates import choose
from study.selection.early_stopping import Promoter, Stopper, after_last_cut
from study.simulation.recorded import Recorded, RecordedTrial
from study.simulation.searchers import UNINFORMED, OptunaSearcher, UninformedSearcher, searchers


class SimulatedSearch(NamedTuple):
    """The result of a simulated search.

    Attributes:
      compute: after each ended trial, the total seconds of training so far.
      volume: after each ended trial, the hypervolume.
      measures: after each ended trial, those of `analysis.statistics.measures`, (n, len(NAMES)).
      stopped: number of trials stopped early or left paused, without candidates that were only screened.
      makespan: simulated seconds from the start to the end of the last trial.
      idle: fraction of the workers' time spent waiting for the driver, until the last trial started.
      driver: measured seconds per trial in the driver, on this machine.
    """

    compute: npt.NDArray[np.float64]
    volume: npt.NDArray[np.float64]
    measures: npt.NDArray[np.float64]
    stopped: int
    makespan: float
    idle: float
    driver: float

    def at(self, compute: float) -> float:
        """The hypervolume after this many seconds of training."""
        reached = self._ended(compute)
        return float(self.volume[reached - 1]) if reached else 0.0

    def measures_at(self, compute: float) -> npt.NDArray[np.float64]:
        """The measures after this many seconds of training."""
        reached = self._ended(compute)
        return self.measures[reached - 1] if reached else np.zeros(self.measures.shape[1])

    def _ended(self, compute: float) -> int:
        return int(np.searchsorted(self.compute, compute, side="right"))


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
    screen: int = 1,
) -> SimulatedSearch:
    """Simulate a search until its budget of trials or training time is spent.

    Args:
      recorded: recorded trials, which replace training.
      searcher: its name, see `searchers`.
      seed: of the searcher.
      trials: maximum number of trials to start.
      compute: seconds of training in ended trials after which no trial starts.
      stopper: for early stopping, or None. Trials that a `Promoter` pauses start over when they go on elsewhere.
      workers: trials that run in parallel.
      overhead: seconds per trial of the driver, in addition to the measured time of the searcher.
      screen: candidates of which one is trained; 1: no screening.

    Raises:
      ValueError: unknown searcher, or screening of trials that were recorded without.
    """
    if searcher not in searchers():
        raise ValueError(f"unknown sampler {searcher!r}; choices: {', '.join(searchers())}")
    if screen > 1 and any(run.screened is None for run in recorded.runs):
        raise ValueError("screening cannot be simulated with trials that were not screened")
    search = (UninformedSearcher if searcher in UNINFORMED else OptunaSearcher)(recorded.file, searcher, seed)
    queue = [(0.0, worker) for worker in range(workers)]  # (time of the worker's next event, worker)
    running: dict[int, _RunningTrial] = {}
    paused: dict[str, tuple[_RunningTrial, int, int]] = {}  # name -> trial, its epochs, and worker
    done: set[int] = set()
    curve: list[tuple[float, float, int]] = []  # compute, hypervolume and number of networks after each ended trial
    screening = recorded.screening * screen if screen > 1 else 0.0  # seconds before each trial
    earlier: list[tuple[float, float]] = []  # accuracy and sparsity of screened candidates
    order: list[int] = []  # recorded trials in the order in which they were first reached
    spent = volume = makespan = driver_free = waited = measured = 0.0
    started = stops = 0
    while queue:
        now, worker = heapq.heappop(queue)
        clock = time.perf_counter()
        if worker in running:
            trial = running[worker]
            try:
                heapq.heappush(queue, (trial.started + next(trial.events), worker))
                continue
            except StopIteration as end:
                epochs = int(end.value)
            del running[worker]
            stopped = epochs < len(recorded.runs[trial.run].epochs)
            if stopped and isinstance(stopper, Promoter):
                paused[trial.name] = trial, epochs, worker
            else:
                search.tell(trial.handle, None if stopped else recorded.runs[trial.run].values)
                stops += stopped
            spent, makespan = spent + trial.screening + now - trial.started, now
            if not stopped and trial.run not in done:
                done.add(trial.run)
                order.append(trial.run)
                volume = recorded.volume(done)
            curve.append((spent, volume, len(order)))
        best = stopper.promoted(paused) if isinstance(stopper, Promoter) else None
        if spent >= compute or not (best or started < trials):
            if spent < compute and running:  # perhaps a result will promote a trial
                later = min(at for at, other in queue if other in running)
                heapq.heappush(queue, (math.nextafter(later, math.inf), worker))
        elif best:
            trial, epochs, kept_by = paused.pop(best)
            events = _events(recorded.runs[trial.run], best, stopper, epochs, kept_by == worker)
            running[worker] = trial._replace(started=now, events=events, screening=0.0)
            heapq.heappush(queue, (now + next(events), worker))
        else:
            handle, run = _candidate(search, recorded, screen, earlier)
            events = _events(recorded.runs[run], str(started), stopper)
            took = time.perf_counter() - clock
            measured += took
            driver_free = max(now, driver_free) + took + overhead
            waited += driver_free - now
            begin = driver_free + screening
            running[worker] = _RunningTrial(str(started), handle, run, begin, screening, events)
            heapq.heappush(queue, (begin + next(events), worker))
            started += 1
    columns = np.array(curve).T
    found = np.vstack([np.zeros(len(measures.NAMES)), recorded.progress(order)])[columns[2].astype(int)]
    idle = waited / (driver_free * workers) if driver_free else 0.0
    each = measured / max(1, started)
    return SimulatedSearch(columns[0], columns[1], found, stops + len(paused), makespan, min(idle, 1.0), each)


def _candidate(
    search: OptunaSearcher | UninformedSearcher, recorded: Recorded, count: int, earlier: list[tuple[float, float]]
) -> tuple[Any, int]:
    """The chosen one of so many candidates, and its recorded trial; their points are added to `earlier`."""
    asked = [search.ask() for _ in range(count)]
    runs = [recorded.nearest(recipe) for _, recipe in asked]
    if count == 1:
        return asked[0][0], runs[0]
    points = [(recorded.runs[run].screened or 0.0, recorded.runs[run].point[1]) for run in runs]
    rows = [{"error": None, "screened_accuracy": accuracy, "sparsity": sparsity} for accuracy, sparsity in points]
    chosen = choose(rows, earlier[-SCREENED:])
    earlier += points
    for number, (handle, _) in enumerate(asked):
        if number != chosen:
            search.hide(handle)
    return asked[chosen][0], runs[chosen]


class _RunningTrial(NamedTuple):
    """A trial on a worker.

    name: to the stopper. handle: the searcher's. run: index of the recorded trial. started: when it began, or went on.
    screening: seconds before. events: to come, in seconds since it started.
    """

    name: str
    handle: Any
    run: int
    started: float
    screening: float
    events: Generator[float, None, int]


def _events(
    run: RecordedTrial, name: str, stopper: Stopper | None, done: int = 0, kept: bool = False
) -> Generator[float, None, int]:
    """Yields the times of a trial's events (epochs, end) in seconds after its start; returns how many epochs it ran.

    Of a trial that goes on, `done` epochs are done; if its network was kept, they are not run again.
    """
    before = run.epochs[done - 1][0] if kept else 0.0
    if stopper:
        recipe = Recipe(**run.recipe)
        for epoch, (seconds, accuracy) in list(enumerate(run.epochs, start=1))[done:]:
            yield seconds - before
            continues = stopper.continues(name, after_last_cut(recipe, epoch), accuracy, recipe.sparsity)
            if not continues and epoch < len(run.epochs):
                return epoch
    yield run.seconds - before
    return len(run.epochs)
