"""The parts `epochs`, `study` and `latency` of `benchmarks.gpu`: how fast the device trains, searches and infers."""

from __future__ import annotations

import csv
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import models
import pruning
from benchmarks import semi_structured
from benchmarks.gpu_checks import OK, SKIPPED, TIME_IS_UP, WRONG, Check, Given, guarded, random_data
from pruning.measure.latency import measure_latency
from pruning.weights.semi_structured import available
from study.baseline import training
from study.config import BaselineSection
from study.data.splits import Data
from study.training import device_data, evaluation, precision

ROOT = Path(__file__).parents[1]
NETWORKS = ("resnet18", "resnet50", "vgg16_bn")
IN_SHAPE = (3, 32, 32)
LEARNT = 0.3  # test accuracy on CIFAR-10 that any of them passes within a few epochs; chance is 0.1
SHARE = 0.25  # of a GPU, of one trial


def epochs(given: Given) -> Iterator[Check]:
    """Baselines: seconds per epoch, images per second, accuracy and memory; what reproducible kernels cost."""
    networks = ("resnet8",) if given.toy else NETWORKS
    section = BaselineSection(
        model=networks[0],
        dataset="imagefolder",
        image_size=IN_SHAPE[1],
        epochs=given.epochs,
        batch_size=given.batch_size,
    )
    data = _images(section, given)
    kind = "bf16, channels last" if precision.gains_by_bf16(given.device) else "fp32"
    yield Check("epochs", "images", len(data.train), "in training", why=f"{given.images or 'random'}; {kind}")
    placed = device_data.place(data, given.device)
    for place, name in enumerate(networks):
        share = given._replace(end=given.end - given.left * (1 - 1 / (len(networks) - place)))
        one = section.model_copy(update={"model": name})
        yield from guarded("epochs", name, share, partial(_baseline, one, placed, share))
    first = section.model_copy(update={"epochs": 6})
    yield from guarded("epochs", "reproducible kernels", given, partial(_reproducible, first, placed, given))


def _images(section: BaselineSection, given: Given) -> Data:
    if given.images is not None:
        return training.read_data(section, given.images)
    return random_data(256, 64, 64, IN_SHAPE[1]) if given.toy else random_data(45_000, 5_000, 10_000, IN_SHAPE[1])


def _network(section: BaselineSection, given: Given) -> torch.nn.Module:
    torch.manual_seed(0)
    return precision.placed(models.build(section.model, 10, IN_SHAPE), given.device)


def _baseline(section: BaselineSection, data: device_data.DeviceData, given: Given) -> Iterator[Check]:
    name, model = section.model, _network(section, given)
    cuda = given.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(given.device)
    seconds: list[float] = []
    for record in training.train_epochs(section, model, data, seed=0):
        seconds.append(record["seconds"])
        if given.left <= 0:
            break
    typical = statistics.median(seconds[1:] or seconds)  # the first one warms up
    images = section.batch_size * device_data.steps_per_epoch(len(data.train), section.batch_size)
    yield Check("epochs", f"{name}: an epoch with its validation", round(typical, 3), "s")
    yield Check("epochs", f"{name}: training", round(images / typical), "images/s")
    if cuda:
        peak = torch.cuda.max_memory_allocated(given.device) / 2**30
        yield Check("epochs", f"{name}: memory", round(peak, 2), "GiB", why=f"at batch {section.batch_size}")
    what = f"{name}: test accuracy after {len(seconds)} of {section.epochs} epochs"
    accuracy = evaluation.evaluate(model, data.images, data.test)
    if given.images is None:
        yield Check("epochs", what, verdict=SKIPPED, why="random images; CIFAR10_DIR names no folder of real ones")
    else:
        whole = len(seconds) == section.epochs
        verdict = WRONG if whole and not given.toy and accuracy < LEARNT else OK
        yield Check("epochs", what, round(accuracy, 4), "", verdict, "" if whole else TIME_IS_UP)


def _reproducible(section: BaselineSection, data: device_data.DeviceData, given: Given) -> Iterator[Check]:
    """Epochs with cuDNN's reproducible kernels, as the project sets them, and with any, in turn."""
    what = f"{section.model}: epochs with reproducible kernels"
    if given.device.type != "cuda":
        yield Check("epochs", what, verdict=SKIPPED, why="the device is no GPU")
        return
    chosen = torch.backends.cudnn.deterministic
    times: dict[bool, list[float]] = {True: [], False: []}
    records = training.train_epochs(section, _network(section, given), data, seed=0)
    try:
        for turn in itertools.cycle((True, False)):
            torch.backends.cudnn.deterministic = turn
            record = next(records, None)
            if record is None or given.left <= 0:
                break
            times[turn].append(record["seconds"])
    finally:
        torch.backends.cudnn.deterministic = chosen
    ratio = min(times[True]) / min(times[False])
    yield Check("epochs", what, round(ratio, 3), "x the time of any kernels")


def study(given: Given) -> Iterator[Check]:
    """The same small study with several trials per device and with one at a time: trials per minute."""
    cuda = given.device.type == "cuda"
    each = f"resources.gpus={SHARE if cuda else 0}"
    several = f"{SHARE:g} of a GPU each" if cuda else "2 at once on the CPU"
    alone = "1 at a time"
    ways = {
        several: [each, f"resources.concurrency={'auto' if cuda else 2}"],
        alone: [f"resources.gpus={int(cuda)}", "resources.concurrency=1"],
    }
    rates: dict[str, float] = {}
    for place, (way, settings) in enumerate(ways.items()):
        share = given._replace(end=given.end - (0 if place else given.left / 2))
        for check in guarded("study", way, share, partial(_searched, way, settings, share)):
            if check.verdict == OK:
                rates[way] = check.value
            yield check
    if len(rates) == len(ways):
        yield Check("study", f"{several} against {alone}", round(rates[several] / rates[alone], 2), "x the trials")
    else:
        yield Check("study", f"{several} against {alone}", verdict=SKIPPED, why="one of the two gave no rate")


