"""What the parts of `benchmarks.gpu` share: a check as a line of its table, what was asked for, random images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from study.data.splits import Data

OK, WRONG, SKIPPED = "ok", "WRONG", "skipped"
TIME_IS_UP = "the part's minutes were over"


class Check(NamedTuple):
    """A line of the table: what was looked at in which part, its value and unit, the verdict, and why."""

    part: str
    what: str
    value: Any = ""
    unit: str = ""
    verdict: str = OK
    why: str = ""


class Given(NamedTuple):
    """What was asked for.

    Attributes:
      device: where to run.
      toy: sizes that a CPU manages in seconds.
      end: time.monotonic() after which a part begins nothing more.
      epochs: of a baseline's training.
      batch_size: of a baseline's training.
      images: a folder with train/<class>/* and test/<class>/*; None: random images.
    """

    device: torch.device
    toy: bool
    end: float
    epochs: int
    batch_size: int
    images: Path | None

    @property
    def left(self) -> float:
        """Seconds until `end`."""
        return self.end - time.monotonic()


def guarded(part: str, what: str, given: Given, work: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks of `work`; an exception becomes a line WRONG with its reason. Skipped where no time is left."""
    if given.left <= 0:
        yield Check(part, what, verdict=SKIPPED, why=TIME_IS_UP)
        return
    try:
        yield from work()
    except Exception as error:  # whatever fails on a GPU is a finding, and the checks after it still count
        yield Check(part, what, verdict=WRONG, why=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def random_data(train: int, validation: int, test: int, side: int, classes: int = 10) -> Data:
    """Random images (side, side, 3) with random labels: for speed, and for what does not depend on what they show."""
    generator, count = np.random.default_rng(0), train + validation + test
    images = generator.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = generator.permutation(np.arange(count) % classes)
    first, second, third = np.split(np.arange(count), [train, train + validation])
    grey, spread = np.full(3, 0.5, np.float32), np.full(3, 0.29, np.float32)
    return Data(images, labels, first, second, third, tuple(map(str, range(classes))), grey, spread, f"random {count}")


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
