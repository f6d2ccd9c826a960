"""Fine-tuning as one stream of optimiser steps, evenly shared by the cuts, with a record after every epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from pruning.pipeline import Pruned
from pruning.weights import masks
from study.config import BaselineSection, Recipe
from study.training import evaluation, loop, optimisers
from study.training.device_data import DeviceData, endless_batches, steps_per_epoch
from study.training.epochs import Row


class FineTuning:
    """The fine-tuning of one trial. An epoch's record may span several cuts, and a cut several epochs.

    recipe: learning rate, its schedule, and the number of epochs.
    data: trained on `train`, evaluated on `validation`.
    section: batch size and augmentation, which are the baseline's.
    seed: of shuffling and augmentation.
    history: records are appended to it; it is the caller's, so that they are left if the trial fails.
    """

    def __init__(
        self, recipe: Recipe, data: DeviceData, section: BaselineSection, seed: int, history: list[Row]
    ) -> None:
        self._recipe, self._data, self._history = recipe, data, history
        self._epoch = steps_per_epoch(len(data.train), section.batch_size)
        self._batches = endless_batches(data.images, data.train, section.batch_size, section.augment, seed)
        self._step, self._losses, self._seconds = 0, 0.0, 0.0

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self._recipe.epochs * self._epoch

    def until(self, end: int, pruned: Pruned, optimizer: torch.optim.Optimizer) -> Iterator[Row]:
        """Train up to step `end`; yields the record of every epoch that ends on the way."""
        hold = masks.hold_masks(pruned.model, pruned.masks) if pruned.masks else _nothing
        factor = optimisers.LR_SCHEDULES[self._recipe.lr_schedule]
        while self._step < end:
            started = time.perf_counter()
            stop = min(end, (self._step // self._epoch + 1) * self._epoch)
            rates = [self._recipe.finetune_lr * factor(step / self.steps) for step in range(self._step, stop)]
            loss = loop.train(pruned.model, self._batches, optimizer, rates, after_step=hold)
            self._losses += loss * len(rates)
            self._step = stop
            done = stop % self._epoch == 0
            accuracy = evaluation.evaluate(pruned.model, self._data.images, self._data.validation) if done else 0.0
            self._seconds += time.perf_counter() - started
            if done:
                self._history.append(self._record(pruned, accuracy))
                self._losses, self._seconds = 0.0, 0.0
                yield self._history[-1]

    def _record(self, pruned: Pruned, accuracy: float) -> Row:
        return {
            "epoch": self._step // self._epoch,
            "progress": self._step / self.steps,
            "sparsity": masks.sparsity(pruned.model, pruned.dense_weights),
            "train_loss": self._losses / self._epoch,
            "accuracy": accuracy,
            "seconds": self._seconds,
        }


def _nothing() -> None:
    """After a step that needs nothing put back."""
