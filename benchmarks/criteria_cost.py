"""CPU seconds per criterion, compared with plain passes over the same images and with torch-pruning.

    python -m benchmarks.criteria_cost --models resnet18 resnet50 --samples 512

Scores of a whole network, of weights and of channels, in batches of 128 images of 3 x 32 x 32. Times are CPU times
summed over threads (by default one), little affected by other load: the minimum of several rounds, ours and
torch-pruning's in turn. Passes over the images are included if scores need them: torch-pruning's Taylor includes a
forward and backward pass over every batch; its Hessian, with a backward pass per image, is timed on HESSIAN_IMAGES and
scaled to all. Tracing the network and finding its dependency groups is excluded from both.

Goals: at most 1.2 times torch-pruning's time, and per-image criteria within 4 backward passes over the same images (a
backward pass includes its forward pass). LAMP has no row: here it is a scope over weight magnitudes, in torch-pruning a
norm of channels.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn
from torch_pruning.pruner import importance

import models
from pruning.calibration.hooks import Batches
from pruning.criteria.registry import CRITERIA
from pruning.pipeline import begin, score
from pruning.settings import Granularity, PruneSettings

BATCH = 128  # as in studies
HESSIAN_IMAGES = 8
ENOUGH = 10.0  # seconds after which no further round is started
HEAD = """\
| criterion | granularity | cost | seconds | / forward | / backward | torch-pruning | ratio | goal |
|---|---|---|---:|---:|---:|---:|---:|---|"""
WHY = """\
OBS inverts a matrix of 128 x 128 for every 128 weights. This takes as long for few images as for many, so OBS takes
most passes when images are few. To build the matrices it keeps every layer's input and gradient for all images, and
runs another pass for layers that do not fit in memory (`second_order.HELD`).
"""
TORCH_PRUNING: dict[str, Callable[[], importance.Importance]] = {
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
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], choices=models.MODELS)
    parser.add_argument("--samples", type=int, default=512, help="calibration images")
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA), choices=CRITERIA)
    parser.add_argument("--repeat", type=int, default=5, help=f"maximum rounds; none starts after {ENOUGH:.0f} s")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.models:
        torch.manual_seed(0)
        model = models.build(name, 10, (3, 32, 32)).eval()
        images, labels = torch.randn(args.samples, 3, 32, 32), torch.randint(10, (args.samples,))
        batches = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
        print(f"{name}, {args.samples} images, {args.threads} thread(s), torch {torch.__version__}\n\n{HEAD}")
        for line in table(model, batches, args.criteria, args.repeat):
            print(line, flush=True)
        print(f"\n{WHY}")


def table(model: nn.Module, batches: Batches, criteria: list[str], rounds: int) -> Iterator[str]:
    """The table rows of one network.

    Args:
      model: the network.
      batches: calibration images and labels.
      criteria: names.
      rounds: at most.
    """
    forward, backward = seconds(rounds, *(functools.partial(passes, model, batches, b) for b in (False, True)))
    yield f"| (forward pass) | | | {forward:.3f} | 1.0 | {forward / backward:.1f} | | | |"
    yield f"| (backward pass) | | | {backward:.3f} | {backward / forward:.1f} | 1.0 | | | |"
    for name in criteria:
        form = CRITERIA[name]
        for granularity in ("weight", "channel"):
            if granularity == "weight" and form.weight is None:
                continue
            start = begin(model, batches[0][0][:1], PruneSettings(form, Granularity(granularity)))
            functions: list[Callable[[], object]] = [functools.partial(score, start, batches)]
            scale = 1.0
            if granularity == "channel" and name in TORCH_PRUNING:
                work, scale = torch_pruning_scores(model, batches, name)
                functions.append(work)
            ours, *other = seconds(rounds, *functions)
            goals = [ours <= 1.2 * scale * t for t in other]
            if form.cost == "per-image":
                goals.append(ours <= 4 * backward)
            passed = f"{ours / forward:.1f} | {ours / backward:.1f}" if form.cost != "weights" else "|"
            compared = f"{scale * other[0]:.3f} | {ours / other[0] / scale:.2f}" if other else "|"
            verdict = "" if not goals else "met" if all(goals) else "missed"
            yield f"| {name} | {granularity} | {form.cost} | {ours:.3f} | {passed} | {compared} | {verdict} |"


def torch_pruning_scores(model: nn.Module, batches: Batches, name: str) -> tuple[Callable[[], None], float]:
    """A function that computes torch-pruning's scores with their passes, and the factor to multiply its time by."""
    graph = tp.DependencyGraph().build_dependency(model, batches[0][0][:1])
    *_, classifier = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    groups, criterion = list(graph.get_all_groups(ignored_layers=[classifier])), TORCH_PRUNING[name]()
    few = [(image[None], label[None]) for image, label in zip(*batches[0], strict=True)][:HESSIAN_IMAGES]

    def work() -> None:
        if name == "taylor":
            passes(model, batches, True)
        if name == "fisher":
            criterion.zero_grad()
            for single in few:
                model.zero_grad()
                passes(model, [single], True)
                criterion.accumulate_grad(model)
        for group in groups:
            criterion(group)

    images = sum(len(labels) for _, labels in batches)
    return work, images / len(few) if name == "fisher" else 1.0


def passes(model: nn.Module, batches: Batches, backward: bool) -> None:
    """A pass over all images: forward, or forward and backward with accumulated gradients."""
    for images, labels in batches:
        with torch.set_grad_enabled(backward):
            loss = F.cross_entropy(model(images), labels)
            if backward:
                loss.backward()


def seconds(rounds: int, *functions: Callable[[], object]) -> list[float]:
    """The minimum CPU time of each function; they run in turn."""
    times: list[list[float]] = [[] for _ in functions]
    while len(times[0]) < rounds and sum(map(sum, times)) < ENOUGH:
        for work, spent in zip(functions, times, strict=True):
            started = time.process_time()
            work()
            spent.append(time.process_time() - started)
    return [min(spent) for spent in times]


if __name__ == "__main__":
    main()
