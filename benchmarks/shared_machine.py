"""Seconds per epoch on an idle machine and beside busy processes, with OpenMP threads that spin or yield at barriers.

    python -m benchmarks.shared_machine --busy 2 --niceness 0

Trains the quickstart's baseline (ResNet-8 on digits) on all cores, in a process of its own for each of OpenMP's wait
policies and of the two loads, in turn. `spinning` is OpenMP's default, `passive` what a study sets where it starts
beside other load. Busy processes compute without end at niceness 0. `inf`: six epochs took longer than --limit seconds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from study.execution.cluster import WAIT_POLICY

TRAIN = """
import os, statistics, sys, torch
from study.baseline import training
from study.config import read_study
os.nice(int(sys.argv[1]))
section = read_study("quickstart", ["baseline.epochs=6"]).baseline
data = training.read_data(section, None)
epochs = [row["seconds"] for row in training.make(section, data, torch.device("cpu")) if isinstance(row, dict)]
print(statistics.median(epochs[1:]))
"""


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Keeps this many processes busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def epoch_seconds(policy: str, niceness: int, limit: float) -> float:
    """Median seconds per epoch in a new process, without the first; infinite where it takes longer than `limit`."""
    environment = {key: value for key, value in os.environ.items() if key != WAIT_POLICY}
    environment |= {WAIT_POLICY: "passive"} if policy == "passive" else {}
    command = [sys.executable, "-c", TRAIN, str(niceness)]
    try:
        done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return math.inf
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=2, help="busy processes")
    parser.add_argument("--niceness", type=int, default=0, help="of the training process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds, of one process")
    given = parser.parse_args()
    measured: dict[tuple[str, int], list[float]] = {}
    for _ in range(given.rounds):
        for policy in ("spinning", "passive"):
            for busy in (0, given.busy):
                with load(busy):
                    seconds = epoch_seconds(policy, given.niceness, given.limit)
                measured.setdefault((policy, busy), []).append(seconds)
    print(f"{os.cpu_count()} cores, {given.busy} busy processes, niceness {given.niceness}; seconds per epoch (median)")
    print(f"{'':10} {'idle':>8} {'busy':>8} {'ratio':>6}")
    for policy in ("spinning", "passive"):
        idle, beside = (statistics.median(measured[policy, busy]) for busy in (0, given.busy))
        print(f"{policy:10} {idle:8.3f} {beside:8.3f} {beside / idle:6.1f}")


if __name__ == "__main__":
    main()
