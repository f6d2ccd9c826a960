"""CPU time to prune ResNet-56 to 2.11 times fewer MACs: ours against torch-pruning's iterative loop.

    python -m benchmarks.resnet56_speed

torch-pruning is used as in its own benchmarks: a pruner of 400 small global steps that counts MACs after each, until
the target is met. Ours computes MACs exactly from the dependency groups and cuts once. Both are timed from the dense
network to the cut one, including a count of its MACs by torch's flop counter, on one thread, in turn.
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings

import torch
import torch_pruning
from torch import nn

from models import build
from pruning.allocation.channel_budget import allocate
from pruning.channels.graph import dependency_graph, group_scores
from pruning.channels.surgery import apply_plan
from pruning.criteria.magnitude import magnitude_l2
from pruning.measure.cost import macs

SPEEDUP = 2.11
ROUNDS = 3
IN_SHAPE = (3, 32, 32)
IMAGE = torch.rand(1, *IN_SHAPE)


def ours(model: nn.Module) -> nn.Module:
    """The network pruned by this project."""
    graph = dependency_graph(model, IMAGE)
    scores = group_scores(graph, magnitude_l2(model, [], torch.Generator()), reduce="mean")
    return apply_plan(model, allocate(graph, scores, 1 - 1 / SPEEDUP, sparsity_of="macs"))


def torch_pruning_loop(model: nn.Module) -> nn.Module:
    """The network pruned by torch-pruning."""
    dense, _ = torch_pruning.utils.count_ops_and_params(model, IMAGE)
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        IMAGE,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        global_pruning=True,
        iterative_steps=400,
        pruning_ratio=1.0,
        ignored_layers=[model.fc],
    )
    while dense / torch_pruning.utils.count_ops_and_params(model, IMAGE)[0] < SPEEDUP:
        pruner.step()
    return model


def main() -> None:
    """Print time and MACs of every round, and the median times."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    model = build("resnet56", 10, IN_SHAPE).eval()
    dense = macs(model, IN_SHAPE)
    times: dict[str, list[float]] = {"ours": [], "torch-pruning": []}
    for _ in range(ROUNDS):
        for name, method in zip(times, (ours, torch_pruning_loop), strict=True):
            copied = copy.deepcopy(model)
            start = time.process_time()
            left = macs(method(copied), IN_SHAPE)
            times[name].append(time.process_time() - start)
            print(f"{name:14s} {times[name][-1]:7.3f} CPU s, MACs {dense / 1e6:.1f} M -> {left / 1e6:.1f} M", end=", ")
            print(f"{dense / left:.3f} x fewer")
    us, them = (statistics.median(spent) for spent in times.values())
    print(f"CPU time: ours {us:.3f} s, torch-pruning {them:.3f} s, {them / us:.1f} x faster")


if __name__ == "__main__":
    main()
