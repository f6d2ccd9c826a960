"""Applies plans: cuts or masks a network, and slices masks, scores and optimiser state accordingly."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.channels.attention import ATTENTION, CutAttention
from pruning.channels.layers import CONVS, CUTTABLE, NORMS, TRANSPOSED, longest, scales
from pruning.channels.padding import Repadded, repad
from pruning.channels.plans import DEFAULTS, SIDES, Plan, after, check_plan, kept, sizes, weight_sides


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` without the plan's channels: smaller tensors, and layer attributes updated to match.

    Values, dtypes, devices, memory formats, requires_grad and train/eval modes are kept; gradients are not copied. The
    same plan and weights give bit-identical results. Raises ValueError, before anything is copied, if the plan is not
    well formed or is for another network.
    """
    check_fit(model, plan)
    memo: dict[int, Any] = {}
    for name, tensor in _parameters_and_buffers(model):
        smaller = slice_like(name, tensor.detach(), plan)
        if smaller.shape != tensor.shape:
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(smaller, tensor.requires_grad) if is_parameter else smaller
    small = copy.deepcopy(model, memo)
    layers = after(plan)["layers"]
    for path, module in small.named_modules():
        for key, attribute in _size_attributes(module).items():
            if key in layers[path]:
                size: Any = layers[path][key]["of"] if key in SIDES else layers[path][key]
                if isinstance(module, nn.LayerNorm):
                    size = (size, *module.normalized_shape[1:])
                setattr(module, attribute, size)
        if type(module) is nn.MultiheadAttention and layers.get(path) != plan["layers"].get(path):
            module.__class__ = CutAttention
        if "pad" in layers.get(path, {}):
            repad(module, plan["layers"][path]["pad"], layers[path])
    return small


def mask_units(model: nn.Module, plan: Plan, sides: tuple[str, ...] = SIDES) -> None:
    """Sets to zero in place what the plan would remove: the cut network's function in the dense network's shapes.

    With "out" alone a channel stays zero only through batch norms and functions with f(0) = 0. After a layer or group
    norm the function differs, as the zeros enter its statistics.

    Args:
      model: the network that the plan is for.
      plan: the channels to mask.
      sides: "out": filters, biases, gammas, betas and running means of the channels; "in": the weights that read them.

    Raises:
      ValueError: as `apply_plan`.
    """
    check_fit(model, plan)
    with torch.no_grad():
        for name, tensor in _parameters_and_buffers(model):
            for dim, side, axis in _channel_axes(name, tensor, plan):
                if side in sides and not name.endswith("running_var"):
                    tensor.index_fill_(dim, torch.tensor(axis["removed"], dtype=torch.long, device=tensor.device), 0)


