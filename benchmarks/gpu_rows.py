"""The part `rows` of `benchmarks.gpu`: every way of pruning as a trial on the device, its row beside that of the CPU.

A tiny network that was hardly trained, on random images, in fp32. What depends on the weights alone must be equal to
the last bit; scores of images differ by rounding, so there a fifth of the choices may differ, but not how many.
"""

from __future__ import annotations

import gc
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.gpu_checks import OK, SKIPPED, WRONG, Check, Given, guarded, random_data, synchronise
from pruning.allocation.scopes import SCOPES
from pruning.allocation.weight_budget import weight_masks
from pruning.calibration.least_squares import RECONSTRUCTIONS
from pruning.channels.graph import dependency_graph
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES, REDUCTIONS
from pruning.weights.masks import prunable
from study.baseline import training
from study.baseline.network import Baseline
from study.config import BaselineSection, Recipe
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS
from study.training.precision import gains_by_bf16
from study.trials.context import NetworkState, Outcome, TrialContext
from study.trials.scan import curve_key
from study.trials.steps import run_trial, trial_epochs

PART = "rows"
CPU = torch.device("cpu")
EXACT = ("state", "sparsity", "channel_sparsity", "params", "nonzero_params", "macs", "size_bytes")
BLOCKS = "2:4"  # what stands for n:m here
AGREE = 0.8  # least share of equal choices where scores depend on images; of choices at random it is a half


class Case(NamedTuple):
    """A recipe under the name of what it stands for; `equal`: the device must choose, and leave, what the CPU does."""

    what: str
    recipe: dict[str, Any]
    equal: bool


class _Added(nn.Module):
    """Its input plus a convolution of it, so that two layers share their channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X + norm(conv(x)), and ReLU."""
        return torch.relu(x + self.norm(self.conv(x)))


