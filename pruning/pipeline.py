"""Pruning a network, step by step: score -> allocate -> mask or cut.

`prune` does all of it in one call, for people with their own loop. `begin` and `prune_to` are for loops that cut, train
and cut again: every target counts against the dense network, and what is gone stays gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pruning.allocation.channel_budget import allocate, allocate_group, largest_step
from pruning.allocation.sensitivity import Curves
from pruning.allocation.weight_budget import weight_masks
from pruning.channels.graph import Graph, dependency_graph, group_scores
from pruning.channels.plans import Plan, remainder, weight_sides
from pruning.channels.surgery import apply_plan, slice_like
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.criteria.scoring import Batches
from pruning.settings import CHANNEL, WEIGHT, Granularity, PruneSettings
from pruning.weights.blocks import block_masks, input_axes
from pruning.weights.masks import Masks, Scores, apply_masks, prunable


@dataclass(frozen=True)
class Pruned:
    """A network and what was cut from it so far.

    settings: how it is pruned. dense_weights: prunable weights of the dense network. masks: of single weights of
    `model`. graph, plan: the dense network's dependency groups, and the channels gone, in its indices; last: the plan
    of the last cut alone, in indices of the network before it.
    """

    model: nn.Module
    settings: PruneSettings
    dense_weights: int
    masks: Masks | None = None
    graph: Graph | None = None
    plan: Plan | None = None
    last: Plan | None = None

    def with_settings(self, **changes: Any) -> Pruned:
        """The same network, to be pruned with other settings from here on."""
        return replace(self, settings=replace(self.settings, **changes))


def begin(model: nn.Module, example_input: Tensor, settings: PruneSettings) -> Pruned:
    """A dense network about to be pruned; for channels, its dependency groups are found (see `dependency_graph`).

    example_input: (N, C, H, W), of the size the network is for. Raises ValueError for a protected module that is not
    there, for n:m blocks that no layer has, and as `dependency_graph`.
    """
    weights = sum(weight.numel() for weight in prunable(model).values())
    protect, blocks = settings.protect, settings.granularity.blocks
    paths = dict(model.named_modules())
    for path in protect:
        if path not in paths:
            raise ValueError(f"protect: there is no module {path!r}; choices: {', '.join(filter(None, paths))}")
    if blocks and all(_below(name, protect) for name in input_axes(model, blocks[1])):
        raise ValueError(f"no layer that may be cut has a multiple of {blocks[1]} inputs, so none comes in blocks")
    graph = dependency_graph(model, example_input, protect) if settings.granularity.cuts_channels else None
    return Pruned(model, settings, weights, graph=graph)


def score(pruned: Pruned, batches: Batches = (), generator: torch.Generator | None = None) -> Scores:
    """Scores of the network as it is now: one per weight, or one per unit of each dependency group; higher = keep.

    batches: pairs (images, labels), for criteria that look at data. generator: by default one with seed 0. Returns
    parameter name -> scores of the weight's shape, or group name -> scores (size,); for hybrid those of the units,
    which go first. Raises ValueError for weights if the criterion values channels only, and what the criterion raises.
    """
    generator = generator or torch.Generator().manual_seed(0)
    criterion = pruned.settings.criterion
    graph = pruned.graph if pruned.settings.granularity.cuts_channels else None
    if graph is not None and criterion.channel is not None:
        return criterion.channel(graph, pruned.model, pruned.plan, batches, generator)
    if criterion.weight is None:
        raise ValueError("the criterion values channels only")
    scores = criterion.weight(pruned.model, batches, generator)
    return scores if graph is None else group_scores(graph, scores, reduce=pruned.settings.reduce, plan=pruned.plan)


def prune_to(
    pruned: Pruned,
    sparsity: float,
    batches: Batches = (),
    generator: torch.Generator | None = None,
    scores: Scores | None = None,
) -> Pruned:
    """Prune further, to a cumulative `sparsity` of the dense network: masks in place, or a smaller copy.

    pruned: the network so far, with its settings.
    sparsity: in [0, 1). For n:m it is 1 - n / m, which layers that don't come in blocks dilute.
    batches: pairs (images, labels), for criteria that look at data.
    generator: of all random draws; by default one with seed 0.
    scores: what `score` returned for this network, if it is known already.

    A hybrid becomes a smaller copy with masks: channels go to channel_share * `sparsity`, weights of what remains
    (scored anew) to `sparsity`, to the weight. Raises ValueError for targets out of reach, as `allocate` and
    `weight_masks` do, and, with the choices, for an unknown layer or group that is to be cut alone.
    """
    settings = pruned.settings
    implied = settings.granularity.implied_sparsity
    if implied is not None and not math.isclose(sparsity, implied):
        raise ValueError(f"granularity {settings.granularity} has sparsity {implied:g}, not {sparsity:g}")
    generator = generator or torch.Generator().manual_seed(0)
    if settings.granularity.is_hybrid:
        return _prune_hybrid(pruned, sparsity, batches, generator, scores)
    if scores is None:
        scores = score(pruned, batches, generator)
    if pruned.graph is None or not settings.granularity.cuts_channels:
        return _mask(pruned, _masks(pruned, scores, sparsity), batches, generator)
    return _cut(pruned, _plan(pruned, scores, sparsity), batches, generator)


def _prune_hybrid(
    pruned: Pruned, sparsity: float, batches: Batches, generator: torch.Generator, scores: Scores | None
) -> Pruned:
    settings = pruned.settings
    assert pruned.graph is not None
    # Half a step short of the whole, so that no reachable point near it goes too far.
    most = sparsity - largest_step(pruned.graph, "params", settings.round_to) / 2 / pruned.dense_weights
    goal = max(min(settings.channel_share * sparsity, most), 0)
    cut = prune_to(pruned.with_settings(granularity=CHANNEL), goal, batches, generator, scores)
    masked = prune_to(cut.with_settings(granularity=WEIGHT), sparsity, batches, generator)
    return replace(masked, settings=settings)


def _plan(pruned: Pruned, scores: Scores, sparsity: float) -> Plan:
    """The channels to be gone at this sparsity, in the dense network's indices."""
    assert pruned.graph is not None
    settings = pruned.settings
    limits: dict[str, Any] = {
        "min_channels": settings.min_channels,
        "round_to": settings.round_to,
        "previous": pruned.plan,
    }
    if settings.only is not None:
        return allocate_group(pruned.graph, scores, sparsity, settings.only, **limits)
    return allocate(
        pruned.graph,
        scores,
        sparsity,
        scope=settings.scope,
        sparsity_of=settings.sparsity_of,
        curves=settings.curves,
        **limits,
    )


