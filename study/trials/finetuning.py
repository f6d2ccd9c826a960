"""Fine-tuning as one sequence of optimiser steps, divided evenly over the cuts, with a history row per epoch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from pruning.pipeline import Pruned
from pruning.weights import masks
from study.config import BaselineSection, Recipe
from study.data.splits import Data, stratified
from study.training import evaluation, loop, optimisers
from study.training.device_data import DeviceData, endless_batches, steps_per_epoch
from study.training.epochs import Row

_STREAM = (0, 4)  # a seed for all studies, and a stream apart from those of study.data.splits


def training_images(data: Data, samples: int | None) -> np.ndarray:
    """Sorted indices into `data.images` of the train images to fine-tune on: `samples` of them, stratified, or all.

    The same for every trial, whatever its seed. Raises ValueError if there are not as many.
    """
    if samples is None:
        return data.train
    return np.asarray(data.train[stratified(data.labels[data.train], samples, _STREAM)])


class FineTuning:
    """Fine-tuning of one trial. An epoch may span several cuts, and the steps of a cut several epochs.

    Args:
      recipe: learning rate, its schedule, and the number of epochs.
      data: trained on `train`, evaluated on `validation`.
      section: batch size.
      teacher: makes the network that the recipe distils from.
      seed: of shuffling and augmentation.
      history: history rows are appended to this list; the caller keeps them if the trial fails.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: DeviceData,
        section: BaselineSection,
        teacher: Callable[[], nn.Module],
        seed: int,
        history: list[Row],
    ) -> None:
        self._recipe, self._data, self._history = recipe, data, history
        self._steps_per_epoch = steps_per_epoch(len(data.train), section.batch_size)
        self._batches = endless_batches(data.images, data.train, section.batch_size, seed)
        distils = recipe.distil and recipe.epochs
        self._distillation = loop.Distillation(teacher().eval(), recipe.distil, recipe.temperature) if distils else None
        self._factor = optimisers.LR_SCHEDULES[recipe.lr_schedule]
        self._restarts = recipe.lr_schedule in optimisers.RESTARTING
        self._step, self._losses, self._seconds = 0, 0.0, 0.0

    @property
    def steps(self) -> int:
        """Total number of optimiser steps."""
        return self._recipe.epochs * self._steps_per_epoch

    @property
    def sparse_steps(self) -> int:
        """Those before the first cut."""
        return self._recipe.sparse_epochs * self._steps_per_epoch

    def until(
        self,
        end: int,
        pruned: Pruned,
        optimizer: torch.optim.Optimizer,
        before_step: Callable[[], None] = lambda: None,
    ) -> Iterator[Row]:
        """Train up to step `end`, from one cut to the next; yields the history row of every epoch completed.

        before_step: see `loop.train`.
        """
        reapply_masks = masks.hold_masks(pruned.model, pruned.masks) if pruned.masks else _no_masks
        start, steps = (self._step, end - self._step) if self._restarts else (0, self.steps)
        while self._step < end:
            started = time.perf_counter()
            stop = min(end, (self._step // self._steps_per_epoch + 1) * self._steps_per_epoch)
            rates = [self._recipe.finetune_lr * self._factor((i - start) / steps) for i in range(self._step, stop)]
            loss = loop.train(
                pruned.model, self._batches, optimizer, rates,
                distillation=self._distillation, before_step=before_step, after_step=reapply_masks,
            )  # fmt: skip
            self._losses += loss * len(rates)
            self._step = stop
            epoch_ended = stop % self._steps_per_epoch == 0
            images, rows = self._data.images, self._data.validation
            accuracy = evaluation.evaluate(pruned.model, images, rows) if epoch_ended else 0.0
            self._seconds += time.perf_counter() - started
            if epoch_ended:
                self._history.append(self._row(pruned, accuracy))
                self._losses, self._seconds = 0.0, 0.0
                yield self._history[-1]

    def _row(self, pruned: Pruned, accuracy: float) -> Row:
        return {
            "epoch": self._step // self._steps_per_epoch,
            "progress": self._step / self.steps,
            "sparsity": masks.sparsity(pruned.model, pruned.dense_weights),
            "train_loss": self._losses / self._steps_per_epoch,
            "accuracy": accuracy,
            "seconds": self._seconds,
        }


def _no_masks() -> None:
    """The `after_step` of a network without masks."""
