"""Train the baseline, from random or given weights, or load its checkpoint, and measure it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import models
from pruning.measure import cost
from pruning.measure.distributions import layer_scores
from pruning.measure.latency import measure_latency
from study.baseline import normalisation
from study.baseline.checkpoint import start
from study.baseline.network import Baseline, arrays, card_of
from study.config import BaselineSection
from study.data import splits
from study.data.splits import Data, Overview
from study.training import device_data, evaluation, loop, optimisers, precision
from study.training.device_data import DeviceData, place
from study.training.epochs import Row

SEED = 0  # fixed: studies with the same baseline section share one baseline, whatever their seeds


def check(section: BaselineSection, num_classes: int, in_shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    """The network with the weights it starts from, and a line about them ("": nothing to say).

    Raises ValueError for wrong input, before anything runs.
    """
    if section.mean is not None and len(section.mean) != in_shape[0]:
        raise ValueError(f"baseline.mean: {len(section.mean)} numbers, but the images have {in_shape[0]} channel(s)")
    model = models.built(section.model, num_classes, in_shape)
    begun = start(section, model, num_classes, in_shape)
    model.load_state_dict(begun.state)
    return model, begun.about


def make(section: BaselineSection, data: Data, device: torch.device) -> Iterator[Row | Baseline]:
    """Train (or load the checkpoint) and measure; yields a row per epoch and finally the `Baseline`."""
    torch.manual_seed(SEED)
    placed = place(data, device)
    images = placed.images
    model = models.build(section.model, len(data.class_names), data.in_shape)
    begun = start(section, model, len(data.class_names), data.in_shape)
    model.load_state_dict(begun.state)
    precision.placed(model, device)
    history: list[Row] = []
    for record in () if section.checkpoint else train_epochs(section, model, placed, SEED, begun.new):
        history.append(record)
        yield record
    example, correct = images.batch(placed.validation[:1])[0], evaluation.correct(model, images, placed.test)
    calibration_rows = device_data.rows_of(splits.calibration(data, min(512, len(data.train)), SEED), device)
    yield Baseline(
        arrays(model),
        card_of(section, data)
        | {
            "accuracy": evaluation.evaluate(model, images, placed.validation),
            "test_accuracy": evaluation.accuracy(correct),
            "params": cost.parameters(model),
            "macs": cost.macs(model, data.in_shape),
            "size_bytes": cost.size_bytes(model),
            "latency_ms": measure_latency({"dense": model}, example)["dense"].median,
            "seconds": sum(record["seconds"] for record in history),
            "history": history,
            "normalisation": "" if history else normalisation.advice(model, images, placed.validation),
            "layers": cost.layer_costs(model, data.in_shape),
            "layer_scores": layer_scores(model, images.batches(calibration_rows)),
        },
        correct,
    )


def train_epochs(
    section: BaselineSection, model: nn.Module, data: DeviceData, seed: int, new: Collection[str] = ()
) -> Iterator[Row]:
    """Train `model` as the baseline section says; yields a row after every epoch.

    Rows hold epoch, train_loss, accuracy (validation) and seconds.

    Args:
      section: learning rate, epochs, batch size and regularisation.
      model: the network, trained in place.
      data: trained on `train`, evaluated on `validation`.
      seed: of shuffling and augmentation.
      new: names of parameters that alone are trained in the section's first `freeze` epochs; none: all always are.
    """
    old = [parameter for name, parameter in model.named_parameters() if parameter.requires_grad and name not in new]
    made_new = {name.rpartition(".")[0] for name in new}
    norms = [m for path, m in model.named_modules() if isinstance(m, _BatchNorm) and path not in made_new]
    optimizer = optimisers.sgd(model.parameters(), section.lr, section.weight_decay)
    batches = device_data.endless_batches(data.images, data.train, section.batch_size, seed)
    steps = device_data.steps_per_epoch(len(data.train), section.batch_size)
    for epoch in range(section.epochs):
        started = time.perf_counter()
        frozen = bool(new) and epoch < section.freeze
        for parameter in old:
            parameter.requires_grad_(not frozen)
        rates = [
            section.lr * optimisers.one_cycle(step / (section.epochs * steps))
            for step in range(epoch * steps, (epoch + 1) * steps)
        ]
        smoothing, slim = section.label_smoothing, loop.slimming(model, section.bn_l1)
        loss = loop.train(
            model, batches, optimizer, rates,
            label_smoothing=smoothing, evaluating=norms if frozen else (), before_step=slim,
        )  # fmt: skip
        accuracy = evaluation.evaluate(model, data.images, data.validation)
        yield {
            "epoch": epoch + 1,
            "train_loss": loss,
            "accuracy": accuracy,
            "seconds": time.perf_counter() - started,
        }


def read_data(
    section: BaselineSection, data_dir: str | Path | None, say: Callable[[str], None] = lambda _: None
) -> Data:
    """Load and split the data set of a baseline section, the same for all trials; with its mean and std, if it has any.

    say: is told what the data set holds, before images are decoded. Raises ValueError for wrong input.
    """
    data = splits.load(section.dataset, seed=SEED, say=say, **_image_settings(section, data_dir))
    data = replace(data, augmentation=section.augmentation)
    if section.mean is None:
        return data
    return replace(data, mean=np.array(section.mean, np.float32), std=np.array(section.std, np.float32))


def overview(section: BaselineSection, data_dir: str | Path | None) -> Overview:
    """What the data set of a baseline section holds; reads no image. Raises ValueError for wrong input."""
    return splits.overview(section.dataset, **_image_settings(section, data_dir))


def _image_settings(section: BaselineSection, data_dir: str | Path | None) -> dict[str, Any]:
    keys = ("image_size", "resize", "labels", "store", "train_samples", "validation")
    return {"data_dir": data_dir} | {key: getattr(section, key) for key in keys}
