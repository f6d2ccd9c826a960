"""Which searcher finds most for its compute: samplers, random and grid, with and without early stopping, replayed.

    python -m benchmarks.searchers results/quickstart --trials 60 --seeds 20

Each replays the recorded trials (see study.replay) until it has spent as much training as `--trials` random trials
take. Printed: the hypervolume after a quarter, a half and all of that, as a share of that of all recorded trials
together, the mean over the seeds with its standard error; how many trials that were; and milliseconds a suggestion.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from study.search.early_stopping import Stopper
from study.simulation.recorded import Recorded
from study.simulation.searchers import searchers as all_searchers
from study.simulation.simulator import Course, replay

SHARES = (0.25, 0.5, 1.0)


def compare(
    recorded: Recorded, searchers: list[str], trials: int, seeds: int, stops: list[tuple[int, int] | None], workers: int
) -> list[str]:
    """A row of a Markdown table for every searcher and way of stopping."""
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
            courses = [
                replay(
                    recorded, searcher, seed, compute=budget, stopper=Stopper(*stop) if stop else None, workers=workers
                )
                for seed in range(seeds)
            ]
            lines.append(_line(searcher, stop, courses, budget, best))
    return lines


def _line(searcher: str, stop: tuple[int, int] | None, courses: list[Course], budget: float, best: float) -> str:
    cells = []
    for share in SHARES:
        found = np.array([course.at(share * budget) for course in courses]) / best
        cells.append(f"{found.mean():.3f} ± {found.std(ddof=1) / len(found) ** 0.5:.3f}")
    trials = np.mean([len(course.compute) for course in courses])
    took = 1000 * np.mean([course.driver for course in courses])
    how = f"{stop[0]} epoch, 1 of {stop[1]}" if stop else "no"
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
    stops: list[tuple[int, int] | None] = [None, (1, 2), (1, 3)]
    print("\n".join(compare(Recorded(args.folder), searchers, args.trials, args.seeds, stops, args.workers)))


if __name__ == "__main__":
    main()
