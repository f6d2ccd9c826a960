"""Notice weights that were trained with another mean and standard deviation of the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from study.training import evaluation
from study.training.device_data import Images

USUAL = {  # mean and std per channel; of one number where all channels have the same
    "ImageNet's": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "CIFAR-10's": ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "[-1, 1]": ([0.5], [0.5]),
    "[0, 1]": ([0.0], [1.0]),
}
MOST_IMAGES = 2000
GAIN = 0.03  # of accuracy, from which on it is no accident


def advice(model: nn.Module, images: Images, rows: Tensor) -> str:
    """A line naming the usual normalisation under which the network is much more accurate than under `images`'s; or "".

    rows: int64 (n,) of the validation images; of many, some are taken.
    """
    rows = rows[:: -(-len(rows) // MOST_IMAGES)]
    channels, own = len(images.mean), evaluation.evaluate(model, images, rows)
    found = {}
    for name, values in USUAL.items():
        if len(values[0]) in (1, channels):
            mean, std = (torch.tensor(v, device=images.mean.device).expand(channels).contiguous() for v in values)
            found[name] = evaluation.evaluate(model, images._replace(mean=mean, std=std), rows), mean, std
    name = max(found, key=lambda name: found[name][0])
    accuracy, mean, std = found[name]
    if accuracy < own + GAIN:
        return ""
    numbers = (f"[{','.join(f'{value:.4g}' for value in values.tolist())}]" for values in (mean, std))
    settings = " ".join(f"--set baseline.{key}={value}" for key, value in zip(("mean", "std"), numbers, strict=True))
    return (
        f"the network seems trained with other inputs: validation accuracy {own:.4f} with this mean and std of the "
        f"images, {accuracy:.4f} with {name}: {settings}"
    )
