"""Speed of 2:4 by torch's semi-structured tensors: dense weights against the same in 2:4 blocks, in fp16.

    python -m benchmarks.semi_structured

First what they serve of the networks of the zoo, for which no GPU is needed; then, on a CUDA GPU of compute capability
8.0 or higher, the time of a stack of linear layers, both in turn: the masked dense weights and the semi-structured.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

import pruning
from models import MODELS, build
from pruning.measure.latency import measure_latency
from pruning.weights.semi_structured import available, refusals, semi_structured

WIDTHS = (512, 1024, 4096, 8192)
BATCHES = (1, 64, 1024, 8192)
LAYERS = 8


def served(name: str) -> str:
    """Of a network pruned 2:4, the layers that semi-structured tensors serve."""
    model = build(name, 1000, (3, 64, 64))
    masks = pruning.prune(model, torch.zeros(1, 3, 64, 64), granularity="2:4")[1]
    reasons = refusals(model.half())
    count = sum(reason is None for reason in reasons.values())
    return f"{name:10s} 2:4 in {len(masks):3d} of {len(reasons):3d} layers, {count} of which are served"


def ratio(width: int, batch: int) -> str:
    """The times of LAYERS linear layers of `width`, dense and 2:4, and the largest relative difference of outputs."""
    stack = nn.Sequential(*(nn.Linear(width, width, bias=False, device="cuda") for _ in range(LAYERS)))
    inputs = torch.randn(batch, width, dtype=torch.float16, device="cuda")
    pruning.prune(stack, inputs.float(), granularity="2:4")
    dense = stack.half()
    sparse = semi_structured(dense)
    times = measure_latency({"dense": dense, "2:4": sparse}, inputs)
    with torch.inference_mode():
        one, two = dense(inputs).float(), sparse(inputs).float()
    off = ((one - two).abs().max() / one.abs().max()).item()
    ms = {name: latency.median / LAYERS for name, latency in times.items()}
    return f"| {width} | {batch} | {ms['dense']:.4f} | {ms['2:4']:.4f} | {ms['dense'] / ms['2:4']:.2f} | {off:.1e} |"


def main() -> None:
    for name in MODELS:
        print(served(name), flush=True)
    if not available():
        print("no CUDA GPU of compute capability 8.0 or higher here: there is no speed to measure")
        return
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, fp16, one nn.Linear(width, width):\n")
    print("| width | batch | dense ms | 2:4 ms | dense / 2:4 | difference |\n|---|---|---|---|---|---|")
    for width, batch in itertools.product(WIDTHS, BATCHES):
        print(ratio(width, batch), flush=True)


if __name__ == "__main__":
    main()