def _mask(pruned: Pruned, masks: Masks, batches: Batches, generator: torch.Generator) -> Pruned:
    """Weights become zero in place; a criterion that reconstructs moves those that stay."""
    criterion, only = pruned.settings.criterion, pruned.settings.only
    if criterion.reconstruct is not None:
        touched = {name: mask for name, mask in masks.items() if only is None or name == f"{only}.weight"}
        _set(pruned.model, criterion.reconstruct(pruned.model, touched, batches, generator))
    apply_masks(pruned.model, masks)
    return replace(pruned, masks=masks)


def _cut(pruned: Pruned, goal: Plan, batches: Batches, generator: torch.Generator) -> Pruned:
    """Channels go, and with them their weights' masks; the other masks are held."""
    criterion = pruned.settings.criterion
    last = goal if pruned.plan is None else remainder(goal, pruned.plan)
    small = apply_plan(pruned.model, last)
    masks = pruned.masks and {name: slice_like(name, mask, last) for name, mask in pruned.masks.items()}
    if criterion.reconstruct is not None:
        left = {n: m & (pruned.masks or {}).get(n, m) for n, m in _left_by(pruned.model, last).items()}
        moved = criterion.reconstruct(pruned.model, left, batches, generator)
        _set(small, {name: slice_like(name, weight, last) for name, weight in moved.items()})
    return replace(pruned, model=small, masks=masks, plan=goal, last=last)


def _masks(pruned: Pruned, scores: Scores, sparsity: float) -> Masks:
    settings = pruned.settings
    free = {name: score for name, score in scores.items() if not _below(name, settings.protect)}
    if settings.granularity.blocks:
        return block_masks(pruned.model, free, *settings.granularity.blocks, previous=pruned.masks)
    if settings.only is not None:
        return _masks_of_one(free, f"{settings.only}.weight", sparsity, pruned.masks)
    weights = prunable(pruned.model)
    names, held = list(weights), sum(weight.numel() for weight in weights.values())
    return weight_masks(
        free,
        sparsity,
        settings.scope,
        previous=pruned.masks,
        fixed=held - sum(score.numel() for score in free.values()),
        gone=pruned.dense_weights - held,
        ends=(names[0], names[-1]) if names else None,
        curves=settings.curves,
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
    after every optimiser step by `pruning.hold_masks`). granularity "channel": a smaller copy, and its plan
    (JSON), from which `pruning.apply_plan` makes the same network of the dense one (its weights too, unless
    the criterion is one that moves those that stay: see `Criterion.reconstruct`). "hybrid": a smaller copy with zeros,
    and the pair of its plan and its masks. "2:4", or any n:m: as "weight"; `sparsity`, which is 1 - n / m, may be left
    out, and layers that don't come in blocks of m inputs (see `pruning.weights.blocks`) have no masks.
    example_input: (N, C, H, W), of the size the network is for. batches: pairs (images, labels), for criteria that
    look at data. curves: for scope sensitivity, parameter (or dependency group) name -> share of it gone -> accuracy
    drop when it alone is cut. channel_options: reduce, sparsity_of, min_channels, round_to, channel_share. Raises
    ValueError, with the choices, for unknown names and targets out of reach.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {criterion!r}; choose from {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    kind = Granularity(granularity)
    sparsity = kind.implied_sparsity if sparsity is None else sparsity
    if sparsity is None:
        raise ValueError(f"granularity {granularity!r} needs a sparsity")
    settings = PruneSettings(criterion, kind, scope=scope, protect=tuple(protect), curves=curves, **channel_options)
    pruned = begin(model, example_input, settings)
    pruned = prune_to(pruned, sparsity, batches, torch.Generator().manual_seed(seed))
    if pruned.plan and pruned.masks:
        return pruned.model, (pruned.plan, pruned.masks)
    what = pruned.plan or pruned.masks
    assert what is not None
    return pruned.model, what
