"""The dense network that trials start from, as arrays and a card."""

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
    """Weights of the dense network as arrays (shared between workers without a copy), and its card."""

    state: dict[str, np.ndarray]
    card: dict[str, Any]

    def network(self, device: torch.device) -> nn.Module:
        """A private copy of the network on `device`."""
        model = models.build(self.card["model"], self.card["num_classes"], tuple(self.card["in_shape"]))
        # torch.tensor copies: the arrays belong to all trials of this node.
        model.load_state_dict({name: torch.tensor(array) for name, array in self.state.items()})
        return precision.placed(model, device)


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The state of `model` as arrays on the CPU."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}


def card_of(section: BaselineSection, data: Data) -> dict[str, Any]:
    """What a saved network must carry to be built and fed again."""
    return {
        "model": section.model,
        "num_classes": len(data.class_names),
        "in_shape": list(data.in_shape),
        "class_names": list(data.class_names),
        "mean": data.mean.tolist(),
        "std": data.std.tolist(),
    }


def save(folder: Path, baseline: Baseline, about: Mapping[str, Any]) -> None:
    """Write the dense network as `models.save` does any, with what is `about` it beside what its card must have."""
    tensors = {name: torch.tensor(array) for name, array in baseline.state.items()}
    card = {key: baseline.card[key] for key in ("model", "num_classes", "in_shape", "class_names", "mean", "std")}
    models.save(folder, tensors, {**card, **about})
