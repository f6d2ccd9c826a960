"""Plans applied: a network cut or masked, and what belongs to its parameters sliced as they are."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.channels.layers import CONVS, CUTTABLE, NORMS, TRANSPOSED, longest, scales
from pruning.channels.plans import DEFAULTS, SIDES, Plan, after, check_plan, kept, sizes, weight_sides


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` without the plan's channels: smaller tensors, and the layers' attributes to match.

    Values, dtypes, devices, memory formats, requires_grad and modes stay; gradients are not copied. Replayed on the
    same weights it gives the same bits. Raises ValueError, before anything is copied, if the plan is not well formed
    or is for another network.
    """
    check_fit(model, plan)
    memo: dict[int, Any] = {}
    for name, tensor in _tensors(model):
        smaller = slice_like(name, tensor.detach(), plan)
        if smaller.shape != tensor.shape:
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(smaller, tensor.requires_grad) if is_parameter else smaller
    small = copy.deepcopy(model, memo)
    layers = after(plan)["layers"]
    for path, module in small.named_modules():
        for key, attribute in _attributes(module).items():
            if key in layers[path]:
                size: Any = layers[path][key]["of"] if key in SIDES else layers[path][key]
                if isinstance(module, nn.LayerNorm):
                    size = (size, *module.normalized_shape[1:])
                setattr(module, attribute, size)
    return small


def mask_units(model: nn.Module, plan: Plan, sides: tuple[str, ...] = SIDES) -> None:
    """Zero in place what the plan would cut: the function of the cut network in the shapes of the dense one.

    "out": the filters, biases, gammas, betas and running means of the channels; "in": the weights that read them.
    After "out" alone a channel is zero wherever only batch norms and functions with f(0) = 0 follow. It is another
    function where a layer or group norm follows, which takes the zeros into its statistics. Raises ValueError as
    `apply_plan` does.
    """
    check_fit(model, plan)
    with torch.no_grad():
        for name, tensor in _tensors(model):
            for dim, side, axis in _axes(name, tensor, plan):
                if side in sides and not name.endswith("running_var"):
                    tensor.index_fill_(dim, torch.tensor(axis["removed"], dtype=torch.long, device=tensor.device), 0)


def slice_like(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """What the plan leaves of a tensor shaped as the parameter or buffer `name`: its momentum, its mask, its scores.

    Returns a new tensor in the memory format of the old; the tensor itself if nothing of it is cut, or if it has no
    axes, as a step counter. Raises ValueError if it has not the shape it has in the plan's network.
    """
    axes = _axes(name, tensor, plan)
    shape = [axis["of"] for _, _, axis in axes]
    if [tensor.shape[dim] for dim, _, _ in axes if dim < tensor.ndim] != shape:
        raise ValueError(f"{name!r} is {tuple(tensor.shape)}; in the plan's network its channels are {shape}")
    channels_last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.permute(0, 2, 3, 1).is_contiguous()
    for dim, _, axis in axes:
        if axis["removed"]:
            tensor = tensor.index_select(dim, torch.tensor(kept(axis), device=tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def carry_state(old: Optimizer, old_model: nn.Module, new: Optimizer, new_model: nn.Module, plan: Plan) -> None:
    """Give a cut network's new optimiser the old one's state, for the channels that stay.

    old, new: optimisers of one kind, of old_model and of new_model = apply_plan(old_model, plan). State shaped as its
    parameter (momentum, second moments) is sliced as the parameter was, other state copied; hyperparameters (learning
    rate, ...) stay as `new` has them. Raises ValueError if the optimisers differ in kind.
    """
    if type(old) is not type(new):
        raise ValueError(f"the state of {type(old).__name__} can't be carried over to {type(new).__name__}")
    owned = {id(parameter) for group in new.param_groups for parameter in group["params"]}
    heirs = {name: heir for name, heir in new_model.named_parameters() if id(heir) in owned}
    for name, parameter in old_model.named_parameters():
        if name in heirs and parameter in old.state:
            new.state[heirs[name]] = {
                key: slice_like(name, value, plan).clone() if isinstance(value, Tensor) else copy.copy(value)
                for key, value in old.state[parameter].items()
            }


def check_fit(model: nn.Module, plan: Plan) -> None:
    """Raises ValueError unless the plan is well formed and lists just the model's layers, each of its size."""
    found, wanted = layer_sizes(model), sizes(check_plan(plan))
    for path in [*found, *wanted]:
        if found.get(path) != wanted.get(path):
            raise ValueError(
                f"the plan is for another network: its {path!r} is {wanted.get(path, 'not there')}, "
                f"that of this {type(model).__name__} {found.get(path, 'not there')}"
            )


def layer_sizes(model: nn.Module) -> dict[str, dict[str, int]]:
    """As `pruning.plans.sizes`, of the layers of a model that plans are about, in module order."""
    found: dict[str, dict[str, int]] = {}
    for path, layer in model.named_modules():
        sized = {key: getattr(layer, attribute) for key, attribute in _attributes(layer).items()}
        if sized:
            sized |= {"out": sized["out"][0]} if isinstance(layer, nn.LayerNorm) else {}
            found[path] = {key: n for key, n in sized.items() if n != DEFAULTS.get(key)}
    return found | {name: {"out": tensor.numel()} for name, tensor in scales(model).items()}


def _attributes(layer: nn.Module) -> dict[str, str]:
    """Key of a plan's layer -> the layer's attribute; empty for modules that plans are not about."""
    if type(layer) not in CUTTABLE:
        return {}
    if isinstance(layer, (*CONVS, *TRANSPOSED)):
        return {"out": "out_channels", "in": "in_channels", "groups": "groups", "transposed": "transposed"}
    if isinstance(layer, nn.GroupNorm):
        return {"out": "num_channels", "norm_groups": "num_groups"}
    if isinstance(layer, nn.Linear):
        return {"out": "out_features", "in": "in_features"}
    return {"out": "num_features" if isinstance(layer, NORMS) else "normalized_shape"}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


def _axes(name: str, tensor: Tensor, plan: Plan) -> list[tuple[int, str, dict]]:
    """Where channels lie in a parameter or buffer: dimension, side (a grouped convolution's: out), the plan's axis."""
    path, _, key = name.rpartition(".")
    if tensor.ndim == 0 or not {name, path} & plan["layers"].keys():
        return []
    if name in plan["layers"]:
        return [(longest(tensor), "out", plan["layers"][name]["out"])]
    layer = plan["layers"][path]
    on = weight_sides(layer) if key == "weight" else ("out",)
    return [(dim, side if len(on) > 1 else "out", layer[side]) for dim, side in enumerate(on)]
