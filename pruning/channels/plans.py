"""Plans: which channels to remove, as plain JSON that can be read, checked, saved and composed.

A plan uses the indices of the network it is for, and lists all its convolution, linear and norm layers:

    {"version": 1, "layers": {"conv1": {"out": {"of": 4, "removed": [1]}, "in": {"of": 3, "removed": []}}, ...}}

Norms have no "in". Nor have parameters that scale or shift channels (ConvNeXt's layer_scale), which are listed under
their own name. Further keys: "groups": 32, of a convolution, removed only as a whole; "norm_groups": 8, of a group
norm, which all lose equally many channels; "heads": 2, of attention, whose "out" are
queries, keys and values, removed head by head; "transposed": true, for a weight stored as (in, out, ...); "pad":
[0, 0, 0, 0, 8, 8], of a module that pads channels with zeros by that argument of F.pad, and their axis "pad_axis": -3.
"""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable
from typing import Any

Plan = dict[str, Any]

VERSION = 1
SIDES = ("out", "in")
DEFAULTS = {"groups": 1, "norm_groups": 1, "transposed": False}  # of further keys that a layer leaves out
KEYS = {*SIDES, *DEFAULTS, "heads", "pad", "pad_axis"}


def compose(first: Plan, second: Plan) -> Plan:
    """The plan of two successive cuts, in indices of the first one's network; `second` is for what `first` leaves.

    Raises ValueError if `second` is for another network.
    """
    check_plan(first)
    check_plan(second)
    if sizes(after(first)) != sizes(second):
        raise ValueError("the second plan is not for the network that the first one leaves")

    def both(path: str, side: str) -> dict[str, Any]:
        one = first["layers"][path][side]
        place = kept(one)
        again = [place[i] for i in second["layers"][path][side]["removed"]]
        return {"of": one["of"], "removed": sorted([*one["removed"], *again])}

    return check_plan(_with_axes(first, both))


def remainder(whole: Plan, first: Plan) -> Plan:
    """What remains to be cut after `first` to reach `whole`.

    That is, `whole` equals compose(first, remainder(whole, first)). The result is for the network that `first` leaves,
    which may have been fine-tuned since. Raises ValueError unless both are for one network and `whole` contains
    `first`.
    """
    check_plan(whole)
    check_plan(first)
    if sizes(whole) != sizes(first):
        raise ValueError("the plans are for different networks")

    def rest(path: str, side: str) -> dict[str, Any]:
        one, goal = first["layers"][path][side], set(whole["layers"][path][side]["removed"])
        if not goal.issuperset(one["removed"]):
            raise ValueError(f"the whole plan keeps {side} channels of {path!r} that the first one removes")
        place = kept(one)
        return {"of": len(place), "removed": [i for i, dense in enumerate(place) if dense in goal]}

    return _with_axes(after(first), rest)


def after(plan: Plan) -> Plan:
    """The plan that removes nothing from the network that `plan` leaves."""
    nothing = _with_axes(plan, lambda path, side: {"of": len(kept(plan["layers"][path][side])), "removed": []})
    for path, layer in nothing["layers"].items():
        if "groups" in layer:
            layer["groups"] = layer["groups"] * layer["out"]["of"] // plan["layers"][path]["out"]["of"]
        if "heads" in layer:
            layer["heads"] = layer["heads"] * layer["out"]["of"] // plan["layers"][path]["out"]["of"]
        if "pad" in layer:
            place, start = _pad_place(layer := plan["layers"][path])
            first = start - sum(i < start for i in layer["out"]["removed"])
            total = nothing["layers"][path]["out"]["of"] - nothing["layers"][path]["in"]["of"]
            pad = [*layer["pad"][:place], first, total - first, *layer["pad"][place + 2 :]]
            nothing["layers"][path]["pad"] = pad
    return nothing


def check_plan(plan: Plan) -> Plan:
    """Returns the plan if it is well formed; otherwise raises ValueError naming the layer."""
    if not isinstance(plan, dict) or plan.get("version") != VERSION or not isinstance(plan.get("layers"), dict):
        raise ValueError(f"not a plan of version {VERSION}, which is a mapping of version and layers")
    for path, layer in plan["layers"].items():
        axes = [layer[side] for side in SIDES if side in layer] if isinstance(layer, dict) else []
        if not axes or "out" not in layer or not all(_is_axis(axis) for axis in axes):
            raise ValueError(
                f"plan, layer {path!r}: each of out and in is 0 <= rising removed < of, and not all of them"
            )
        if not layer.keys() <= KEYS or not isinstance(layer.get("transposed", False), bool):
            raise ValueError(
                f"plan, layer {path!r}: its keys are {', '.join(sorted(KEYS))}; transposed is true or false"
            )
        if "groups" in layer and not _whole_groups(layer["groups"], axes):
            raise ValueError(
                f"plan, layer {path!r}: of its {reprlib.repr(layer['groups'])} groups only whole ones can be removed"
            )
        if "norm_groups" in layer and not _equal_groups(layer["norm_groups"], layer["out"]):
            raise ValueError(
                f"plan, layer {path!r}: its {reprlib.repr(layer['norm_groups'])} norm_groups don't lose equally many"
            )
        if "heads" in layer and not _whole_heads(layer["heads"], layer["out"]):
            heads = reprlib.repr(layer["heads"])
            raise ValueError(f"plan, layer {path!r}: of its {heads} heads only whole ones can be removed")
        if "pad" in layer and not _is_padded(layer):
            raise ValueError(f"plan, layer {path!r}: its out channels are not its in channels with zeros of pad beside")
    return plan


