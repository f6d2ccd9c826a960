"""Plans, and what they do to a network: cut it, mask it, slice what belongs to it, follow one another.

A plan is plain JSON, in indices of the network it is for, of which it lists every convolution, linear and norm layer:

    {"version": 1, "layers": {"conv1": {"out": {"of": 4, "removed": [1]}, "in": {"of": 3, "removed": []}}, ...}}

A norm has no "in"; a convolution of several groups also has "groups": 32, of which only whole ones are removed.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pruning.channel_rules import CONVS, CUTTABLE

Plan = dict[str, Any]

VERSION = 1
SIDES = ("out", "in")


def apply_plan(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` without the plan's channels: smaller tensors, and the layers' attributes to match.

    Values, dtypes, devices, memory formats, requires_grad and modes stay; gradients are not copied. Replayed on the
    same weights it gives the same bits. Raises ValueError, before anything is copied, if the plan is not well formed
    or is for another network.
    """
    check_fit(model, plan)
    memo: dict[int, Any] = {}
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        smaller = slice_like(name, tensor.detach(), plan)
        if smaller.shape != tensor.shape:
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(smaller, tensor.requires_grad) if is_parameter else smaller
    small = copy.deepcopy(model, memo)
    for path, layer in plan["layers"].items():
        for attribute, size in _sizes(left(layer)).items():
            setattr(small.get_submodule(path), _attributes(small.get_submodule(path))[attribute], size)
    return small


def mask_units(model: nn.Module, plan: Plan, sides: tuple[str, ...] = SIDES) -> None:
    """Zero in place what the plan would cut: the function of the cut network in the shapes of the dense one.

    "out": the filters, biases, gammas, betas and running means of the channels; "in": the weights that read them.
    After "out" alone a channel is zero wherever only norms and functions with f(0) = 0 follow. Raises ValueError as
    `apply_plan` does.
    """
    check_fit(model, plan)
    with torch.no_grad():
        for path, layer in plan["layers"].items():
            module = model.get_submodule(path)
            if "in" in sides and "in" in layer and "groups" not in layer:
                module.weight[:, layer["in"]["removed"]] = 0
            for key in ("weight", "bias", "running_mean") if "out" in sides else ():
                if (tensor := getattr(module, key, None)) is not None:
                    tensor[layer["out"]["removed"]] = 0


def slice_like(name: str, tensor: Tensor, plan: Plan) -> Tensor:
    """What the plan leaves of a tensor shaped as the parameter or buffer `name`: its momentum, its mask, its scores.

    Returns a new tensor in the memory format of the old; the tensor itself if nothing of it is cut, or if it has no
    axes, as a step counter. Raises ValueError if it has not the shape it has in the plan's network.
    """
    path, _, key = name.rpartition(".")
    layer = plan["layers"].get(path)
    if layer is None or tensor.ndim == 0:
        return tensor
    reads = key == "weight" and "in" in layer and "groups" not in layer
    axes = [layer["out"], layer["in"]] if reads else [layer["out"]]
    sizes = [axis["of"] for axis in axes]
    if list(tensor.shape[: len(axes)]) != sizes:
        raise ValueError(f"{name!r} is {tuple(tensor.shape)}; in the plan's network its first axes are {sizes}")
    channels_last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.permute(0, 2, 3, 1).is_contiguous()
    for dim, axis in enumerate(axes):
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


def compose(first: Plan, second: Plan) -> Plan:
    """The plan of two cuts in turn, in indices of the first one's network; `second` is for what `first` leaves.

    Raises ValueError if `second` is for another network.
    """
    check_plan(first)
    check_plan(second)
    if _network(_after(first)) != _network(second):
        raise ValueError("the second plan is not for the network that the first one leaves")

    def both(path: str, side: str) -> dict:
        one = first["layers"][path][side]
        place = kept(one)
        again = [place[i] for i in second["layers"][path][side]["removed"]]
        return {"of": one["of"], "removed": sorted([*one["removed"], *again])}

    return check_plan(_with_axes(first, both))


