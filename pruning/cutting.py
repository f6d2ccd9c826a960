"""One cut: score -> allocate -> mask or cut, from a network and a target to the network that meets it.

`prune` is the whole of it in one call, for people with their own loop. `begin` and `further` are its two halves, for
loops that cut, train and cut again: every target counts against the dense network, and what is gone stays gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.allocation import allocate, allocate_group, largest_step
from pruning.blocks import block_masks, implied_sparsity, input_axes, pattern
from pruning.channels import Graph, dependency_graph, group_scores
from pruning.criteria import CRITERIA, Batches, Criterion
from pruning.masks import Masks, Scores, apply_masks, prunable
from pruning.plans import Plan, remainder, weight_sides
from pruning.scopes import weight_masks
from pruning.sensitivity import Curves
from pruning.surgery import apply_plan, slice_like

GRANULARITIES = ("weight", "channel", "hybrid", "n:m")  # n:m stands for numbers, such as 2:4


def check_granularity(granularity: str) -> str:
    """The granularity itself; raises ValueError, with the choices, if there is none of that name."""
    if pattern(granularity) is None and granularity not in GRANULARITIES[:-1]:
        raise ValueError(
            f"unknown granularity {granularity!r}; choose from {', '.join(GRANULARITIES[:-1])}, or n:m such as '2:4'"
        )
    return granularity


@dataclass(frozen=True)
class Pruned:
    """A network and what was cut from it so far.

    dense_weights: prunable weights of the dense network. masks: of single weights of `model`. graph, plan: the dense
    network's dependency groups, and the channels gone, in its indices; last: the plan of the last cut alone, in indices
    of the network before it.
    """

    model: nn.Module
    protect: tuple[str, ...]
    dense_weights: int
    granularity: str = "weight"
    masks: Masks | None = None
    graph: Graph | None = None
    plan: Plan | None = None
    last: Plan | None = None


def begin(model: nn.Module, example_input: Tensor, granularity: str = "weight", protect: Sequence[str] = ()) -> Pruned:
    """A dense network about to be cut; for channels, its dependency groups are found (see `dependency_graph`).

    Raises ValueError for an unknown granularity or a module that is not there.
    """
    check_granularity(granularity)
    weights = sum(weight.numel() for weight in prunable(model).values())
    paths = dict(model.named_modules())
    for path in protect:
        if path not in paths:
            raise ValueError(f"protect: there is no module {path!r}; choices: {', '.join(filter(None, paths))}")
    if (kept := pattern(granularity)) and all(_below(name, protect) for name in input_axes(model, kept[1])):
        raise ValueError(f"no layer that may be cut has a multiple of {kept[1]} inputs, so none comes in blocks")
    graph = dependency_graph(model, example_input, protect) if granularity in ("channel", "hybrid") else None
    return Pruned(model, tuple(protect), weights, granularity, graph=graph)


def score(
    pruned: Pruned,
    criterion: Criterion,
    batches: Batches = (),
    generator: torch.Generator | None = None,
    reduce: str = "sum",
) -> Scores:
    """What the criterion makes of the network as it is now: a score per weight, or per unit of each dependency group.

    For hybrid it is that of the units, which go first. Returns parameter name -> scores of the weight's shape, or group
    name -> scores (size,); higher = keep. generator: by default one with seed 0. reduce: see `group_scores`. Raises
    ValueError for weights if the criterion values channels only, and what the criterion raises.
    """
    generator = generator or torch.Generator().manual_seed(0)
    graph = pruned.graph if pruned.granularity in ("channel", "hybrid") else None
    if graph is not None and criterion.channel is not None:
        return criterion.channel(graph, pruned.model, pruned.plan, batches, generator)
    if criterion.weight is None:
        raise ValueError("the criterion values channels only")
    scores = criterion.weight(pruned.model, batches, generator)
    return scores if graph is None else group_scores(graph, scores, reduce=reduce, plan=pruned.plan)


def further(
    pruned: Pruned,
    sparsity: float,
    *,
    criterion: Criterion,
    scope: str = "global",
    batches: Batches = (),
    generator: torch.Generator | None = None,
    reduce: str = "sum",
    sparsity_of: str = "params",
    min_channels: int = 1,
    round_to: int = 1,
    channel_share: float = 0.5,
    scores: Scores | None = None,
    only: str | None = None,
    curves: Curves | None = None,
) -> Pruned:
    """Cut on, to a cumulative `sparsity` in [0, 1) of the dense network: masks in place, or a smaller copy.

    For n:m `sparsity` is 1 - n / m, which layers that don't come in blocks dilute, and scope is without meaning.
    Hybrid is a smaller copy with masks: channels go to channel_share * `sparsity`, weights of what remains (scored
    anew) to `sparsity`, to the weight. reduce, sparsity_of, min_channels and round_to are for channels; see
    `group_scores` and `allocate`, which raise ValueError for what is out of reach, as `weight_masks` does. scores: what
    `score` returned for this network, if it is known already. curves: of a sensitivity scan, for scope sensitivity.
    only: the path of the one layer, or the name of the one dependency group, that is cut, all else left as it is.
    `sparsity` is then the share of that layer's weights, exactly, or of that group's units (see `allocate_group`).
    Raises ValueError, with the choices, if there is none of that name, and with a scope: there is nothing to allocate.
    """
    _check(pruned.granularity, sparsity, scope, sparsity_of, channel_share, only)
    generator = generator or torch.Generator().manual_seed(0)
    if pruned.granularity == "hybrid" and pruned.graph is not None:
        same: dict[str, Any] = {"criterion": criterion, "scope": scope, "batches": batches, "generator": generator}
        same |= {"reduce": reduce, "min_channels": min_channels, "round_to": round_to, "curves": curves}
        # Half a step short of the whole, that no point near it goes too far.
        most = sparsity - largest_step(pruned.graph, "params", round_to) / 2 / pruned.dense_weights
        goal = max(min(channel_share * sparsity, most), 0)
        cut = further(replace(pruned, granularity="channel"), goal, scores=scores, **same)
        return replace(further(replace(cut, granularity="weight"), sparsity, **same), granularity="hybrid")
    if scores is None:
        scores = score(pruned, criterion, batches, generator, reduce)
    if pruned.granularity != "channel" or pruned.graph is None:
        masks = _masks(pruned, scores, sparsity, scope, only, curves)
        return _masked(pruned, masks, only, criterion, batches, generator)
    options: dict[str, Any] = {"min_channels": min_channels, "round_to": round_to, "previous": pruned.plan}
    if only is not None:
        plan = allocate_group(pruned.graph, scores, sparsity, only, **options)
    else:
        options |= {"scope": scope, "sparsity_of": sparsity_of, "curves": curves}
        plan = allocate(pruned.graph, scores, sparsity, **options)
    return _cut(pruned, plan, criterion, batches, generator)


def _check(
    granularity: str, sparsity: float, scope: str, sparsity_of: str, channel_share: float, only: str | None
) -> None:
    if only is not None and granularity not in ("weight", "channel"):
        raise ValueError(f"only {only!r}: one part alone is cut by weight or by channel, not by {granularity}")
    if only is not None and scope != "global":
        raise ValueError(f"only {only!r}: within one part there is nothing to allocate; scope is global, not {scope!r}")
    if granularity == "hybrid" and sparsity_of != "params":
        raise ValueError(f"a hybrid's target counts params, of which weights and channels have one; not {sparsity_of}")
    if granularity == "hybrid" and not 0 < channel_share < 1:
        raise ValueError(f"channel_share must be between 0 and 1; it is {channel_share}")
    implied = implied_sparsity(granularity)
    if implied is not None and not math.isclose(sparsity, implied):
        raise ValueError(f"granularity {granularity} has sparsity {implied:g}, not {sparsity:g}")


def _masked(
    pruned: Pruned, masks: Masks, only: str | None, criterion: Criterion, batches: Batches, generator: torch.Generator
) -> Pruned:
    if criterion.reconstruct is not None:
        touched = {name: mask for name, mask in masks.items() if only is None or name == f"{only}.weight"}
        _set(pruned.model, criterion.reconstruct(pruned.model, touched, batches, generator))
    apply_masks(pruned.model, masks)
    return replace(pruned, masks=masks)


def _cut(pruned: Pruned, goal: Plan, criterion: Criterion, batches: Batches, generator: torch.Generator) -> Pruned:
    """Channels go, and with them their weights' masks; the other masks are held."""
    last = goal if pruned.plan is None else remainder(goal, pruned.plan)
    small = apply_plan(pruned.model, last)
    masks = pruned.masks and {name: slice_like(name, mask, last) for name, mask in pruned.masks.items()}
    if criterion.reconstruct is not None:
        left = {n: m & (pruned.masks or {}).get(n, m) for n, m in _left_by(pruned.model, last).items()}
        moved = criterion.reconstruct(pruned.model, left, batches, generator)
        _set(small, {name: slice_like(name, weight, last) for name, weight in moved.items()})
    return replace(pruned, model=small, masks=masks, plan=goal, last=last)