def sizes(plan: Plan) -> dict[str, dict[str, Any]]:
    """Sizes of every layer of the network that a plan is for: out, and where present in and further keys."""
    return {
        path: {key: n["of"] if key in SIDES else n for key, n in layer.items() if n != DEFAULTS.get(key)}
        for path, layer in plan["layers"].items()
    }


def weight_sides(layer: dict[str, Any]) -> tuple[str, ...]:
    """The sides along the leading axes of a layer's weight; one side for norms and grouped convolutions."""
    sides = ("in", "out") if layer.get("transposed") else SIDES
    return tuple(side for side in sides[: 1 if layer.get("groups", 1) > 1 else 2] if side in layer)


def kept(axis: dict[str, Any]) -> list[int]:
    """The places of a plan's axis that remain, ascending."""
    return sorted(set(range(axis["of"])).difference(axis["removed"]))


def _with_axes(plan: Plan, axis: Callable[[str, str], dict[str, Any]]) -> Plan:
    """A copy of `plan` with every axis replaced by axis(path, side)."""
    layers = {
        path: {**layer, **{side: axis(path, side) for side in SIDES if side in layer}}
        for path, layer in plan["layers"].items()
    }
    return {**plan, "layers": layers}


def _is_axis(axis: Any) -> bool:
    """Whether a plan's axis is well formed: 0 <= ascending removed < of, and not all removed."""
    if not isinstance(axis, dict) or type(axis.get("of")) is not int or not isinstance(axis.get("removed"), list):
        return False
    removed = axis["removed"]
    rising = all(type(i) is int for i in removed) and all(a < b for a, b in itertools.pairwise(removed))
    return rising and len(removed) < axis["of"] and (not removed or 0 <= removed[0] <= removed[-1] < axis["of"])


def _whole_groups(groups: Any, axes: list[dict[str, Any]]) -> bool:
    """Whether every axis loses the same whole groups and nothing else."""
    if type(groups) is not int or groups < 1 or any(axis["of"] % groups for axis in axes):
        return False
    gone = [{i * groups // axis["of"] for i in axis["removed"]} for axis in axes]
    return all(
        touched == gone[0] and len(axis["removed"]) == len(touched) * axis["of"] // groups
        for touched, axis in zip(gone, axes, strict=True)
    )


def _equal_groups(groups: Any, axis: dict[str, Any]) -> bool:
    """Whether all groups lose equally many places."""
    if type(groups) is not int or groups < 1 or axis["of"] % groups:
        return False
    gone = [i * groups // axis["of"] for i in axis["removed"]]
    return not gone or all(gone.count(group) * groups == len(gone) for group in range(groups))


def _whole_heads(heads: Any, axis: dict[str, Any]) -> bool:
    """Whether queries, keys and values lose the same whole heads."""
    if type(heads) is not int or not _whole_groups(3 * heads, [axis]):
        return False
    gone = {i * 3 * heads // axis["of"] for i in axis["removed"]}
    return gone == {head % heads + part * heads for head in gone for part in range(3)}


def _pad_place(layer: dict[str, Any]) -> tuple[int, int]:
    """The place in a layer's `pad` of the two numbers for the channels, and the first of them."""
    place = -2 * layer["pad_axis"] - 2
    return place, layer["pad"][place]


def _is_padded(layer: dict[str, Any]) -> bool:
    """Whether a layer that pads channels with zeros loses the same channels before and after it."""
    pad, axis = layer["pad"], layer.get("pad_axis")
    if "in" not in layer or not isinstance(pad, list) or any(type(n) is not int for n in pad) or type(axis) is not int:
        return False
    if not -len(pad) <= 2 * axis < 0 or len(pad) % 2 or min(pad) < 0:
        return False
    place, start = _pad_place(layer)
    inner = range(start, start + layer["in"]["of"])
    fits = layer["out"]["of"] - len(inner) == sum(pad[place : place + 2])
    same = [i - start for i in layer["out"]["removed"] if i in inner] == layer["in"]["removed"]
    return bool(fits and same)
