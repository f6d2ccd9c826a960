"""The training loop, and distillation: a loss that compares with a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.training.device_data import Batch
from study.training.precision import precision


class Distillation(NamedTuple):
    """Distillation of a teacher's knowledge (Hinton, Vinyals, Dean 2015, arXiv:1503.02531).

    The loss becomes (1 - weight) * cross entropy + weight * temperature^2 * KL(teacher || student), where the logits of
    both networks are divided by the temperature, and the divergence is the mean over the images of a batch.

    teacher: on the student's device; in eval mode. weight: in [0, 1]. temperature: above 0.
    """

    teacher: nn.Module
    weight: float
    temperature: float

    def mixed(self, cross_entropy: Tensor, student: Tensor, inputs: Tensor) -> Tensor:
        """The loss of a batch. student: its logits (B, classes) for `inputs`."""
        with torch.no_grad():
            teacher = F.log_softmax(self.teacher(inputs).float() / self.temperature, dim=1)
        student = F.log_softmax(student.float() / self.temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - self.weight) * cross_entropy + self.weight * self.temperature**2 * divergence


def train(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    learning_rates: Iterable[float],
    *,
    label_smoothing: float = 0.0,
    distillation: Distillation | None = None,
    evaluating: Collection[nn.Module] = (),
    before_step: Callable[[], None] = lambda: None,
    after_step: Callable[[], None] = lambda: None,
) -> float:
    """Train for one optimiser step per learning rate and return the mean loss.

    Args:
      model: the network; set to training mode.
      batches: at least one per learning rate.
      optimizer: of the model's parameters.
      learning_rates: one per step.
      label_smoothing: of the cross-entropy loss, in [0, 1).
      distillation: from a teacher that sees the same batches; None: none.
      evaluating: modules of it that stay in eval mode, such as frozen batch norms.
      before_step: called when the gradients are computed, before the optimiser step.
      after_step: called after every step, for example to reapply masks.

    Raises:
      FloatingPointError: the mean loss is not finite.
    """
    model.train()
    for module in evaluating:
        module.eval()
    total, steps = torch.zeros((), device=next(model.parameters()).device), 0
    # learning_rates first: zip then draws no extra batch at the end.
    for learning_rate, (inputs, labels) in zip(learning_rates, batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        with precision(inputs.device):
            logits = model(inputs)
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
            if distillation:
                loss = distillation.mixed(loss, logits, inputs)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        before_step()
        optimizer.step()
        after_step()
        total += loss.detach()  # no .item(), which would synchronise the GPU every step
        steps += 1
    mean = total.item() / max(1, steps)
    if not math.isfinite(mean):
        raise FloatingPointError(f"training diverged: the mean loss over {steps} steps is {mean}")
    return mean


def slimming(model: nn.Module, strength: float) -> Callable[[], None]:
    """A `before_step` that adds the subgradient of strength * sum of abs(gamma) over all batch norms.

    Network slimming (Liu et al. 2017, arXiv:1708.06519): unimportant channels get a gamma near 0.
    """
    gammas = [m.weight for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]

    def add_subgradients() -> None:
        with torch.no_grad():
            for gamma in gammas if strength else ():
                if gamma.grad is not None:
                    gamma.grad.add_(gamma.sign(), alpha=strength)

    return add_subgradients
