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
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from study.search.early_stopping import Stopper
from study.simulation.recorded import Recorded
from study.simulation.searchers import searchers
from study.simulation.simulator import Course, replay


def main(argv: list[str] | None = None) -> int:
    """Replay; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m study.replay", description="Try a searcher on recorded trials.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--sampler", default="tpe", help=", ".join(searchers()))
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
