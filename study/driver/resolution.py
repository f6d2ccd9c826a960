"""Checks the study file against the network and the data before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pruning.criteria.registry import CRITERIA
from pruning.pipeline import begin
from pruning.settings import Granularity, PruneSettings
from pruning.weights import masks
from study.baseline import training
from study.config import StudyFile
from study.data.splits import Data
from study.quantization import int8, runtime
from study.trials.scoring import probe


def check_installed(file: StudyFile) -> None:
    """Raise ValueError, with the command that installs it, if recipes need a package that is not installed."""
    if runtime_of(file) == runtime.NAME and (missing := int8.missing()):
        raise ValueError(f"space.quantize int8 needs {', '.join(missing)}; install the extra: pip install '.[export]'")


def runtime_of(file: StudyFile) -> str:
    """What runs the study's networks when latencies are measured: if any recipe quantizes, onnxruntime runs all."""
    return runtime.NAME if "int8" in file.values("quantize") else "torch"


def resolve(file: StudyFile, data: Data, say: Callable[[str], None] = lambda _: None) -> StudyFile:
    """The study file with the network's layers and groups in place of `each`.

    say: is told what was done to the weights that the network starts from, in one line.
    Raises ValueError, naming the key, for what would fail in every trial: model, criteria, groups, sample counts.
    """
    model, about = training.check(file.baseline, len(data.class_names), data.in_shape)
    for key in ("calibration_samples", "finetune_samples"):
        samples = max(value or 0 for value in file.values(key))
        if samples > len(data.train):
            raise ValueError(f"space.{key}: {samples}, but there are {len(data.train)} train images")
    resolved = of_network(file, model, data.in_shape)
    for line in filter(None, (about, short_budget(file))):
        say(line)
    return resolved


def short_budget(file: StudyFile) -> str:
    """A note if recipes cut more often than they have fine-tuning epochs; else ""."""
    steps = max(file.values("steps")) if set(file.values("schedule")) - {"one_shot"} else 1
    epochs = min(file.values("finetune_epochs"))
    if "epochs_per_step" in file.space or not 0 < epochs < steps:
        return ""
    return f"note: up to {steps} cuts share {epochs} fine-tuning epochs, which is less than one after each cut"


def of_network(file: StudyFile, model: nn.Module, in_shape: tuple[int, int, int]) -> StudyFile:
    """The study file with the layers and groups of `model` in place of `each`. Raises ValueError naming the key.

    Functions of the user's own among the criteria are tried on the network.
    """
    for name in file.values("criterion"):
        if name not in CRITERIA:
            probe(name, model, in_shape)
    groups: list[str] = []
    for granularity in file.values("granularity"):
        for protect in file.values("protect"):
            settings = PruneSettings(granularity=Granularity(granularity), protect=protect)
            try:
                graph = begin(model, torch.zeros(2, *in_shape), settings).graph
            except ValueError as error:
                raise ValueError(f"space.granularity {granularity}: {error}") from None
            groups = [group.name for group in graph.groups] if graph else groups
    return file.with_parts([masks.layer_name(name) for name in masks.prunable(model)], groups)
