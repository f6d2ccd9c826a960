"""Everything that CUDA does, in one table: what is looked at, its value, and whether it is right.

    python -m benchmarks.gpu --out results/gpu                      # on a machine with a GPU, in nine minutes
    python -m benchmarks.gpu --only epochs --epochs 20 --minutes 9
    python -m benchmarks.gpu --toy --only rows latency              # anywhere, in seconds: whether the script works

rows: every criterion, granularity, scope and schedule as a trial on the device, its row beside that of the CPU. epochs:
baselines on CIFAR-10, on the images in $CIFAR10_DIR (train/<class>/*, test/<class>/*), else on random ones. study: a
study with four trials per GPU against one at a time. latency: cut networks and 2:4 weights beside dense ones, in turn.

Each part has a process of its own and a share of the minutes; one that fails, or breaks CUDA, is a line of the table.
Writes README.md and checks.csv to --out after every line. Exit codes: 0 all is right or skipped, 1 something is wrong,
2 there is no GPU.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import gpu_rows, gpu_speed
from benchmarks.gpu_checks import OK, SKIPPED, WRONG, Check, Given, guarded
from models.files import write_whole
from study.results.provenance import provenance

ROOT = Path(__file__).parents[1]
GRACE = 15.0  # seconds after its time in which a part's process may end by itself
MARK = "CHECK "  # begins the lines in which a part's process prints its checks


class Part(NamedTuple):
    """A part: its checks, and its share of the minutes."""

    checks: Callable[[Given], Iterator[Check]]
    share: float


PARTS = {
    "rows": Part(gpu_rows.rows, 0.2),
    "epochs": Part(gpu_speed.epochs, 0.4),
    "study": Part(gpu_speed.study, 0.25),
    "latency": Part(gpu_speed.latency, 0.15),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts, print and write the table; returns the exit code."""
    args = _arguments(argv)
    device = torch.device(args.device or ("cuda" if not args.toy or torch.cuda.is_available() else "cpu"))
    if not torch.cuda.is_available() and (device.type == "cuda" or not args.toy):
        print("error: no CUDA GPU that torch can use; --toy tries the script on the CPU", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # as in a trial
    if args.lines:
        given = _given(args, device, 60 * args.minutes)
        for check in guarded(args.only[0], "the part", given, lambda: PARTS[args.only[0]].checks(given)):
            print(MARK + json.dumps(check), flush=True)
        return 0
    about = _about(argv)
    print("\n".join(about))
    print(_line(Check("part", "what", "value", "unit", "", "why")))
    found: list[Check] = []
    shares = sum(PARTS[name].share for name in args.only)
    for name in args.only:
        seconds = 60 * args.minutes * PARTS[name].share / shares
        for check in _checks(name, args, device, seconds):
            found.append(check)
            print(_line(check), flush=True)
            _write(args.out, about, found)
    counts = {verdict: sum(check.verdict == verdict for check in found) for verdict in (OK, WRONG, SKIPPED)}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), f"-> {args.out}")
    return int(bool(counts[WRONG]))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true", help="smallest sizes, in this process; on a CPU too")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda; with --toy, cuda where there is one")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="folder of README.md and checks.csv")
    parser.add_argument("--epochs", type=int, help="of a baseline's training (default 5; 1 with --toy)")
    parser.add_argument("--batch-size", type=int, help="of a baseline's training (default 512; 64 with --toy)")
    parser.add_argument("--minutes", type=float, default=9.0, help="of all parts together")
    parser.add_argument("--lines", action="store_true", help="run one part here and print its checks as JSON")
    args = parser.parse_args(argv)
    args.epochs = args.epochs or (1 if args.toy else 5)
    args.batch_size = args.batch_size or (64 if args.toy else 512)
    return args


def _given(args: argparse.Namespace, device: torch.device, seconds: float) -> Given:
    folder = os.environ.get("CIFAR10_DIR")
    images = Path(folder) if folder and not args.toy else None
    return Given(device, args.toy, time.monotonic() + seconds, args.epochs, args.batch_size, images)


def _checks(name: str, args: argparse.Namespace, device: torch.device, seconds: float) -> Iterator[Check]:
    if args.toy:
        given = _given(args, device, seconds)
        return guarded(name, "the part", given, lambda: PARTS[name].checks(given))
    command = [sys.executable, "-m", "benchmarks.gpu", "--lines", "--only", name, "--device", device.type]
    command += ["--epochs", str(args.epochs), "--batch-size", str(args.batch_size), "--minutes", str(seconds / 60)]
    return by_process(name, command, seconds + GRACE)


def by_process(name: str, command: list[str], seconds: float) -> Iterator[Check]:
    """The checks that a process prints, as they come; a line WRONG if it fails, or runs for longer than `seconds`."""
    late = threading.Event()
    said: deque[str] = deque(maxlen=5)
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:

        def end() -> None:
            late.set()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started too

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(MARK):
                    yield Check(*json.loads(line.removeprefix(MARK)))
                else:
                    said.append(line)
            process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                end()
    if late.is_set():
        yield Check(name, "the part", verdict=WRONG, why=f"its process had not ended after {seconds:.0f} s")
    elif process.returncode:
        why = f"its process ended with {process.returncode}: {' '.join(' '.join(said).split())[-300:]}"
        yield Check(name, "the part", verdict=WRONG, why=why)


def _about(argv: Sequence[str] | None) -> list[str]:
    """Command, date, versions and machine, as lines."""
    facts = provenance(["python", "-m", "benchmarks.gpu", *map(shlex.quote, sys.argv[1:] if argv is None else argv)])
    hardware, versions = facts["hardware"], facts["versions"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return [
        f"command: `{facts['command']}`, {facts['started']}, commit {facts['git_commit']}",
        f"machine: {gpus}, driver {_driver()}; {hardware['cpu']}, {hardware['cores']} cores",
        f"versions: python {versions['python']}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}, ray {versions['ray']}",
    ]


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL, timeout=20).split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "none"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _line(check: Check) -> str:
    part, what, value, unit, verdict, why = check
    return f"{part:8} {what:52} {_shown(value):>10} {unit:24} {verdict:8} {why}".rstrip()


def _write(folder: Path, about: list[str], found: list[Check]) -> None:
    header = f"| {' | '.join(Check._fields)} |\n|{'---|' * len(Check._fields)}"
    rows = [f"| {' | '.join(_shown(cell).replace('|', '/') for cell in check)} |" for check in found]
    text = "\n\n".join(["# What was measured on a GPU", *about, "\n".join([header, *rows])])
    write_whole(folder / "README.md", text + "\n")
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerows([Check._fields, *found])
    write_whole(folder / "checks.csv", table.getvalue())


if __name__ == "__main__":
    sys.exit(main())
