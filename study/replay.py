"""Simulate searchers and early stopping on recorded trials: a finished results folder replaces training.

    python -m study.replay results/quickstart --sampler tpe --trials 200 --seeds 5 --stop-early 1,3
    python -m study.replay results/quickstart --sampler random --trials 100000 --workers 1000 --overhead 0.02

A suggested recipe gets the objectives, the duration and the history of the nearest recorded recipe. Time is simulated:
workers train in parallel, and one driver serves them in turn. The driver takes the measured time of the searcher on
this machine plus `--overhead` seconds per trial for what is not simulated (journal, Ray).

The distance of two recipes is a sum over the axes: different choices count 1; values of a range count their difference
as a fraction of the range (of its logarithm for a log axis); an axis that only one of the recipes has counts 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analysis.refusal import refused
from study.selection.early_stopping import Promoter, Stopper
from study.simulation.recorded import Recorded
from study.simulation.searchers import searchers
from study.simulation.simulator import SimulatedSearch, replay


def main(argv: list[str] | None = None, prog: str = "python -m study.replay") -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Try a searcher on recorded trials.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder")
    parser.add_argument("--sampler", default="tpe", help=", ".join(searchers()))
    parser.add_argument("--trials", metavar="N", type=int, default=100)
    parser.add_argument("--seeds", metavar="K", type=int, default=1)
    parser.add_argument("--stop-early", metavar="MIN_EPOCHS,REDUCTION")
    parser.add_argument("--promote", action="store_true", help="with --stop-early: pause weak trials instead")
    parser.add_argument("--screen", metavar="CANDIDATES", type=int, default=1, help="of which one is trained")
    parser.add_argument("--workers", metavar="W", type=int, default=1)
    parser.add_argument("--overhead", metavar="SECONDS", type=float, default=0.0, help="extra driver time per trial")
    args = parser.parse_args(argv)
    try:
        recorded = Recorded(args.folder)
        searches = [_simulate(recorded, args, seed) for seed in range(args.seeds)]
    except (ValueError, OSError) as error:
        return refused(error)
    print("\n".join(_report(recorded, searches, args)))
    return 0


def _simulate(recorded: Recorded, args: argparse.Namespace, seed: int) -> SimulatedSearch:
    stopper = None
    if args.promote and not args.stop_early:
        raise ValueError("--promote: goes with --stop-early, such as --stop-early 1,3")
    if args.stop_early:
        try:
            min_epochs, reduction = (int(part) for part in args.stop_early.split(","))
        except ValueError:
            raise ValueError(f"--stop-early {args.stop_early}: expected MIN_EPOCHS,REDUCTION, such as 1,3") from None
        stopper = (Promoter if args.promote else Stopper)(min_epochs, reduction)
    return replay(
        recorded, args.sampler, seed, trials=args.trials, stopper=stopper, workers=args.workers, overhead=args.overhead,
        screen=args.screen,
    )  # fmt: skip


def _report(recorded: Recorded, searches: list[SimulatedSearch], args: argparse.Namespace) -> Iterator[str]:
    best = recorded.volume(set(range(len(recorded.runs))))
    yield f"{args.sampler} on {len(recorded.runs)} recorded trials, whose front has hypervolume {best:.4f}"
    total = min(search.compute[-1] for search in searches)
    for share in (0.1, 0.25, 0.5, 1.0):
        volumes = np.array([search.at(share * total) for search in searches]) / best
        spread = f" +- {volumes.std(ddof=1):.3f}" if len(volumes) > 1 else ""
        near, *within = np.mean([search.measures_at(share * total) for search in searches], axis=0)
        sparsities = ", ".join(f"{100 * value:.1f}" for value in within)
        yield (
            f"after {share * total:10.0f} s of training: {volumes.mean():.3f}{spread} of it; near the dense network "
            f"{near:.4f}; sparsity within 1, 2, 5 points: {sparsities} %"
        )
    mean = np.mean([[s.stopped, s.makespan, s.idle, s.driver] for s in searches], axis=0)
    yield (
        f"{args.trials} trials, {mean[0]:.0f} stopped early; with {args.workers} workers {mean[1]:,.0f} s; "
        f"driver {1000 * mean[3]:.2f} ms a trial; workers idle {mean[2]:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
