"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn

from study.training.device_data import Batch
from study.training.precision import precision


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    learning_rates: Iterable[float],
    *,
    label_smoothing: float = 0.0,
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """One optimiser step per learning rate, each on the next batch; the mean loss.

    `before_step` runs once the gradients are there, `after_step` after every step (masks are put back there). Raises
    FloatingPointError where the loss is no finite number.
    """
    model.train()
    total, steps = torch.zeros((), device=next(model.parameters()).device), 0
    # The rates come first in zip: once they are used up, no batch is drawn in vain.
    for learning_rate, (inputs, labels) in zip(learning_rates, batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        with precision(inputs.device):
            loss = F.cross_entropy(model(inputs), labels, label_smoothing=label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        before_step()
        optimizer.step()
        after_step()
        total += loss.detach()  # no .item(): that would make the GPU wait in every step
        steps += 1
    mean = total.item() / max(1, steps)
    if not math.isfinite(mean):
        raise FloatingPointError(f"training diverged: the mean loss over {steps} steps is {mean}")
    return mean


def slimming(model: nn.Module, strength: float) -> Callable[[], None]:
    """A `before_step` that adds the subgradient of strength * sum of abs(gamma) over all batch norms.

    Network slimming (Liu et al. 2017, arXiv:1708.06519): channels that the network can do without get a gamma near 0.
    """
    gammas = [m.weight for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]

    def add() -> None:
        with torch.no_grad():
            for gamma in gammas if strength else ():
                if gamma.grad is not None:
                    gamma.grad.add_(gamma.sign(), alpha=strength)

    return add