def tiny(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """A network of four layers, one of them residual."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_shape[0], 12, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(12),
            relu1=nn.ReLU(),
            block=_Added(12),
            conv2=nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False),
            norm2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(16, num_classes),
        )
    )


def cases() -> Iterator[Case]:
    """A recipe for every criterion, granularity, scope, schedule, optimiser and learning-rate schedule by name."""
    for name, form in CRITERIA.items():
        for granularity in ("weight", "channel"):
            if granularity == "channel" or form.weight is not None:
                free = form.cost == "weights"
                recipe = {"criterion": name, "granularity": granularity, "scope": "layer"}
                yield Case(f"criterion {name}, {granularity}", recipe, free)
    for granularity in GRANULARITIES:
        shown = f"{granularity} ({BLOCKS})" if granularity == "n:m" else granularity
        recipe = {"granularity": BLOCKS if granularity == "n:m" else granularity}
        yield Case(f"granularity {shown}", recipe, True)
    for name, scope in SCOPES.items():
        for granularity in ("weight", "channel"):
            if granularity == "weight" or scope.channels is not None:
                yield Case(f"scope {name}, {granularity}", {"scope": name, "granularity": granularity}, True)
    for name in RECONSTRUCTIONS:
        for granularity in ("weight", "channel"):
            recipe = {"reconstruct": name, "granularity": granularity, "scope": "layer"}
            yield Case(f"reconstruct {name}, {granularity}", recipe, name == "none")
    for name in REDUCTIONS:
        yield Case(f"reduce {name}", {"reduce": name, "granularity": "channel"}, True)
    trained = {"scope": "layer", "finetune_epochs": 2}
    for name in SCHEDULES:
        for granularity in ("weight", "channel"):
            cuts = {"schedule": name, "steps": 2, "granularity": granularity}
            yield Case(f"schedule {name}, {granularity}", trained | cuts, False)
    for name in OPTIMIZERS:
        yield Case(f"optimizer {name}", trained | {"optimizer": name}, False)
    for name in LR_SCHEDULES:
        yield Case(f"lr_schedule {name}", trained | {"lr_schedule": name}, False)


def rows(given: Given) -> Iterator[Check]:
    """The checks of this part."""
    context = _context()
    for case in cases():
        yield from guarded(PART, case.what, given, partial(_compared, case, context, given))
    for what, work in (
        ("from scratch", _from_scratch),
        ("bf16", _in_bf16),
        ("latency columns", _timed),
        ("the same seed twice", _twice),
        ("memory after trials", _memory),
        ("masks of a large network", _large_masks),
    ):
        yield from guarded(PART, what, given, partial(work, context, given))


def _context() -> TrialContext:
    data = random_data(256, 64, 64, side=8)
    section = BaselineSection(model="benchmarks.gpu_rows:tiny", epochs=1, batch_size=64)
    with _precision("fp32"):
        *_, baseline = training.make(section, data, CPU)
    assert isinstance(baseline, Baseline)
    return TrialContext(baseline, data, section)


@contextmanager
def _precision(name: str) -> Iterator[None]:
    before = os.environ.get("STUDY_PRECISION")
    os.environ["STUDY_PRECISION"] = name
    try:
        yield
    finally:
        os.environ.pop("STUDY_PRECISION")
        os.environ.update({} if before is None else {"STUDY_PRECISION": before})


def _recipe(**keys: Any) -> Recipe:
    free = {} if keys.get("granularity") == BLOCKS else {"sparsity": 0.3}
    return Recipe(**{**free, "finetune_epochs": 0, "calibration_samples": 64, **keys})


def _with_curves(recipe: Recipe, context: TrialContext) -> TrialContext:
    """For the scope `sensitivity`: curves as a scan might find them."""
    model = context.baseline.network(CPU)
    names = list(prunable(model))
    if recipe.granularity == "channel":
        names = [group.name for group in dependency_graph(model, torch.zeros(1, *context.data.in_shape)).groups]
    curves = {name: {0.3: 0.01 * place, 0.9: 0.1 * place} for place, name in enumerate(names, start=1)}
    return context._replace(curves={curve_key(recipe): curves})


def _run(recipe: Recipe, context: TrialContext, device: torch.device) -> tuple[Outcome, NetworkState]:
    outcome = run_trial(recipe, 0, context, device)
    if outcome.network is None:
        raise RuntimeError(f"on {device.type}: {outcome.row['error']}")
    return outcome, outcome.network


def _kept(network: NetworkState, dense: list[str]) -> dict[str, np.ndarray]:
    """True for what is left: of every axis of a layer of the plan, and of the weights of every layer."""
    axes = {
        f"{path}, {side}": ~np.isin(np.arange(axis["of"]), axis["removed"])
        for path, layer in (network.plan or {"layers": {}})["layers"].items()
        for side, axis in layer.items()
        if isinstance(axis, dict)
    }
    return axes or {name: network.state[name] != 0 for name in dense}


def _compared(case: Case, context: TrialContext, given: Given) -> Iterator[Check]:
    recipe = _recipe(**case.recipe)
    context = _with_curves(recipe, context) if recipe.scope == "sensitivity" else context
    with _precision("fp32"):
        (one, on_cpu), (other, on_device) = (_run(recipe, context, device) for device in (CPU, given.device))
    names = list(prunable(context.baseline.network(CPU)))
    differing = [key for key in EXACT if one.row[key] != other.row[key]]
    if differing:
        told = ", ".join(f"{key} {other.row[key]} instead of {one.row[key]}" for key in differing)
        yield Check(PART, case.what, verdict=WRONG, why=told)
        return
    kept, found = (_kept(network, names) for network in (on_cpu, on_device))
    share = float(np.mean(np.concatenate([(kept[key] == found[key]).ravel() for key in kept])))
    why = ""
    if case.equal and share < 1:
        why = "it chose other weights or channels than the CPU"
    elif case.equal and any(not np.array_equal(on_cpu.state[name], on_device.state[name]) for name in names):
        why = "the weights that stay differ from the CPU's"
    elif share < AGREE and not case.recipe.get("finetune_epochs"):  # after training, cuts differ as weights do
        why = f"fewer than {AGREE:.0%} of its choices are those of the CPU"
    elif not all(np.isfinite(array).all() for array in on_device.state.values()):
        why = "a weight or a statistic is not finite"
    yield Check(PART, case.what, round(100 * share, 2), "% chosen as on the CPU", WRONG if why else OK, why)


def _from_scratch(context: TrialContext, given: Given) -> Iterator[Check]:
    recipe = _recipe(granularity="channel")
    plan = _run(recipe, context, given.device)[1].plan
    epochs = trial_epochs(recipe, 0, context, given.device, from_scratch=plan)
    try:
        while True:
            next(epochs)
    except StopIteration as end:
        row = end.value.row
    verdict = OK if row["state"] == "complete" else WRONG
    yield Check(PART, "from scratch", row.get("params", ""), "parameters", verdict, row["error"] or "")


def _in_bf16(context: TrialContext, given: Given) -> Iterator[Check]:
    """The device's own precision: what a study there runs in."""
    if not gains_by_bf16(given.device):
        yield Check(PART, "bf16", verdict=SKIPPED, why=f"this {given.device.type} has none in hardware")
        return
    for granularity in ("weight", "channel", "hybrid"):
        recipe = _recipe(granularity=granularity, finetune_epochs=2, schedule="iterative", steps=2)
        loss = _run(recipe, context, given.device)[0].history[-1]["train_loss"]
        fine = np.isfinite(loss) and loss < 10
        yield Check(PART, f"bf16, {granularity}", round(loss, 3), "training loss", OK if fine else WRONG)


def _timed(context: TrialContext, given: Given) -> Iterator[Check]:
    recipe = _recipe(granularity="channel", sparsity_of="channels")
    row = _run(recipe, context._replace(timed=True), given.device)[0].row
    yield Check(PART, "latency columns", round(row["latency_ms"], 4), "ms at batch 1")


def _twice(context: TrialContext, given: Given) -> Iterator[Check]:
    """A recipe with a given seed gives the same row, in the precision and with the kernels of a study."""
    for granularity in ("weight", "channel"):
        recipe = _recipe(granularity=granularity, criterion="taylor", finetune_epochs=2)
        (one, first), (other, second) = (_run(recipe, context, given.device) for _ in range(2))
        same = all(np.array_equal(first.state[name], second.state[name]) for name in first.state)
        same &= one.row["accuracy"] == other.row["accuracy"]
        apart = max((float(np.abs(first.state[n] - second.state[n]).max()) for n in first.state if not same), default=0)
        why = "" if same else "two runs with one seed differ"
        what = f"the same seed twice, {granularity}"
        yield Check(PART, what, apart, "largest difference", OK if same else WRONG, why)


def _memory(context: TrialContext, given: Given) -> Iterator[Check]:
    """A trial leaves nothing on the GPU to the trials after it."""
    if given.device.type != "cuda":
        yield Check(PART, "memory after trials", verdict=SKIPPED, why="the device is no GPU")
        return
    used = []
    for _ in range(3):
        _run(_recipe(granularity="channel", criterion="activation", finetune_epochs=1), context, given.device)
        gc.collect()
        used.append(torch.cuda.memory_allocated(given.device))
    grown = used[-1] - used[0]
    yield Check(PART, "memory after trials", used[-1] / 2**20, "MiB", WRONG if grown else OK, f"grew by {grown} bytes")


def _large_masks(context: TrialContext, given: Given) -> Iterator[Check]:
    """Global masks over scores with many ties, of as many weights as a ResNet-50 has."""
    generator = torch.Generator().manual_seed(0)
    size = 20_000 if given.toy else 4_500_000
    scores = {f"layer{i}": torch.randint(0, 50_000, (size,), generator=generator).float() for i in range(5)}
    placed = {name: score.to(given.device) for name, score in scores.items()}
    for scope in ("global", "lamp"):
        expected = weight_masks(scores, 0.9, scope)
        for _ in range(2):  # the first warms up
            synchronise(given.device)
            started = time.perf_counter()
            found = weight_masks(placed, 0.9, scope)
            synchronise(given.device)
            seconds = time.perf_counter() - started
        kept = [abs(int(expected[name].sum()) - int(found[name].sum())) for name in scores]
        same = all(torch.equal(expected[name], found[name].cpu()) for name in scores)
        # Sums in another order round otherwise: of equal LAMP scores another layer's may go.
        fine = same or (scope == "lamp" and max(kept) <= 10)
        why = "" if same else f"counts of a layer differ by up to {max(kept)}"
        yield Check(PART, f"masks of {5 * size:,} weights, {scope}", 1e3 * seconds, "ms", OK if fine else WRONG, why)
