"""The dry run: prints the resolved study file, the number of recipes, and estimates of time and disk space."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
import yaml
from torch import nn

from pruning.measure import cost
from study.baseline import training
from study.config import StudyFile
from study.config import axes as spaces
from study.config.recipe import sketch
from study.driver.resolution import of_network, short_budget
from study.results.messages import duration
from study.training import precision
from study.trials import scan


class Pace(NamedTuple):
    """Seconds per image on the device of this machine, one trial at a time."""

    train: float
    evaluate: float


def estimate(file: StudyFile, data_dir: str | None) -> str:
    """The resolved study as YAML, followed by the estimates. Raises ValueError for wrong images or weights."""
    section = file.baseline
    images = training.overview(section, data_dir)
    in_shape = images.in_shape
    model, about = training.check(section, images.classes, in_shape)
    file = of_network(file, model, in_shape)
    gpus = file.resources.gpus
    device = torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")
    pace = _pace(precision.placed(model, device), in_shape, section.batch_size)
    epoch = images.train * pace.train + images.validation * pace.evaluate
    baseline = (0 if section.checkpoint else section.epochs) * epoch
    epochs, trained = _fine_tuning(file, images.train)
    taught = pace.evaluate * (max(file.values("distil")) > 0)
    tuning = trained * (pace.train + taught) + epochs * images.validation * pace.evaluate
    evaluated = images.validation + images.test
    kinds = file.values("quantize")  # of which int8 is calibrated, and evaluated once more
    share = kinds.count("int8") / len(kinds)
    calibrating, screen = max(file.values("calibration_samples")), file.study.screen
    trial = tuning + (evaluated + share * (evaluated + calibrating)) * pace.evaluate
    if screen:
        trial += screen.candidates * (calibrating + min(screen.images, images.validation)) * pace.evaluate
    each = f", each the best of {screen.candidates} candidates that are screened" if screen else ""
    runs, cores = file.trials * file.study.seeds, os.cpu_count() or 1
    at_once = max(1, cores // file.resources.cpus)
    if device.type == "cuda":
        at_once = max(1, int(torch.cuda.device_count() / (1 if gpus == "auto" else max(1, gpus))))
    if file.resources.concurrency != "auto":
        at_once = min(at_once, file.resources.concurrency)
    networks = {"none": 0, "front": min(runs, 20), "all": runs}[file.study.save]
    scan_file = scan.scan_study(file)
    scanned = of_network(scan_file, model, in_shape).trials if scan_file else 0
    scanning = (images.validation + 512) * pace.evaluate * scanned / at_once
    seconds = baseline / (1 if device.type == "cuda" else cores)
    first = (
        f"about {duration(seconds)} for the baseline (none if it is cached)" if baseline else "none for the baseline"
    )
    lines = [
        yaml.safe_dump(file.resolved(), sort_keys=False, width=110),
        *filter(None, (about, short_budget(file))),
        str(images),
        f"recipes: {file.trials} ({_of_all(file)}), "
        f"{file.study.seeds} seed(s) each: {runs} trials of {epochs:.1f} fine-tuning epochs on average{each}",
        f"probe on this machine ({device.type}, one core): {1 / pace.train:,.0f} images/s in training, "
        f"{1 / pace.evaluate:,.0f} in evaluation; the network has {cost.parameters(model):,} parameters",
        f"time: {first}, {duration(trial)} a trial, {duration(runs * trial / at_once)} for all, {at_once} at once",
        *(
            [f"before that a sensitivity scan: {scanned} cuts of one layer, about {duration(scanning)}"]
            if scan_file
            else []
        ),
        f"disk: about {networks * cost.size_bytes(model) / 1e6:,.0f} MB for {networks} networks; "
        f"images in the cache: {images.nbytes / 1e6:,.0f} MB",
    ]
    return "\n".join(lines)


def _of_all(file: StudyFile) -> str:
    points = spaces.size(file.axes)
    if points is None:
        return "the space has ranges"
    return f"of {points:,} in the space" if points <= spaces.COUNTED else f"of over {spaces.COUNTED:,} in the space"


def _pace(model: nn.Module, in_shape: tuple[int, int, int], batch_size: int) -> Pace:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a trial
    device = next(model.parameters()).device
    inputs = torch.randn(min(batch_size, 32 if device.type == "cpu" else batch_size), *in_shape, device=device)
    inputs = inputs.contiguous(memory_format=precision.memory_format(device))
    labels = torch.zeros(len(inputs), dtype=torch.long, device=device)

    def train() -> None:
        with precision.precision(device):
            F.cross_entropy(model.train()(inputs), labels).backward()

    @torch.inference_mode()
    def evaluate() -> None:
        with precision.precision(device):
            model.eval()(inputs)

    try:
        return Pace(*(_seconds(work, device) / len(inputs) for work in (train, evaluate)))
    finally:
        torch.set_num_threads(threads)


def _seconds(work: object, device: torch.device, min_seconds: float = 1.0) -> float:
    """The shortest time of one call, measured for `min_seconds` (at least two calls, after one to warm up)."""
    assert callable(work)
    work()
    times: list[float] = []
    while len(times) < 2 or sum(times) < min_seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def _fine_tuning(file: StudyFile, images: int) -> tuple[float, float]:
    """Fine-tuning epochs of a recipe and the images in all of them, averaged over the axes that determine them.

    images: for training. Of a range only the two ends are counted.
    """
    axes = spaces.with_parents(
        file.axes, ("schedule", "steps", "finetune_epochs", "epochs_per_step", "finetune_samples")
    )
    axes = {k: a if a.values() else a.model_copy(update={"choices": (a.low, a.high)}) for k, a in axes.items()}
    recipes = [sketch(point) for point in spaces.grid(axes)]
    epochs = sum(recipe.epochs for recipe in recipes)
    trained = sum(recipe.epochs * (recipe.finetune_samples or images) for recipe in recipes)
    return epochs / len(recipes), trained / len(recipes)
