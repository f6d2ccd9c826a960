"""The dense network that trials start from, as arrays and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import models
from study.config import BaselineSection
from study.data.splits import Data
from study.training import precision


@dataclass(frozen=True)
class Baseline:
    """The dense network.

    state: its state_dict as arrays, which Ray shares between workers without a copy.
    card: JSON metadata: what `card_of` returns, and its measurements (see `study.baseline.training.make`).
    correct: whether it classifies each test image correctly, bool; None: made by an older version.
    """

    state: dict[str, np.ndarray]
    card: dict[str, Any]
    correct: np.ndarray | None = None

    def network(self, device: torch.device) -> nn.Module:
        """A private copy of the network on `device`."""
        model = models.build(self.card["model"], self.card["num_classes"], tuple(self.card["in_shape"]))
        # torch.tensor copies: all trials on this node share the arrays.
        model.load_state_dict({name: torch.tensor(array) for name, array in self.state.items()})
        return precision.placed(model, device)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The state_dict of `model` as arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def card_of(section: BaselineSection, data: Data) -> dict[str, Any]:
    """The metadata needed to rebuild a saved network and normalise its inputs, and what chance would reach."""
    classes = np.bincount(data.labels[data.validation])
    return {
        "model": section.model,
        "num_classes": len(data.class_names),
        "in_shape": list(data.in_shape),
        "class_names": list(data.class_names),
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
        "validation": "folder" if data.given_validation else "split",
        "validation_images": len(data.validation),
        "largest_class": float(classes.max() / classes.sum()),
    }


def save(folder: Path, baseline: Baseline, about: Mapping[str, Any]) -> None:
    """Save the dense network with `models.save`; `about` is added to the required keys of its card."""
    tensors = {name: torch.tensor(array) for name, array in baseline.state.items()}
    card = {key: baseline.card[key] for key in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
    models.save(folder, tensors, {**card, **about})
