"""Does every criterion beat random pruning? No fine-tuning; batch norm is recalibrated; several seeds.

    python -m benchmarks.beats_random --checkpoint resnet20.pt --data-dir IMAGES --model resnet20

A trained network is pruned by fractions of its weights and of its number of channels, by each criterion and scope.
Every seed draws other calibration images (and other random scores). Prints mean test accuracies as Markdown. A
criterion clearly beats random (+) if the mean difference is above both twice its standard error and half a point; it
clearly loses (-) if it is below minus both; otherwise neither (=).
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pruning.calibration.hooks import Batches
from pruning.criteria.registry import CRITERIA
from pruning.pipeline import Pruned, begin, prune_to, score
from pruning.settings import Granularity, PruneSettings
from study.baseline import training
from study.config import BaselineSection
from study.data.splits import calibration, stratified
from study.training import device_data, evaluation, precision

SHARES = {"weight": (0.3, 0.5), "channel": (0.1, 0.2, 0.3)}
SCOPES = ("global", "layer", "both")
Key = tuple[str, str, float]  # granularity, scope, share


def main() -> None:
    """Print a table for weights and one for channels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--checkpoint", required=True, help="a state_dict of that model")
    parser.add_argument("--data-dir", type=Path, required=True, help="an image folder")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--test-images", type=int, default=2000, help="a stratified subset")
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    section = BaselineSection(
        model=args.model, checkpoint=args.checkpoint, dataset="imagefolder", image_size=args.image_size
    )
    data = training.read_data(section, args.data_dir)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    images = device_data.on_device(data, device)
    chosen = data.test[stratified(data.labels[data.test], min(args.test_images, len(data.test)), 0)]
    test = device_data.rows_of(chosen, device)

    def dense() -> nn.Module:
        return precision.placed(training.check(section, len(data.class_names), data.in_shape)[0], device)

    print(f"dense: {100 * evaluation.evaluate(dense(), images, test):.2f} % of {len(test)} test images\n")
    found: dict[tuple[str, Key], list[float]] = {}
    for name, granularity, seed in itertools.product(CRITERIA, SHARES, range(args.seeds)):
        form = CRITERIA[name]
        if granularity == "weight" and form.weight is None:
            continue
        probe = device_data.rows_of(calibration(data, args.calibration, seed), device)
        batches = images.batches(probe)

        def start(settings: PruneSettings, batches: Batches = batches) -> Pruned:
            return begin(dense(), batches[0][0][:1], settings)

        settings = PruneSettings(form, Granularity(granularity), sparsity_of="channels")
        scores = score(start(settings), batches, torch.Generator(device).manual_seed(seed))
        for scope, share in itertools.product(SCOPES, SHARES[granularity]):
            pruned = prune_to(start(replace(settings, scope=scope)), share, batches, scores=scores)
            evaluation.recalibrate(pruned.model, images, probe, torch.Generator(device).manual_seed(seed))
            accuracy = evaluation.evaluate(pruned.model, images, test)
            found.setdefault((name, (granularity, scope, share)), []).append(accuracy)
    for granularity in SHARES:
        print(table(found, granularity), end="\n\n")


def table(found: dict[tuple[str, Key], list[float]], granularity: str) -> str:
    """Mean accuracies (%) by criterion, scope and share, each with its comparison to random."""
    keys = [(granularity, scope, share) for scope, share in itertools.product(SCOPES, SHARES[granularity])]
    names = [name for name in CRITERIA if (name, keys[0]) in found]
    head = ["criterion", *(f"{scope}, {100 * share:.0f} % of {granularity}s" for _, scope, share in keys)]
    lines = [head, ["---", *("---:" for _ in keys)]]
    lines += [[f"`{name}`", *(cell(found[name, key], found["random", key]) for key in keys)] for name in names]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(accuracies: list[float], random: list[float]) -> str:
    """The mean in percent, and +, = or - against random."""
    gain = np.mean(accuracies) - np.mean(random)
    error = math.sqrt((np.var(accuracies, ddof=1) + np.var(random, ddof=1)) / len(random))
    clear = abs(gain) > max(2 * error, 0.005)
    return f"{100 * np.mean(accuracies):.1f} {'=' if not clear else '+' if gain > 0 else '-'}"


if __name__ == "__main__":
    main()
