"""CPU time to trace a network and group its channels: ours and torch-pruning's, in turn in one process.

    python -m benchmarks.grouping [network of torchvision, resnet50] [side of its images, 224]

Both take the model and an example image and return all dependency groups, on one thread. Each time is the median of
several rounds after a warm-up.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

from pruning.channels.graph import dependency_graph

ROUNDS = 7


def ours(model: nn.Module, image: Tensor) -> int:
    """Number of dependency groups found by this project."""
    return len(dependency_graph(model, image).groups)


def torch_pruning_groups(model: nn.Module, image: Tensor) -> int:
    """Number of dependency groups found by torch-pruning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)
        *_, classifier = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
        return len(list(graph.get_all_groups(ignored_layers=[classifier])))


def seconds(work: Callable[[], int]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(name: str = "resnet50", side: str = "224") -> None:
    """Print the number of groups and the median times."""
    torch.set_num_threads(1)
    model, image = torchvision.models.get_model(name).eval(), torch.rand(1, 3, int(side), int(side))
    methods: dict[str, Callable[[], int]] = {
        "ours": lambda: ours(model, image),
        "torch-pruning": lambda: torch_pruning_groups(model, image),
    }
    groups = {method: work() for method, work in methods.items()}
    times: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(ROUNDS):
        for method, work in methods.items():
            times[method].append(seconds(work))
    us, them = (statistics.median(spent) for spent in times.values())
    print(f"{name} at {side}x{side}, groups: {groups}")
    print(f"CPU time: ours {us * 1e3:.0f} ms, torch-pruning {them * 1e3:.0f} ms, ratio {us / them:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
