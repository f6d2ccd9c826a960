"""Speedup of channels cut, of 8 bits, and of both on this machine: networks timed in turn in the same runtime.

    python -m benchmarks.int8_speed --models resnet20 resnet56 resnet18 --macs 0.5

onnxruntime, one thread, batch 1. Weights are random: time does not depend on them, and accuracy is not looked at.
"""

from __future__ import annotations

import argparse

import torch

import models
import pruning
from models.formats import open_onnx
from pruning.measure import cost
from pruning.measure.latency import measure_latency
from study.quantization import runtime
from study.quantization.int8 import quantize

IN_SHAPE = (3, 32, 32)


def main() -> None:
    """Print, for each network, the latencies of its four forms and their ratios to the dense one in fp32."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56", "resnet18"], choices=models.MODELS)
    parser.add_argument("--macs", type=float, default=0.5, help="share of the multiply-adds that is cut")
    parser.add_argument("--round-to", type=int, nargs="+", default=[1, 16], help="widths are multiples of this")
    parser.add_argument("--scope", default="layer")
    parser.add_argument("--seconds", type=float, default=10.0, help="to measure the forms of each network for")
    args = parser.parse_args()
    torch.set_num_threads(1)
    calibration = [torch.randn(64, *IN_SHAPE) for _ in range(2)]
    print(f"{torch.backends.cpu.get_cpu_capability()}, VNNI: {has_vnni()}")
    for name in args.models:
        dense = models.build(name, 10, IN_SHAPE).eval()
        networks = {"dense": dense}
        for multiple in args.round_to:
            networks[f"cut/{multiple}"], _ = pruning.prune(
                dense, calibration[0][:1], sparsity=args.macs, granularity="channel", sparsity_of="macs",
                scope=args.scope, round_to=multiple,
            )  # fmt: skip
        engines = {}
        for form, network in networks.items():
            engines[form] = runtime.engine(network, IN_SHAPE)
            engines[f"{form} int8"] = runtime.Engine(open_onnx(quantize(network, IN_SHAPE, calibration)))
        times = measure_latency(engines, torch.randn(1, *IN_SHAPE), seconds=args.seconds, warm_up=1, least=50)
        macs = {form: cost.macs(network, IN_SHAPE) for form, network in networks.items()}
        for form, time in times.items():
            print(
                f"{name:9} {form:10}: {macs[form.split()[0]] / 1e6:7.1f} M MACs, {time.median:7.3f} ms "
                f"(quartiles {time.lower:.3f} to {time.upper:.3f}), {times['dense'].median / time.median:.2f} x"
            )


def has_vnni() -> str:
    """Whether this processor multiplies 8-bit integers in hardware, as Linux says; "unknown" elsewhere."""
    try:
        with open("/proc/cpuinfo") as file:
            return "yes" if "vnni" in file.read() else "no"
    except OSError:
        return "unknown"


if __name__ == "__main__":
    main()
