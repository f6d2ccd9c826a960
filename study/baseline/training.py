"""Train the baseline, or load its checkpoint, and measure it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

import models
from pruning.measure import cost
from pruning.measure.distributions import layer_scores
from pruning.measure.latency import measure_latency
from study.baseline.checkpoint import read_checkpoint
from study.baseline.network import Baseline, arrays, card_of
from study.config import BaselineSection
from study.data import splits
from study.data.splits import Data
from study.training import device_data, evaluation, loop, optimisers, precision
from study.training.device_data import DeviceData, place
from study.training.epochs import Row

SEED = 0  # fixed: studies with the same baseline section share one baseline, whatever their seeds


def check(section: BaselineSection, classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """Build the network and load its checkpoint, to raise ValueError for wrong input before anything runs."""
    model = models.build(section.model, classes, in_shape)
    if section.checkpoint:
        model.load_state_dict(read_checkpoint(section.checkpoint, model))
    return model


def make(section: BaselineSection, data: Data, device: torch.device) -> Iterator[Row | Baseline]:
    """Train (or load the checkpoint) and measure; yields a row per epoch and finally the `Baseline`."""
    torch.manual_seed(SEED)
    placed = place(data, device)
    images = placed.images
    model = models.build(section.model, len(data.class_names), data.in_shape)
    precision.placed(model, device)
    history: list[Row] = []
    if section.checkpoint:
        model.load_state_dict(read_checkpoint(section.checkpoint, model))
    else:
        for record in train_epochs(section, model, placed, SEED):
            history.append(record)
            yield record
    example = images.batch(placed.validation[:1])[0]
    calibration_rows = device_data.rows_of(splits.calibration(data, min(512, len(data.train)), SEED), device)
    yield Baseline(
        arrays(model),
        card_of(section, data)
        | {
            "accuracy": evaluation.evaluate(model, images, placed.validation),
            "test_accuracy": evaluation.evaluate(model, images, placed.test),
            "params": cost.parameters(model),
            "macs": cost.macs(model, data.in_shape),
            "size_bytes": cost.size_bytes(model),
            "latency_ms": measure_latency({"dense": model}, example)["dense"].median,
            "seconds": sum(record["seconds"] for record in history),
            "history": history,
            "layers": cost.layer_costs(model, data.in_shape),
            "layer_scores": layer_scores(model, images.batches(calibration_rows)),
        },
    )


def train_epochs(section: BaselineSection, model: nn.Module, data: DeviceData, seed: int) -> Iterator[Row]:
    """Train `model` as the baseline section says; yields a row after every epoch.

    Rows hold epoch, train_loss, accuracy (validation) and seconds.

    Args:
      section: learning rate, epochs, batch size and regularisation.
      model: the network, trained in place.
      data: trained on `train`, evaluated on `validation`.
      seed: of shuffling and augmentation.
    """
    optimizer = optimisers.sgd(model.parameters(), section.lr, section.weight_decay)
    batches = device_data.endless_batches(data.images, data.train, section.batch_size, section.augment, seed)
    steps = device_data.steps_per_epoch(len(data.train), section.batch_size)
    for epoch in range(section.epochs):
        started = time.perf_counter()
        rates = [
            section.lr * optimisers.one_cycle(step / (section.epochs * steps))
            for step in range(epoch * steps, (epoch + 1) * steps)
        ]
        smoothing, slim = section.label_smoothing, loop.slimming(model, section.bn_l1)
        loss = loop.train(model, batches, optimizer, rates, label_smoothing=smoothing, before_step=slim)
        accuracy = evaluation.evaluate(model, data.images, data.validation)
        yield {
            "epoch": epoch + 1,
            "train_loss": loss,
            "accuracy": accuracy,
            "seconds": time.perf_counter() - started,
        }


def read_data(section: BaselineSection, data_dir: str | Path | None) -> Data:
    """Load and split the data set of a baseline section, the same for all trials. Raises ValueError for wrong input."""
    return splits.load(
        section.dataset,
        data_dir=data_dir,
        image_size=section.image_size,
        train_samples=section.train_samples,
        validation=section.validation,
        seed=SEED,
    )