def _searched(way: str, settings: list[str], given: Given) -> Iterator[Check]:
    trials = 4 if given.toy else 24
    settings = ["study.search=random", "study.controls=[]", "study.save=none", *settings]
    source: list[str] = []
    if given.toy:
        settings += ["baseline.epochs=1", "baseline.train_samples=400", "space.finetune_epochs=1"]
        settings += ["space.calibration_samples=64"]
    elif given.images is not None:
        source = ["--data-dir", str(given.images)]
        settings += ["baseline.dataset=imagefolder", "baseline.image_size=32", "baseline.model=resnet20"]
        settings += ["baseline.train_samples=10000", "baseline.batch_size=512", "baseline.epochs=3"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-m", "study.run", "--space", "quickstart", "--out", folder, *source]
        command += ["--trials", str(trials), *itertools.chain.from_iterable(("--set", one) for one in settings)]
        code, output = _finished(command, given.left, Path(folder) / "log")
        table = Path(folder) / "quickstart" / "trials.csv"
        found = list(csv.DictReader(table.open())) if table.exists() else []
    done = [row for row in found if row["state"] == "complete"]
    last = " ".join(output.split())[-250:]
    ended = code == 128 + signal.SIGINT  # by `_finished`; after the last trial that costs no more than the report
    if (code and not ended) or len(done) < trials:
        errors = {row["error"] for row in found if row["error"]}
        why = f"exit code {code}, {len(done)} of {trials} trials complete: {'; '.join(errors) or last}"
        yield Check("study", way, verdict=WRONG, why=why)
        return
    # From the first end to the last one: without the start of the cluster and of its workers.
    ends = sorted(float(row["finished"]) for row in done)
    rate = 60 * (len(ends) - 1) / (ends[-1] - ends[0])
    yield Check("study", way, round(rate, 1), "trials/min", why=f"{trials} trials of {done[0]['wall_seconds'][:5]} s")


def _finished(command: list[str], seconds: float, log: Path) -> tuple[int, str]:
    """Exit code and output of a command, which is asked to end after `seconds`, as by Ctrl-C, and then made to.

    The output goes to a file: a pipe would stay open for as long as any process that the command started.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (
        log.open("w") as file,
        subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=file, stderr=file) as process,
    ):
        for wait, sent in ((max(1.0, seconds), signal.SIGINT), (20, signal.SIGKILL)):
            try:
                process.wait(wait)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
        return process.wait(), log.read_text()


def latency(given: Given) -> Iterator[Check]:
    """Cut networks beside the dense ones at batch 1 and 256, and 2:4 beside dense weights."""
    for name in ("resnet8",) if given.toy else NETWORKS:
        yield from guarded("latency", name, given, partial(_cut, name, given))
    if given.device.type != "cuda" or not available():
        why = "no CUDA GPU of compute capability 8.0 or higher"
        yield Check("latency", "2:4 linear layers", verdict=SKIPPED, why=why)
        return
    for width, batch in ((1024, 64), (4096, 64), (4096, 1024), (8192, 8192)):
        what = f"2:4 linear layers of {width}, batch {batch}"
        yield from guarded("latency", what, given, partial(_blocks, what, width, batch))


def _cut(name: str, given: Given) -> Iterator[Check]:
    """The dense network and the one with half of its channels, in turn, in the precision of deployment."""
    half = precision.gains_by_bf16(given.device)
    dtype = torch.bfloat16 if half else torch.float32
    dense = models.build(name, 10, IN_SHAPE).eval()
    cut, _ = pruning.prune(
        dense, torch.zeros(1, *IN_SHAPE), sparsity=0.5, granularity="channel", scope="layer", sparsity_of="channels"
    )
    networks = {"dense": dense, "cut": cut}
    for network in networks.values():
        network.to(given.device, dtype).to(memory_format=torch.channels_last)
    for batch in (1, 16 if given.toy else 256):
        inputs = torch.randn(batch, *IN_SHAPE).to(given.device, dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            finite = all(bool(network(inputs).isfinite().all()) for network in networks.values())
        times = measure_latency(networks, inputs, seconds=0.05 if given.toy else 1.0, least=3)
        ratio = times["dense"].median / times["cut"].median
        why = "" if finite else "an output is not finite"
        if given.device.type == "cuda" and not given.toy and batch > 1 and ratio <= 1:
            why = "a quarter of the multiply-adds is no faster"
        shown = f"{times['dense'].median:.3f} ms dense, {times['cut'].median:.3f} ms cut{', bf16' if half else ''}"
        what = f"{name}, half of its channels, batch {batch}"
        yield Check("latency", what, round(ratio, 2), "x faster", WRONG if why else OK, why or shown)


def _blocks(what: str, width: int, batch: int) -> Iterator[Check]:
    dense, sparse, difference = semi_structured.measured(width, batch)
    fine = difference < 0.01
    why = f"{dense:.4f} ms dense, {sparse:.4f} ms 2:4, outputs differ by {difference:.1e}"
    yield Check("latency", what, round(dense / sparse, 2), "x faster", OK if fine else WRONG, why)