def slice_like(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """The part of a tensor shaped like parameter or buffer `name` (its momentum, mask or scores) that the plan leaves.

    Returns a new tensor in the same memory format; the tensor itself if nothing is removed or it is a scalar, such as a
    step counter. Raises ValueError if its shape is not that in the plan's network.
    """
    axes = _channel_axes(name, tensor, plan)
    shape = [axis["of"] for _, _, axis in axes]
    if [tensor.shape[dim] for dim, _, _ in axes if dim < tensor.ndim] != shape:
        raise ValueError(f"{name!r} is {tuple(tensor.shape)}; in the plan's network its channels are {shape}")
    channels_last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.permute(0, 2, 3, 1).is_contiguous()
    for dim, _, axis in axes:
        if axis["removed"]:
            tensor = tensor.index_select(dim, torch.tensor(kept(axis), device=tensor.device))
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def carry_state(old: Optimizer, old_model: nn.Module, new: Optimizer, new_model: nn.Module, plan: Plan) -> None:
    """Copies the optimiser state of the remaining channels to the optimiser of the cut network.

    State shaped like its parameter (momentum, second moments) is sliced like the parameter, other state is copied.

    Args:
      old: optimiser of `old_model`.
      old_model: the network before the cut.
      new: optimiser of `new_model`, of the same type; its hyperparameters (learning rate, ...) stay.
      new_model: apply_plan(old_model, plan).
      plan: the cut.

    Raises:
      ValueError: the optimisers differ in type.
    """
    if type(old) is not type(new):
        raise ValueError(f"the state of {type(old).__name__} can't be carried over to {type(new).__name__}")
    owned = {id(parameter) for group in new.param_groups for parameter in group["params"]}
    new_parameters = {name: parameter for name, parameter in new_model.named_parameters() if id(parameter) in owned}
    for name, parameter in old_model.named_parameters():
        if name in new_parameters and parameter in old.state:
            new.state[new_parameters[name]] = {
                key: slice_like(name, value, plan).clone() if isinstance(value, Tensor) else copy.copy(value)
                for key, value in old.state[parameter].items()
            }


def check_fit(model: nn.Module, plan: Plan) -> None:
    """Raises ValueError unless the plan is well formed and lists exactly the model's layers with their sizes."""
    found, wanted = layer_sizes(model), sizes(check_plan(plan))
    modules = dict(model.named_modules())
    for path in [*found, *wanted]:
        if path in modules and path not in found and "pad" in wanted[path]:
            continue  # before its channels are cut, a module that pads them is one like any other
        if found.get(path) != wanted.get(path):
            raise ValueError(
                f"the plan is for another network: its {path!r} is {wanted.get(path, 'not there')}, "
                f"that of this {type(model).__name__} {found.get(path, 'not there')}"
            )


def layer_sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """As `pruning.channels.plans.sizes`, for the layers of a model, in module order."""
    found: dict[str, dict[str, Any]] = {}
    for path, layer in model.named_modules():
        sized: dict[str, Any] = {key: getattr(layer, attribute) for key, attribute in _size_attributes(layer).items()}
        if isinstance(layer, ATTENTION) and layer.in_proj_weight is not None:
            sized["out"] = len(layer.in_proj_weight)
        if isinstance(layer, Repadded):
            sized = {"out": layer.out_channels, "in": layer.in_channels}
            sized |= {"pad": list(layer.now), "pad_axis": layer.pad_axis}
        if sized:
            sized |= {"out": sized["out"][0]} if isinstance(layer, nn.LayerNorm) else {}
            found[path] = {key: n for key, n in sized.items() if n != DEFAULTS.get(key)}
    return found | {name: {"out": tensor.numel()} for name, tensor in scales(model).items()}


def _size_attributes(layer: nn.Module) -> dict[str, str]:
    """Key of a plan's layer -> attribute of the module; empty for modules that plans don't list."""
    if type(layer) not in CUTTABLE:
        return {}
    if isinstance(layer, (*CONVS, *TRANSPOSED)):
        return {"out": "out_channels", "in": "in_channels", "groups": "groups", "transposed": "transposed"}
    if isinstance(layer, ATTENTION):
        return {} if layer.in_proj_weight is None else {"in": "embed_dim", "heads": "num_heads"}
    if isinstance(layer, nn.GroupNorm):
        return {"out": "num_channels", "norm_groups": "num_groups"}
    if isinstance(layer, nn.Linear):
        return {"out": "out_features", "in": "in_features"}
    return {"out": "num_features" if isinstance(layer, NORMS) else "normalized_shape"}


def _parameters_and_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


def _channel_axes(name: str, tensor: Tensor, plan: Plan) -> list[tuple[int, str, dict[str, Any]]]:
    """The channel axes of a parameter or buffer: dimension, side ("out" for grouped convolutions), the plan's axis."""
    path, _, key = name.rpartition(".")
    if tensor.ndim == 0 or not {name, path} & plan["layers"].keys():
        return []
    if name in plan["layers"]:
        return [(longest(tensor), "out", plan["layers"][name]["out"])]
    layer = plan["layers"][path]
    if "pad" in layer:
        return []
    on = weight_sides(layer) if key in ("weight", "in_proj_weight") else ("out",)
    return [(dim, side if len(on) > 1 else "out", layer[side]) for dim, side in enumerate(on)]
