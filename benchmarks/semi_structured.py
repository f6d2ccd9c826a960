"""Speed of torch's semi-structured (2:4) tensors against dense weights, in fp16.

    python -m benchmarks.semi_structured

First, which layers of the project's networks they support (needs no GPU). Then, on a CUDA GPU of compute capability 8.0
or higher, the time of a stack of linear layers with masked dense and with semi-structured weights, in turn.
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
    """A line with the number of layers pruned 2:4, and of those that semi-structured tensors support."""
    model = build(name, 1000, (3, 64, 64))
    masks = pruning.prune(model, torch.zeros(1, 3, 64, 64), granularity="2:4")[1]
    reasons = refusals(model.half())
    count = sum(reason is None for reason in reasons.values())
    return f"{name:10s} 2:4 in {len(masks):3d} of {len(reasons):3d} layers, {count} of which are served"


def measured(width: int, batch: int) -> tuple[float, float, float]:
    """Milliseconds per linear layer of `width`, dense and 2:4, and the relative difference of the outputs."""
    stack = nn.Sequential(*(nn.Linear(width, width, bias=False, device="cuda") for _ in range(LAYERS)))
    inputs = torch.randn(batch, width, dtype=torch.float16, device="cuda")
    pruning.prune(stack, inputs.float(), granularity="2:4")
    dense = stack.half()
    sparse = semi_structured(dense)
    times = measure_latency({"dense": dense, "2:4": sparse}, inputs)
    with torch.inference_mode():
        expected, actual = dense(inputs).float(), sparse(inputs).float()
    difference = ((expected - actual).abs().max() / expected.abs().max()).item()
    dense_ms, sparse_ms = (times[name].median / LAYERS for name in ("dense", "2:4"))
    return dense_ms, sparse_ms, difference


def main() -> None:
    """Print supported layers of every network, then the table of times if there is a suitable GPU."""
    for name in MODELS:
        print(served(name), flush=True)
    if not available():
        print("no CUDA GPU of compute capability 8.0 or higher here: there is no speed to measure")
        return
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, fp16, one nn.Linear(width, width):\n")
    print("| width | batch | dense ms | 2:4 ms | dense / 2:4 | difference |\n|---|---|---|---|---|---|")
    for width, batch in itertools.product(WIDTHS, BATCHES):
        dense, sparse, difference = measured(width, batch)
        ratio = dense / sparse
        print(f"| {width} | {batch} | {dense:.4f} | {sparse:.4f} | {ratio:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main()
