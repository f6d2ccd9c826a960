"""Searchers and early stopping tried out on what was recorded: any finished results folder stands in for training.

    python -m study.replay results/quickstart --sampler tpe --trials 200 --seeds 5 --stop-early 1,3
    python -m study.replay results/quickstart --sampler random --trials 100000 --workers 1000 --overhead 0.02

A recipe that a searcher asks for gets the objectives, the seconds and the history of the recorded recipe nearest to
it. Time is simulated: workers train side by side, and one driver serves them in turn, at the pace that this machine
takes for the searcher, plus `--overhead` seconds a trial for what is left out (the ledger, Ray).

Distance: the sum over the axes; two choices differ by 1 or 0, two values of a range by their share of it (of its
logarithm where the axis is logarithmic), and an axis that only one of the two recipes has counts 1.
"""

from __future__ import annotations

import argparse
import heapq
import math
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis import frame, pareto
from study import samplers
from study import space as spaces
from study.config import Recipe, StudyFile, parse
from study.stopping import Stopper, after_last_cut

Record = dict[str, Any]
SEARCHERS = (*samplers.SAMPLERS, "random", "grid")
LEVELS = 5  # of a range without step, in a grid


class Run(NamedTuple):
    """A recorded trial: its objectives, its seconds, and after each epoch the seconds so far and the accuracy."""

    recipe: Record
    values: tuple[float, ...]
    seconds: float
    epochs: list[tuple[float, float]]


class Recorded:
    """The complete search trials of a results folder. Raises ValueError where there are none."""

    def __init__(self, folder: Path) -> None:
        found = frame.read(folder)
        self.file = parse(found.study, str(folder / "study.yaml"))
        self.axes = self.file.axes
        rows = found.trials[(found.trials.kind == "search") & (found.trials.state == "complete")]
        rows = rows.dropna(subset=list(self.file.study.objectives))
        history = dict(tuple(found.history.groupby("trial_id")))
        self.runs = [self._run(row, history) for row in rows.to_dict("records")]
        if not self.runs:
            raise ValueError(f"{folder}: no complete trial to stand in for others")
        self._points = np.array([self._point(run.recipe) for run in self.runs])
        self._choice = np.array([axis.choices is not None for axis in self.axes.values()])
        worst = [0.0 if way == "max" else max(column) for way, column in zip(*self._columns(), strict=True)]
        self.reference, self.directions = worst, list(self.file.study.objectives.values())

    def _columns(self) -> tuple[list[str], list[tuple[float, ...]]]:
        return list(self.file.study.objectives.values()), list(zip(*(run.values for run in self.runs), strict=True))

    def _run(self, row: Mapping[Any, Any], history: Mapping[Any, Any]) -> Run:
        columns = {key: None if pd.isna(value) else value for key, value in row.items()}
        columns |= {"sparsity": row["requested_sparsity"], "protect": (columns["protect"] or "").split()}
        # What a trial takes beside its epochs (scores, the last evaluation) is taken as spent before them.
        lines, before = history.get(row["trial_id"]), row["wall_seconds"] - row["train_seconds"]
        epochs = [] if lines is None else zip(before + lines.seconds.cumsum(), lines.accuracy, strict=True)
        return Run(
            spaces.draw(self.axes, lambda key, axis: columns[key]),
            tuple(float(row[name]) for name in self.file.study.objectives),
            float(row["wall_seconds"]),
            [(float(seconds), float(accuracy)) for seconds, accuracy in epochs],
        )

    def _point(self, recipe: Mapping[str, Any]) -> list[float]:
        return [_place(axis, recipe[key]) if key in recipe else math.nan for key, axis in self.axes.items()]

    def nearest(self, recipe: Mapping[str, Any]) -> int:
        """The number of the recorded run nearest to a recipe; the first of several."""
        point = np.array(self._point(recipe))
        apart = np.abs(self._points - point)
        apart = np.where(self._choice, apart > 0, apart).astype(float)
        only_one = np.isnan(self._points) != np.isnan(point)
        return int(np.argmin(np.where(only_one, 1.0, np.nan_to_num(apart)).sum(axis=1)))

    def volume(self, runs: set[int]) -> float:
        """The hypervolume of these runs."""
        return pareto.hypervolume([self.runs[run].values for run in runs], self.directions, self.reference)


def _place(axis: spaces.Axis, value: Any) -> float:
    """Where a value lies on its axis: the number of the choice, or the share of the range."""
    if axis.choices is not None:
        return float([spaces.label(choice) for choice in axis.choices].index(spaces.label(value)))
    scale: Callable[[float], float] = math.log if axis.log else float
    low, high = scale(axis.low or 0.0), scale(axis.high or 0.0)
    return (scale(value) - low) / (high - low) if high > low else 0.0


