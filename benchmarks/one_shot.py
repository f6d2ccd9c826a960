r"""Accuracy after one cut, recalibrated and not trained on: criteria, reconstruction and reduction, side by side.

    python -m benchmarks.one_shot --space my_study.yaml --data-dir photos \
        --criteria magnitude_l1 regression obc --reconstruct none layer sequential --sparsity 0.8 0.9 --seeds 3
    python -m benchmarks.one_shot --space my_study.yaml --granularity channel --sparsity-of params macs \
        --criteria random magnitude_l1 taylor --reduce sum mean group_normalised --sparsity 0.3 0.5

A line of CSV per combination: test accuracy, mean and standard deviation over the seeds, each of which draws other
calibration images; CPU seconds of scoring and of the cut (the update of the weights included) on one thread. The
baseline is the one that the study would have, from its cache.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.pipeline import begin, prune_to, score
from study.baseline import disk_cache, training
from study.baseline.network import Baseline
from study.config import Recipe, read_study
from study.data.splits import calibration
from study.training import evaluation
from study.training.device_data import DeviceData, place, rows_of
from study.trials.scoring import prune_settings

AXES = ("granularity", "sparsity_of", "criterion", "reduce", "reconstruct", "sparsity")
MEASURED = ("test_accuracy", "std", "score_seconds", "cut_seconds")


def one(recipe: Recipe, seed: int, baseline: Baseline, data: DeviceData, calibrating: torch.Tensor) -> list[float]:
    """Test accuracy, seconds of scoring, seconds of the cut."""
    batches, generator = data.images.batches(calibrating), torch.Generator().manual_seed(seed)
    dense = begin(baseline.network(torch.device("cpu")), batches[0][0][:1], prune_settings(recipe, {}))
    started = time.process_time()
    scores = score(dense, batches, generator)
    scored = time.process_time()
    pruned = prune_to(dense, recipe.sparsity, batches, generator, scores)
    cut = time.process_time()
    evaluation.recalibrate(pruned.model, data.images, calibrating, generator)
    return [evaluation.evaluate(pruned.model, data.images, data.test), scored - started, cut - scored]


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one_shot", description=__doc__.splitlines()[0])
    parser.add_argument("--space", required=True, help="study file, of which the baseline is taken")
    parser.add_argument("--set", metavar="a.b=c", action="append", default=[])
    parser.add_argument("--data-dir", metavar="DIR", type=Path)
    parser.add_argument("--granularity", default="weight")
    parser.add_argument("--scope", default="global")
    parser.add_argument("--criteria", nargs="+", default=["random", "magnitude_l1"], dest="criterion")
    parser.add_argument("--reconstruct", nargs="+", default=["none"])
    parser.add_argument("--reduce", nargs="+", default=["group_normalised"])
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.5])
    parser.add_argument("--sparsity-of", nargs="+", default=["params"])
    parser.add_argument("--samples", type=int, default=512, help="calibration images")
    parser.add_argument("--test-images", type=int, help="evaluate on so many, drawn at random; default: all")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    section = read_study(args.space, args.set).baseline
    data = training.read_data(section, args.data_dir)
    with contextlib.redirect_stdout(sys.stderr):
        baseline = disk_cache.obtain(section, data, lambda: training.make(section, data, torch.device("cpu")))
    placed = place(data, torch.device("cpu"))
    if args.test_images:
        drawn = torch.randperm(len(placed.test), generator=torch.Generator().manual_seed(0))[: args.test_images]
        placed = placed._replace(test=placed.test[drawn])
    table = csv.writer(sys.stdout)
    table.writerow([*AXES, *MEASURED])
    for values in itertools.product(*([v] if isinstance(v := getattr(args, key), str) else v for key in AXES)):
        recipe = Recipe(**dict(zip(AXES, values, strict=True)), scope=args.scope)
        found: list[Any] = []
        for seed in range(args.seeds):
            calibrating = rows_of(calibration(data, args.samples, seed), torch.device("cpu"))
            try:
                found.append(one(recipe, seed, baseline, placed, calibrating))
            except ValueError as error:
                print(f"{recipe.criterion}: {error}", file=sys.stderr)
                break
        else:
            accuracy, scoring, cutting = np.array(found).T
            spread = f"{accuracy.std(ddof=1):.4f}" if len(found) > 1 else ""
            table.writerow(
                [*values, f"{accuracy.mean():.4f}", spread, f"{scoring.mean():.1f}", f"{cutting.mean():.1f}"]
            )
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
