"""Seconds per trial beyond its fine-tuning: sampler, Ray, scoring, masks, costs, journal, tables.

    python -m benchmarks.trial_overhead --trials 20

Runs the quickstart one trial at a time, and subtracts the seconds of its fine-tuning epochs (training and validation)
from the time between the ends of consecutive trials. The final evaluation on the test images is included in the result,
which is therefore an upper bound.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd


def main() -> None:
    """Print the median and the largest overhead."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "study.run", "--space", "quickstart", "--out", out]
        command += ["--trials", str(args.trials), "--set", "resources.concurrency=1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = pd.read_csv(Path(out) / "quickstart" / "trials.csv")
    rows = rows[rows.kind == "search"].sort_values("finished")
    overhead = (rows.finished.diff() - rows.train_seconds)[1:]
    print(f"{len(overhead)} trials, {rows.train_seconds.median():.2f} s of fine-tuning each (median)")
    print(f"overhead: median {overhead.median():.3f} s, largest {max(overhead):.3f} s")
    print(f"inside the worker: median {statistics.median(rows.wall_seconds - rows.train_seconds):.3f} s")


if __name__ == "__main__":
    main()