class _Model:
    """A searcher of Optuna's."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        changed = {"search": "optuna", "sampler": name, "seed": seed, "start_with": ()}
        self._axes, self._name = file.axes, name
        self._study = samplers.in_memory(file.model_copy(update={"study": file.study.model_copy(update=changed)}))

    def ask(self) -> tuple[Any, Record]:
        trial = self._study.ask()
        return trial, samplers.draw(trial, self._axes, self._name)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        samplers.tell(self._study, trial, values)


class _List:
    """A searcher that learns nothing: recipes drawn at random, or those of a grid in random order, over and over."""

    def __init__(self, file: StudyFile, name: str, seed: int) -> None:
        self._recipes = _grid(file.axes, seed) if name == "grid" else _random(file.axes, seed)

    def ask(self) -> tuple[Any, Record]:
        return None, next(self._recipes)

    def tell(self, trial: Any, values: tuple[float, ...] | None) -> None:
        """Nothing is learned."""


def _random(axes: spaces.Axes, seed: int) -> Iterator[Record]:
    pick = spaces.picker(seed)
    while True:
        yield spaces.draw(axes, pick)


def _grid(axes: spaces.Axes, seed: int) -> Iterator[Record]:
    finite = {key: axis if axis.values() else axis.model_copy(update=_levels(axis)) for key, axis in axes.items()}
    points = list(spaces.grid(finite))
    generator = np.random.default_rng(seed)
    while True:
        for number in generator.permutation(len(points)):
            yield points[number]


def _levels(axis: spaces.Axis) -> Record:
    space = np.geomspace if axis.log else np.linspace
    kind = int if isinstance(axis.low, int) else float
    levels = space(axis.low or 0.0, axis.high or 0.0, LEVELS)
    return {"choices": tuple(dict.fromkeys(kind(level) for level in levels)), "low": None, "high": None, "log": False}


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
    if searcher not in SEARCHERS:
        raise ValueError(f"unknown sampler {searcher!r}; choices: {', '.join(SEARCHERS)}")
    source = (_List if searcher in ("random", "grid") else _Model)(recorded.file, searcher, seed)
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


def main(argv: list[str] | None = None) -> int:
    """Replay; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m study.replay", description="Try a searcher on recorded trials.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--sampler", default="tpe", help=", ".join(SEARCHERS))
    parser.add_argument("--trials", metavar="N", type=int, default=100)
    parser.add_argument("--seeds", metavar="K", type=int, default=1)
    parser.add_argument("--stop-early", metavar="MIN_EPOCHS,REDUCTION")
    parser.add_argument("--workers", metavar="W", type=int, default=1)
    parser.add_argument("--overhead", metavar="SECONDS", type=float, default=0.0, help="of the driver, a trial")
    args = parser.parse_args(argv)
    try:
        recorded = Recorded(args.folder)
        courses = [_course(recorded, args, seed) for seed in range(args.seeds)]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(_report(recorded, courses, args)))
    return 0


def _course(recorded: Recorded, args: argparse.Namespace, seed: int) -> Course:
    stopper = None
    if args.stop_early:
        try:
            min_epochs, reduction = (int(part) for part in args.stop_early.split(","))
        except ValueError:
            raise ValueError(f"--stop-early {args.stop_early}: expected MIN_EPOCHS,REDUCTION, such as 1,3") from None
        stopper = Stopper(min_epochs, reduction)
    return replay(
        recorded, args.sampler, seed, trials=args.trials, stopper=stopper, workers=args.workers, overhead=args.overhead
    )


def _report(recorded: Recorded, courses: list[Course], args: argparse.Namespace) -> Iterator[str]:
    best = recorded.volume(set(range(len(recorded.runs))))
    yield f"{args.sampler} on {len(recorded.runs)} recorded trials, whose front has hypervolume {best:.4f}"
    whole = min(course.compute[-1] for course in courses)
    for share in (0.1, 0.25, 0.5, 1.0):
        volumes = np.array([course.at(share * whole) for course in courses]) / best
        spread = f" +- {volumes.std(ddof=1):.3f}" if len(volumes) > 1 else ""
        yield f"after {share * whole:10.0f} s of training: {volumes.mean():.3f}{spread} of it"
    mean = np.mean([[c.stopped, c.makespan, c.idle, c.driver] for c in courses], axis=0)
    yield (
        f"{args.trials} trials, {mean[0]:.0f} stopped early; with {args.workers} workers {mean[1]:,.0f} s; "
        f"driver {1000 * mean[3]:.2f} ms a trial; workers idle {mean[2]:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
