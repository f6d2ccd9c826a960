"""Cuts half of the channels of torchvision's classification networks, and checks what the cut networks compute.

    python -m benchmarks.networks [NAME ...] > rows.txt

prints docs/networks.md's table, a row per network as it is done. Weights are random and images small. A cut network is
compared with the dense one in double precision, whose cut channels are zero and left out of its layer norms: "cut" if
they agree to 1e-9 of the largest output.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.layers import LAYER_NORMS
from pruning.channels.plans import Plan, kept
from pruning.channels.surgery import apply_plan, mask_units
from pruning.measure.cost import parameters

NAMES = torchvision.models.list_models(module=torchvision.models)
SIDES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 56}  # of images; 64 for all others
HEAD = "| network | result | units | parameters | of them left |\n|---|---|---:|---:|---:|"


class Result(NamedTuple):
    """What became of a network.

    Attributes:
      name: torchvision's.
      result: "cut", "wrong", or "refused" with the message.
      units: channels, or sets of channels, that can be removed.
      before: parameters of the dense network.
      after: parameters of the cut one.
    """

    name: str
    result: str
    units: int = 0
    before: int = 0
    after: int = 0


def build(name: str) -> tuple[nn.Module, int]:
    """A network with random weights, in eval mode and double precision, and the side of its images."""
    side = SIDES.get(name, 64)
    size: dict[str, Any] = {"image_size": side} if name.startswith("vit") else {}
    with ExitStack() as stack:
        for init in dir(nn.init):  # they take most of the time, and all values are drawn below
            if init.endswith("_") and not init.startswith("_"):
                stack.enter_context(mock.patch.object(nn.init, init, lambda tensor, *args, **kwargs: tensor))
        model = torchvision.models.get_model(name, weights=None, **size).eval().double()
    torch.manual_seed(0)
    with torch.no_grad():
        for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.ndim > 1 and tensor.numel() > max(tensor.shape):
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5) if tensor.is_floating_point() else None
            elif tensor.is_floating_point():
                tensor.uniform_(-0.2, 0.2) if path.endswith(("bias", "mean")) else tensor.uniform_(0.5, 1.5)
    return model, side


@contextmanager
def norms_without(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Context manager: layer norms leave out the channels that a plan removes."""

    def without(layer: Any, inputs: tuple[Tensor, ...], output: Tensor, places: list[int]) -> Tensor:
        axis = 1 if output.ndim == 4 and len(layer.normalized_shape) == 1 and layer.channels_first else -1
        x = inputs[0].movedim(axis, -1)[..., places]
        x = F.layer_norm(x, (len(places),), layer.weight[places], layer.bias[places], layer.eps)
        filled = torch.zeros_like(output.movedim(axis, -1))
        filled[..., places] = x
        return filled.movedim(-1, axis)

    handles = []
    for path, layer in model.named_modules():
        if isinstance(layer, LAYER_NORMS) and plan["layers"][path]["out"]["removed"]:
            vars(layer)["channels_first"] = type(layer) is not nn.LayerNorm
            places = kept(plan["layers"][path]["out"])
            handles.append(layer.register_forward_hook(lambda m, x, y, places=places: without(m, x, y, places)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check(name: str) -> Result:
    """Cuts half of the units of every group of a network, drawn at random, and compares."""
    model, side = build(name)
    images = torch.rand(1, 3, side, side, dtype=torch.float64)
    before = parameters(model)
    try:
        graph = dependency_graph(model, images)
    except ValueError as error:
        return Result(name, f"refused: {error}", before=before)
    generator, removed = np.random.default_rng(0), np.zeros(graph.size, dtype=bool)
    for group in graph.groups:
        removed[group.start + generator.permutation(group.size)[: group.size // 2]] = True
    plan = plan_without(graph, removed)
    small = apply_plan(model, plan)
    after = parameters(small)
    with torch.no_grad():
        found = small(images)
        del small
        mask_units(model, plan)
        with norms_without(model, plan):
            expected = model(images)
    scale = expected.abs().max()
    right = 0 < scale < torch.inf and (found - expected).abs().max() <= 1e-9 * scale
    return Result(name, "cut" if right and after < before else "wrong", graph.size, before, after)


def row(found: Result) -> str:
    """A network's row of the table."""
    left = f"{found.after / found.before:.0%}" if found.after else ""
    return f"| `{found.name}` | {found.result} | {found.units:,} | {found.before:,} | {left} |"


def main() -> None:
    """Prints the table."""
    print(HEAD)
    for name in sys.argv[1:] or NAMES:
        print(row(check(name)), flush=True)


if __name__ == "__main__":
    main()
