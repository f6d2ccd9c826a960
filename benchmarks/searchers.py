"""Compares searchers at equal compute in simulation: samplers, random and grid, with and without early stopping.

    python -m benchmarks.searchers results/quickstart --trials 60 --seeds 20

Each searcher runs on the recorded trials (see study.replay) with the training time of `--trials` average trials. Prints
the hypervolume after a quarter, a half and all of that time, as a fraction of the hypervolume of all recorded trials
(mean over the seeds, with standard error), the number of trials, and milliseconds per suggestion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from study.selection.early_stopping import Promoter, Stopper
from study.simulation.recorded import Recorded
from study.simulation.searchers import searchers as all_searchers
from study.simulation.simulator import SimulatedSearch, replay

SHARES = (0.25, 0.5, 1.0)
Stop = tuple[type[Stopper], int, int]


def compare(
    recorded: Recorded, searchers: list[str], trials: int, seeds: int, stops: list[Stop | None], workers: int
) -> list[str]:
    """A Markdown table with a row for every searcher and setting of early stopping.

    Args:
      recorded: recorded trials.
      searchers: their names.
      trials: the budget, in recorded trials of average duration.
      seeds: simulations per row.
      stops: kind, min_epochs and reduction of early stopping, or None.
      workers: trials that run in parallel.
    """
    mean = float(np.mean([run.seconds for run in recorded.runs]))
    budget, best = mean * trials, recorded.volume(set(range(len(recorded.runs))))
    lines = [
        f"{len(recorded.runs)} recorded trials of {mean:.1f} s; {budget:.0f} s of training, "
        f"{seeds} seeds, {workers} at once",
        "",
        "| searcher | stops early | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | trials | ms a trial |",
        "|---|---|" + "---:|" * (len(SHARES) + 2),
    ]
    for searcher in searchers:
        for stop in stops:
            searches = [
                replay(recorded, searcher, seed, compute=budget, stopper=stop and stop[0](*stop[1:]), workers=workers)
                for seed in range(seeds)
            ]
            lines.append(_line(searcher, stop, searches, budget, best))
    return lines


def _line(searcher: str, stop: Stop | None, searches: list[SimulatedSearch], budget: float, best: float) -> str:
    cells = []
    for share in SHARES:
        found = np.array([search.at(share * budget) for search in searches]) / best
        cells.append(f"{found.mean():.3f} ± {found.std(ddof=1) / len(found) ** 0.5:.3f}")
    trials = np.mean([len(search.compute) for search in searches])
    took = 1000 * np.mean([search.driver for search in searches])
    how = (
        f"{'pauses' if stop[0] is Promoter else 'stops'} after {stop[1]} epoch, 1 of {stop[2]} go on" if stop else "no"
    )
    return f"| {searcher} | {how} | {' | '.join(cells)} | {trials:.0f} | {took:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sampler", action="append", choices=all_searchers(), default=[])
    args = parser.parse_args()
    searchers = args.sampler or list(all_searchers())
    stops = [None, *((kind, 1, reduction) for kind in (Stopper, Promoter) for reduction in (2, 3))]
    print("\n".join(compare(Recorded(args.folder), searchers, args.trials, args.seeds, stops, args.workers)))


if __name__ == "__main__":
    main()
