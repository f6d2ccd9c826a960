"""Train, evaluate and recalibrate a network on images that lie whole on its device."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from study.data import Data, augment, normalise

Batch = tuple[Tensor, Tensor]
PRECISIONS = ("fp32", "bf16")


class Images(NamedTuple):
    """A data set on a device: images uint8 (N, H, W, C), labels int64 (N,), mean and std of the train images (C,)."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> Batch:
        """Images (B, C, H, W), normalised (augmented by `generator`'s draws if one is given), and labels (B,)."""
        images = self.images[rows]
        if generator is not None:
            images = augment(images, generator)
        inputs = normalise(images, self.mean, self.std)
        if (layout := memory_format(inputs.device)) is torch.contiguous_format:
            # Images of one channel are contiguous either way, and with these strides convolutions take them for
            # channels last: only a copy is laid out as `memory_format` wants it.
            return inputs.clone(memory_format=layout), self.labels[rows]
        return inputs.contiguous(memory_format=layout), self.labels[rows]


def on_device(data: Data, device: torch.device) -> Images:
    """`data` on `device`; on the CPU without a copy."""
    with warnings.catch_warnings():
        # Arrays that workers share are read-only, of which from_numpy warns; nothing here writes to them.
        warnings.simplefilter("ignore", UserWarning)
        return Images(
            *(torch.from_numpy(array).to(device) for array in (data.images, data.labels, data.mean, data.std))
        )


def gains_by_bf16(device: torch.device) -> bool:
    """Whether networks run in bfloat16: where `device` multiplies it in hardware; emulated it is many times slower.

    The environment's STUDY_PRECISION, `bf16` or `fp32`, decides instead where it is set. Raises ValueError for others.
    """
    if forced := forced_precision():
        return forced == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def forced_precision() -> str | None:
    """What STUDY_PRECISION asks for, to repeat another machine's rows on this one; None if it is not set."""
    forced = os.environ.get("STUDY_PRECISION") or None
    if forced not in (None, *PRECISIONS):
        raise ValueError(f"STUDY_PRECISION={forced}: choices: {', '.join(PRECISIONS)}")
    return forced


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where bf16 is gained too, else contiguous.

    On processors without bf16 channels last gains 5 %, and oneDNN's AVX2 kernel for the weight gradient of 1x1
    convolutions crashes on it for some odd channel counts, such as cut networks have (torch 2.15, 3 -> 8 channels).
    """
    return torch.channels_last if gains_by_bf16(device) else torch.contiguous_format


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, moved to `device` in its `memory_format`."""
    return model.to(device).to(memory_format=memory_format(device))


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bf16 autocast where the device gains by it, plain fp32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gains_by_bf16(device))


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Batches in an epoch: whole ones only (batch norm cannot learn from a rest of one), but at least one."""
    return max(1, samples // batch_size)


def endless_batches(images: Images, rows: Tensor, batch_size: int, augmented: bool, seed: int) -> Iterator[Batch]:
    """Batches of `rows` for ever, shuffled anew for every epoch; all draws come from `seed`."""
    generator = torch.Generator(rows.device).manual_seed(seed)
    while True:
        shuffled = rows[torch.randperm(len(rows), generator=generator, device=rows.device)]
        for step in range(steps_per_epoch(len(rows), batch_size)):
            chosen = shuffled[step * batch_size : (step + 1) * batch_size]
            yield images.batch(chosen, generator if augmented else None)


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


@torch.inference_mode()
def evaluate(model: nn.Module, images: Images, rows: Tensor, batch_size: int = 500) -> float:
    """Share of `rows` that the model, in eval mode, classifies right, in [0, 1]."""
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=rows.device)
    for chosen in rows.split(batch_size):
        inputs, labels = images.batch(chosen)
        with precision(inputs.device):
            right += (model(inputs).argmax(1) == labels).sum()
    return right.item() / len(rows)


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    images: Images,
    rows: Tensor,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> None:
    """Batch norm's running statistics anew: the average over `rows`, seen once, augmented by the generator's draws.

    As the network was trained: statistics of unaugmented images cost a ResNet-20 that had seen padded crops 4 points.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's cumulative average
    model.eval()  # dropout stays off, so that only the batch norms see a difference
    for norm in norms:
        norm.train()
    for chosen in rows.split(batch_size):
        if len(chosen) > 1:
            with precision(rows.device):
                model(images.batch(chosen, generator)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def rows_of(indices: np.ndarray, device: torch.device) -> Tensor:
    """Index array -> int64 tensor on `device`."""
    return torch.tensor(indices, device=device)


def constant(progress: float) -> float:
    """1, always."""
    return 1.0


def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, arXiv 1608.03983, no restarts)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def one_cycle(progress: float, warm_up: float = 0.25) -> float:
    """Linear from 1/25 to 1 over the first quarter, then half a cosine to 0 (after Smith 2018, arXiv 1803.09820)."""
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return cosine((progress - warm_up) / (1 - warm_up))


def sgd(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Nesterov momentum 0.9."""
    return torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with torch's defaults."""
    return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)


LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "constant": constant,
    "one_cycle": one_cycle,
}
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float, float], torch.optim.Optimizer]] = {
    "sgd": sgd,
    "adamw": adamw,
}
