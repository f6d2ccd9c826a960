"""Fine-tuning as one stream of optimiser steps, evenly shared by the cuts, with a record after every epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pruning import masks
from pruning.cutting import Pruned
from study import training
from study.config import Recipe

Record = dict[str, Any]


class FineTuning:
    """The stream of a trial. An epoch's record may span several cuts, and a cut several epochs."""

    def __init__(
        self,
        recipe: Recipe,
        images: training.Images,
        train: Tensor,
        validation: Tensor,
        batch_size: int,
        augmented: bool,
        seed: int,
        history: list[Record],
    ) -> None:
        self._history = history  # the caller's: what is in it stays, should the trial fail
        self._recipe, self._images, self._validation = recipe, images, validation
        self._epoch = training.steps_per_epoch(len(train), batch_size)
        self._batches = training.endless_batches(images, train, batch_size, augmented, seed)
        self._step, self._losses, self._seconds = 0, 0.0, 0.0

    @property
    def steps(self) -> int:
        """Optimiser steps in all."""
        return self._recipe.epochs * self._epoch

    def until(self, end: int, pruned: Pruned, optimizer: torch.optim.Optimizer) -> Iterator[Record]:
        """Train up to step `end`; yields the record of every epoch that ends on the way."""
        hold = masks.hold_masks(pruned.model, pruned.masks) if pruned.masks else _nothing
        factor = training.LR_SCHEDULES[self._recipe.lr_schedule]
        while self._step < end:
            started = time.perf_counter()
            stop = min(end, (self._step // self._epoch + 1) * self._epoch)
            rates = [self._recipe.finetune_lr * factor(step / self.steps) for step in range(self._step, stop)]
            loss = training.train(pruned.model, self._batches, optimizer, rates, after_step=hold)
            self._losses += loss * len(rates)
            self._step = stop
            done = stop % self._epoch == 0
            accuracy = training.evaluate(pruned.model, self._images, self._validation) if done else 0.0
            self._seconds += time.perf_counter() - started
            if done:
                self._history.append(self._record(pruned, accuracy))
                self._losses, self._seconds = 0.0, 0.0
                yield self._history[-1]

    def _record(self, pruned: Pruned, accuracy: float) -> Record:
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