def _masks(
    pruned: Pruned, scores: Scores, sparsity: float, scope: str, only: str | None, curves: Curves | None
) -> Masks:
    free = {name: score for name, score in scores.items() if not _below(name, pruned.protect)}
    if kept := pattern(pruned.granularity):
        return block_masks(pruned.model, free, *kept, previous=pruned.masks)
    if only is not None:
        return _masks_of_one(free, f"{only}.weight", sparsity, pruned.masks)
    weights = prunable(pruned.model)
    names, held = list(weights), sum(weight.numel() for weight in weights.values())
    return weight_masks(
        free,
        sparsity,
        scope,
        previous=pruned.masks,
        fixed=held - sum(score.numel() for score in free.values()),
        gone=pruned.dense_weights - held,
        ends=(names[0], names[-1]) if names else None,
        curves=curves,
    )


def _masks_of_one(scores: Scores, name: str, sparsity: float, previous: Masks | None) -> Masks:
    """Masks that cut the share `sparsity` of this weight alone; the others' stay what they were."""
    if name not in scores:
        layers = (other.removesuffix(".weight") for other in scores)
        raise ValueError(f"there is no layer {name.removesuffix('.weight')!r} to cut; choices: {', '.join(layers)}")
    before = previous or {other: torch.ones_like(score, dtype=torch.bool) for other, score in scores.items()}
    return before | weight_masks({name: scores[name]}, sparsity, "global", previous={name: before[name]})


