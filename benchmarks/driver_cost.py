"""Driver time per trial, and whether it grows, for 100, 1,000 and 10,000 trials that take no time themselves.

    python -m benchmarks.driver_cost --sampler tpe --sampler nsga2 --trials 10000
    python -m benchmarks.driver_cost --ray --trials 1000

Without --ray, only the driver: it asks the queue and reports a synthetic row to the recorder (store, front, tables, a
line of output). With --ray, the same through `run_trials`, with trials that prune a tiny network and do not train;
their time in the worker (wall_seconds) is subtracted. Prints, as means over the last tenth of the trials so far: the
time per trial; the part of it in the sampler; the CPU time, which other load does not affect. Also the driver's memory,
without and with mapped libraries.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from study.config import StudyFile, columns, parse
from study.results.handlers import WAIT, TrialHandlers, TrialReport
from study.results.live_view import LiveView
from study.results.recorder import TrialRecorder
from study.search.trial_queue import TrialQueue
from study.training.epochs import Row
from study.trials.context import Ticket

SPACE = {
    "criterion": ["magnitude_l1", "magnitude_l2", "random"],
    "sparsity": {"low": 0.3, "high": 0.98},
    "finetune_epochs": 4,
}


def study_file(sampler: str, trials: int, **space: Any) -> StudyFile:
    """A study of SPACE, updated with `space`, with this sampler or `random`."""
    study = {"name": "cost", "trials": trials, "controls": []}
    study |= {"sampler": sampler} if sampler != "random" else {"search": "random"}
    return parse({"study": study, "space": SPACE | space}, "driver_cost")


def synthetic_row(ticket: Ticket, generator: np.random.Generator) -> tuple[Row, list[Row]]:
    """A row with all columns, and its history: accuracy falls with sparsity and with a bad learning rate."""
    recipe = ticket.recipe
    penalty = abs(np.log10(recipe["finetune_lr"]) + 2) / 10 + 0.05 * (recipe["criterion"] == "random")
    accuracy = float(np.clip(0.95 - 0.3 * recipe["sparsity"] ** 4 - penalty + generator.normal(0, 0.01), 0, 1))
    values: Row = {name: round(float(x), 12) for name, x in zip(columns.COLUMNS, generator.random(99), strict=False)}
    row = values | recipe | {"requested_sparsity": recipe["sparsity"], "sparsity": recipe["sparsity"]}
    row |= {"state": "complete", "error": None, "accuracy": accuracy, "accuracy_drop": 0.95 - accuracy}
    line = dict.fromkeys(columns.HISTORY[1:], 0.123456789012)
    return row, [line | {"epoch": epoch + 1} for epoch in range(4)]


def without_ray(sampler: str, trials: int) -> None:
    """Measure the driver without Ray."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        queue = TrialQueue(folder, study_file(sampler, trials))
        with LiveView("cost", trials, "") as view:
            recorder = TrialRecorder(folder, queue.store, view, {}, {})
            whole, asking, busy = [], [], []
            for number in range(1, trials + 1):
                started, began = time.perf_counter(), time.process_time()
                ticket = queue.ask()
                asked = time.perf_counter()
                assert ticket
                row, history = synthetic_row(ticket, generator)
                made = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    recorder.record(TrialReport(ticket, row, history))
                asking.append(asked - started)
                whole.append(time.perf_counter() - made + asked - started)
                busy.append(time.process_time() - began)
                if number in (100, 1000, 10_000, 100_000) or number == trials:
                    tenth = slice(-max(10, number // 10), None)
                    print_costs(sampler, number, *(float(np.mean(times[tenth])) for times in (whole, asking, busy)))
        started = time.perf_counter()
        queue.store.close()
        TrialQueue(folder, study_file(sampler, trials)).store.close()
        size = (folder / "optuna.journal").stat().st_size / 1e6
        print(f"  resumed in {time.perf_counter() - started:.1f} s from a journal of {size:.0f} MB", flush=True)


def print_costs(sampler: str, number: int, seconds: float, asking: float, busy: float) -> None:
    """Print a line of results.

    Args:
      sampler: name.
      number: of trials so far.
      seconds: per trial.
      asking: seconds per trial in the queue and sampler.
      busy: CPU seconds per trial.
    """
    own, mapped = memory()
    print(
        f"{sampler:7s} {number:6d} trials: {1000 * seconds:6.1f} ms a trial, {1000 * asking:6.1f} in the sampler; "
        f"{1000 * busy:6.1f} ms of CPU; {own:.0f} MB private, resident {own + mapped:.0f} MB",
        flush=True,
    )


def memory() -> tuple[float, float]:
    """Memory of this process in MB: private, and of mapped files (libraries), shared with other processes."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    kilobytes = {words[0]: words[1] for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    return int(kilobytes["RssAnon:"]) / 1e3, int(kilobytes["RssFile:"]) / 1e3


def through_ray(sampler: str, trials: int) -> None:
    """Measure the driver with Ray, with trials that prune a tiny network and do not train."""
    import torch

    from study.baseline import disk_cache, training
    from study.driver.resolution import resolve
    from study.execution import allotment, cluster, tune
    from study.trials.context import TrialContext

    tiny = {"model": "resnet8", "dataset": "digits", "epochs": 0, "train_samples": 100, "augment": False}
    content = study_file(sampler, trials, finetune_epochs=0, calibration_samples=16, recalibrate=False).resolved()
    file = parse(content | {"baseline": tiny}, "driver_cost")
    data = training.read_data(file.baseline, None)
    file = resolve(file, data)
    baseline = disk_cache.obtain(file.baseline, data, lambda: training.make(file.baseline, data, torch.device("cpu")))
    with tempfile.TemporaryDirectory() as name, cluster.cluster(None, file, Path(name)):
        folder = Path(name)
        queue = TrialQueue(folder, file)
        allotted = allotment.allotment(file.resources)
        ended: list[float] = []
        inside: list[float] = []
        asking: list[float] = []
        busy: list[float] = []

        def ask() -> Ticket | Literal["wait"] | None:
            started = time.perf_counter()
            ticket = queue.ask()
            asking.append(time.perf_counter() - started)
            return ticket or (WAIT if queue.store.running else None)

        with LiveView("cost", trials, "") as view, contextlib.redirect_stdout(io.StringIO()):
            recorder = TrialRecorder(folder, queue.store, view, baseline.card, {})

            def report(done: TrialReport) -> None:
                recorder.record(done)
                ended.append(time.perf_counter())
                inside.append(done.row["wall_seconds"])
                busy.append(time.process_time())

            tune.run_trials(
                TrialContext(baseline, data, file.baseline), file.resources, allotted, TrialHandlers(ask, report)
            )
        print(f"through Ray, {allotted.at_once} at once:")
        for number in sorted({100, 1000, 10_000, trials}):
            if number <= trials:
                first = number - max(10, number // 10)
                pace = (ended[number - 1] - ended[first - 1]) / (number - first)
                own = float(np.mean(inside[first:number])) / allotted.at_once
                used = (busy[number - 1] - busy[first - 1]) / (number - first)
                print_costs(sampler, number, pace - own, float(np.mean(asking[first:number])), used)
                print(f"  {1000 * pace:.1f} ms from trial to trial, of which {1000 * own:.1f} ms in the workers")


def main() -> None:
    """Measure each sampler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sampler", action="append", default=[])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--ray", action="store_true")
    args = parser.parse_args()
    for sampler in args.sampler or ["tpe"]:
        (through_ray if args.ray else without_ray)(sampler, args.trials)


if __name__ == "__main__":
    main()