def remainder(whole: Plan, first: Plan) -> Plan:
    """What is still to be cut after `first` to come to `whole`: compose(first, remainder(whole, first)) == whole.

    Both are for one network and `whole` contains `first`, otherwise ValueError is raised. The result is for the
    network that `first` leaves, such as one that was fine-tuned since.
    """
    check_plan(whole)
    check_plan(first)
    if _network(whole) != _network(first):
        raise ValueError("the plans are for different networks")

    def rest(path: str, side: str) -> dict:
        one, goal = first["layers"][path][side], set(whole["layers"][path][side]["removed"])
        if not goal.issuperset(one["removed"]):
            raise ValueError(f"the whole plan keeps {side} channels of {path!r} that the first one removes")
        place = kept(one)
        return {"of": len(place), "removed": [i for i, dense in enumerate(place) if dense in goal]}

    return _with_axes(_after(first), rest)


def check_plan(plan: Plan) -> Plan:
    """The plan itself, if it is well formed; ValueError, with the layer, if not."""
    if not isinstance(plan, dict) or plan.get("version") != VERSION or not isinstance(plan.get("layers"), dict):
        raise ValueError(f"not a plan of version {VERSION}: a mapping of version and layers")
    for path, layer in plan["layers"].items():
        sides = [side for side in SIDES if side in layer] if isinstance(layer, dict) else []
        if "out" not in sides or not all(_is_axis(layer[side]) for side in sides):
            raise ValueError(f"plan, layer {path!r}: wants out (and in) with 0 <= rising removed < of, and some left")
        if layer.get("groups", 1) != 1 and len({_removed_groups(layer, side) for side in sides}) != 1:
            raise ValueError(f"plan, layer {path!r}: of its {layer['groups']} groups only whole ones can be removed")
    return plan


def check_fit(model: nn.Module, plan: Plan) -> None:
    """Raises ValueError unless the plan is well formed and lists just the model's layers, each of its size."""
    check_plan(plan)
    found, wanted = network_of(model), _network(plan)
    for path in [*found, *wanted]:
        if found.get(path) != wanted.get(path):
            raise ValueError(
                f"the plan is for another network: {path!r} is {wanted.get(path, 'absent')} in it, "
                f"{found.get(path, 'absent')} in {type(model).__name__}"
            )


def network_of(model: nn.Module) -> dict[str, dict[str, int]]:
    """Sizes of every layer that plans are about, in module order: out, and if there are any in, and groups > 1."""
    return {
        path: {key: size for key, name in _attributes(layer).items() if (size := getattr(layer, name)) > 1 or key in SIDES}
        for path, layer in model.named_modules()
        if type(layer) in CUTTABLE
    }


def kept(axis: dict) -> list[int]:
    """The places of a plan's axis that stay."""
    return sorted(set(range(axis["of"])).difference(axis["removed"]))


def _attributes(layer: nn.Module) -> dict[str, str]:
    if isinstance(layer, CONVS):
        return {"out": "out_channels", "in": "in_channels", "groups": "groups"}
    return {"out": "out_features", "in": "in_features"} if isinstance(layer, nn.Linear) else {"out": "num_features"}


def _network(plan: Plan) -> dict[str, dict[str, int]]:
    """As `network_of`, of the network that a plan is for."""
    return {
        path: {side: layer[side]["of"] for side in SIDES if side in layer}
        | ({"groups": layer["groups"]} if layer.get("groups", 1) > 1 else {})
        for path, layer in plan["layers"].items()
    }


def _after(plan: Plan) -> Plan:
    """The plan that cuts nothing from the network that `plan` leaves."""
    nothing = _with_axes(plan, lambda path, side: {"of": len(kept(plan["layers"][path][side])), "removed": []})
    for path, layer in nothing["layers"].items():
        if "groups" in layer:
            layer["groups"] = layer["groups"] * layer["in"]["of"] // plan["layers"][path]["in"]["of"]
    return nothing


def _with_axes(plan: Plan, axis: Callable[[str, str], dict]) -> Plan:
    """A plan as `plan`, but for its axes, which are axis(path, side)."""
    return {
        **plan,
        "layers": {
            path: {**layer, **{side: axis(path, side) for side in SIDES if side in layer}}
            for path, layer in plan["layers"].items()
        },
    }


def _is_axis(axis: Any) -> bool:
    if not isinstance(axis, dict) or type(axis.get("of")) is not int or not isinstance(axis.get("removed"), list):
        return False
    removed = axis["removed"]
    rising = all(type(i) is int for i in removed) and all(a < b for a, b in itertools.pairwise(removed))
    return rising and len(removed) < axis["of"] and (not removed or 0 <= removed[0] <= removed[-1] < axis["of"])


def _removed_groups(layer: dict, side: str) -> tuple[int, ...] | None:
    ...
