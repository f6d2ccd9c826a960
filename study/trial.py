"""Run one recipe in this process, without Ray; the last line of stdout is its row as JSON.

python -m study.trial --space quickstart --set space.sparsity=0.8 --seed 1
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from analysis.refusal import refused
from study.baseline import disk_cache, layer_latencies, training
from study.config import Recipe, StudyFile, read_study
from study.config import axes as spaces
from study.config.columns import COLUMNS
from study.driver.resolution import check_installed, resolve, runtime_of
from study.trials import scan
from study.trials.context import TrialContext
from study.trials.scan import Curves, curve_key
from study.trials.steps import run_trial


def _scan(file: StudyFile, recipe: Recipe, context: TrialContext, device: torch.device) -> dict[str, Curves]:
    """The sensitivity curves that a recipe of scope `sensitivity` needs; runs the cuts that are not cached."""
    scan_file = scan.scan_study(file)
    assert scan_file is not None
    cache, rows = scan.ScanCache(disk_cache.key(file.baseline, context.data)), []
    axes = resolve(scan_file, context.data).axes
    points = [p for p in spaces.grid(axes) if curve_key(Recipe(**p)) == curve_key(recipe)]
    print(f"sensitivity scan: {len(points)} cuts of one layer or group", flush=True)
    for point in points:
        known = cache.find(point)
        rows.append(known[0] if known else run_trial(Recipe(**point), file.study.seed, context, device).row)
        cache.add(point, rows[-1])
    return scan.curves(rows)


def main(argv: list[str] | None = None, prog: str = "python -m study.trial") -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Run one recipe, without Ray.")
    parser.add_argument("--space", metavar="NAME_OR_PATH", required=True, help="the study file")
    parser.add_argument("--data-dir", metavar="DIR", type=Path, help="where the images are")
    parser.add_argument("--set", metavar="a.b=c", action="append", default=[], help="change a key of the study file")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="draws the axes left open; the trial's seed")
    args = parser.parse_args(argv)
    try:
        file = read_study(args.space, args.set)
        check_installed(file)
        data = training.read_data(file.baseline, args.data_dir, say=print)
        file = resolve(file, data, say=print)
        if not 0 <= args.seed < 2**32:
            raise ValueError(f"--seed {args.seed}: expected 0 to {2**32 - 1}")
        recipe = Recipe(**spaces.draw(file.axes, spaces.picker(args.seed)))
    except (ValueError, OSError) as error:
        return refused(error)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    baseline = disk_cache.obtain(file.baseline, data, lambda: training.make(file.baseline, data, device))
    context = TrialContext(baseline, data, file.baseline, seed=file.study.seed, runtime=runtime_of(file))
    if recipe.scope == "sensitivity":
        context = context._replace(curves=_scan(file, recipe, context, device))
    if recipe.counts_latency:
        measured = layer_latencies.measure(baseline.network(device), data.in_shape, device)
        context = context._replace(latencies=measured)
    outcome = run_trial(recipe, args.seed, context, device, say=print)
    print(json.dumps({name: outcome.row.get(name) for name in COLUMNS}))
    return 0 if outcome.row["state"] == "complete" else 1


if __name__ == "__main__":
    sys.exit(main())
