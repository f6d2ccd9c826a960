"""Seconds per criterion, beside plain passes over the same images and beside torch-pruning where it has the criterion.

    python -m benchmarks.criteria_cost --models resnet18 resnet50 --samples 512

Scores of a whole network, in batches of 128 images of 3 x 32 x 32, one thread by default. Tracing the network and its
dependency groups is counted for neither side; the passes that torch-pruning's Taylor and Hessian scores need are. Its
Hessian takes a backward pass per image, so it is timed on a few images and scaled. Goals: at most 1.2 times
torch-pruning's time, and per-image criteria within 4 backward passes over the same images. OBS inverts a matrix of
128 x 128 for every 128 weights, which does not depend on the images and is beyond that for large networks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn
from torch_pruning.pruner import importance

import models
from pruning.criteria import CRITERIA
from pruning.cutting import GRANULARITIES, begin, score
from pruning.scoring import Batches

HESSIAN_IMAGES = 4
THEIRS: dict[str, Callable[[], importance.Importance]] = {
    "magnitude_l1": lambda: importance.MagnitudeImportance(p=1),
    "magnitude_l2": lambda: importance.MagnitudeImportance(p=2),
    "bn_scale": importance.BNScaleImportance,
    "taylor": importance.TaylorImportance,
    "fisher": importance.HessianImportance,
    "fpgm": importance.FPGMImportance,
    "random": importance.RandomImportance,
}


def main() -> None:
    """Print a table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=list(CRITERIA))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.models:
        torch.manual_seed(0)
        model = models.build(name, 10, (3, 32, 32)).eval()
        images, labels = torch.randn(args.samples, 3, 32, 32), torch.randint(10, (args.samples,))
        batches = list(zip(images.split(128), labels.split(128), strict=True))
        print(f"{name}, {args.samples} images, {args.threads} thread(s)\n\n{table(model, batches, args.criteria)}\n")


def table(model: nn.Module, batches: Batches, criteria: Sequence[str]) -> str:
    """The rows of one network."""
    forward, backward = seconds(lambda: passes(model, batches, False)), seconds(lambda: passes(model, batches, True))
    lines = ["| criterion | of | looks at | seconds | / forward | / backward | torch-pruning | ratio |"]
    lines += ["|---|---|---|---:|---:|---:|---:|---:|", f"| forward pass | | | {forward:.2f} | 1.0 | | | |"]
    lines += [f"| forward and backward pass | | | {backward:.2f} | | 1.0 | | |"]
    for name in criteria:
        form = CRITERIA[name]
        for granularity in GRANULARITIES:
            if granularity == "weight" and form.weight is None:
                continue
            start = begin(model, batches[0][0][:1], granularity)
            ours = seconds(lambda start=start, form=form: score(start, form, batches, torch.Generator()))
            other = theirs(model, batches, name) if granularity == "channel" and name in THEIRS else None
            compared = f"{other:.3f} | {ours / other:.2f}" if other else "| "
            ratios = f"{ours / forward:.1f} | {ours / backward:.1f}" if form.cost != "weights" else "| "
            lines.append(f"| `{name}` | {granularity} | {form.cost} | {ours:.3f} | {ratios} | {compared} |")
            print(lines[-1], flush=True)
    return "\n".join(lines)


def theirs(model: nn.Module, batches: Batches, name: str) -> float:
    """Seconds that torch-pruning takes for all groups, its passes over the images included."""
    example = batches[0][0][:1]
    groups = list(tp.DependencyGraph().build_dependency(model, example).get_all_groups())
    criterion = THEIRS[name]()

    def scores() -> None:
        for group in groups:
            criterion(group)

    if name == "taylor":
        return seconds(lambda: (passes(model, batches, True), scores()))
    if name == "fisher":
        few = [(image[None], label[None]) for image, label in zip(*batches[0], strict=True)][:HESSIAN_IMAGES]

        def hessian() -> None:
            criterion.zero_grad()
            for images, labels in few:
                model.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                criterion.accumulate_grad(model)

        images = sum(len(labels) for _, labels in batches)
        return seconds(hessian) * images / len(few) + seconds(scores)
    return seconds(scores)


def passes(model: nn.Module, batches: Batches, backward: bool) -> None:
    """A pass over all images, with gradients of the weights or without."""
    for images, labels in batches:
        model.zero_grad()
        with torch.set_grad_enabled(backward):
            loss = F.cross_entropy(model(images), labels)
            if backward:
                loss.backward()


def seconds(work: Callable[[], object]) -> float:
    """The shorter of two runs; of one, if that takes long."""
    times = []
    while len(times) < 2 and sum(times) < 5:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


if __name__ == "__main__":
    main()
