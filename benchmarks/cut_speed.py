"""Speedup of removing half of all channels on this machine: the dense and the cut network, timed in turn.

    python -m benchmarks.cut_speed --models resnet18 resnet50 --batch 64

fp32, channels last, one thread. With half of every layer's channels, a quarter of the multiply-adds remain; the
measured speedup may be smaller.
"""

from __future__ import annotations

import argparse

import torch

import models
import pruning
from pruning.measure import cost
from pruning.measure.latency import measure_latency

IN_SHAPE = (3, 32, 32)


def main() -> None:
    """Print MACs and latencies, dense and cut, and their ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], choices=models.MODELS)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0, help="to measure each network for")
    args = parser.parse_args()
    torch.set_num_threads(1)
    inputs = torch.randn(args.batch, *IN_SHAPE).to(memory_format=torch.channels_last)
    for name in args.models:
        dense = models.build(name, 10, IN_SHAPE).eval()
        cut, _ = pruning.prune(
            dense, inputs[:1], sparsity=0.5, granularity="channel", scope="layer", sparsity_of="channels"
        )
        networks = {"dense": dense, "cut": cut}
        networks = {k: network.to(memory_format=torch.channels_last) for k, network in networks.items()}
        times = measure_latency(networks, inputs, seconds=args.seconds, warm_up=1, least=5)
        macs = {key: cost.macs(network, IN_SHAPE) for key, network in networks.items()}
        for key, time in times.items():
            print(
                f"{name:9} {key:5}: {macs[key] / 1e6:7.1f} M MACs, {time.median:8.1f} ms a batch of {args.batch} "
                f"(quartiles {time.lower:.1f} to {time.upper:.1f})"
            )
        print(
            f"{name:9} ratio: {macs['dense'] / macs['cut']:.2f} x fewer MACs, "
            f"{times['dense'].median / times['cut'].median:.2f} x faster"
        )


if __name__ == "__main__":
    main()