def _left_by(model: nn.Module, plan: Plan) -> Masks:
    """What a plan leaves of every weight of which it cuts anything, as masks."""
    masks = {}
    for name, weight in prunable(model).items():
        layer = plan["layers"].get(name.removesuffix(".weight"), {})
        removed = [layer[side]["removed"] for side in weight_sides(layer)]
        if any(removed):
            masks[name] = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            for dim, places in enumerate(removed):
                masks[name].transpose(0, dim)[places] = False
    return masks


def _set(model: nn.Module, weights: Scores) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)


def _below(name: str, protect: Sequence[str]) -> bool:
    return any(name.startswith(f"{path}.") for path in protect)


def prune(
    model: nn.Module,
    example_input: Tensor,
    *,
    sparsity: float | None = None,
    criterion: str | Criterion = "magnitude_l1",
    granularity: str = "weight",
    scope: str = "global",
    batches: Batches = (),
    protect: Sequence[str] = (),
    seed: int = 0,
    curves: Curves | None = None,
    **channel_options: Any,
) -> tuple[nn.Module, Masks | Plan | tuple[Plan, Masks]]:
    """Prune `model` in one call; returns the network and what was cut.

    granularity "weight": the same model, with zeros, and its masks (parameter name -> bool, True = kept; put them back
    after every optimiser step by `pruning.masks.hold_masks`). granularity "channel": a smaller copy, and its plan
    (JSON), from which `pruning.surgery.apply_plan` makes the same network of the dense one (its weights too, unless
    the criterion is one that moves those that stay: see `Criterion.reconstruct`). "hybrid": a smaller copy with zeros,
    and the pair of its plan and its masks. "2:4", or any n:m: as "weight"; `sparsity`, which is 1 - n / m, may be left
    out, and layers that don't come in blocks of m inputs (see `pruning.blocks`) have no masks.
    example_input: (N, C, H, W), of the size the network is for. batches: pairs (images, labels), for criteria that
    look at data. curves: for scope sensitivity, parameter (or dependency group) name -> share of it gone -> accuracy
    drop when it alone is cut. channel_options: reduce, sparsity_of, min_channels, round_to, channel_share. Raises
    ValueError, with the choices, for unknown names and targets out of reach.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {criterion!r}; choose from {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    if sparsity is None:
        sparsity = implied_sparsity(granularity)
    if sparsity is None:
        raise ValueError(f"granularity {check_granularity(granularity)!r} needs a sparsity")
    pruned = further(
        begin(model, example_input, granularity, protect),
        sparsity,
        criterion=criterion,
        scope=scope,
        batches=batches,
        generator=torch.Generator().manual_seed(seed),
        curves=curves,
        **channel_options,
    )
    if pruned.plan and pruned.masks:
        return pruned.model, (pruned.plan, pruned.masks)
    what = pruned.plan or pruned.masks
    assert what is not None
    return pruned.model, what
