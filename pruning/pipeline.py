"""Pruning a network step by step: score, allocate, then mask weights or cut channels.

`prune` does one cut in one call. Loops that cut and train in turn use `begin` and `prune_to`: every target refers to
the dense network, and what is removed stays removed.
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
from pruning.calibration.hooks import Batches
from pruning.calibration.least_squares import RECONSTRUCTIONS
from pruning.channels.graph import Graph, dependency_graph, group_normalised, group_scores
from pruning.channels.plans import Plan, remainder, weight_sides
from pruning.channels.surgery import apply_plan, slice_like
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.criteria.scoring import check_scores
from pruning.measure.layer_latency import layer_latencies
from pruning.settings import CHANNEL, GROUP_NORMALISED, WEIGHT, Granularity, PruneSettings
from pruning.weights.blocks import block_masks, input_axes
from pruning.weights.masks import Masks, Scores, apply_masks, layer_name, prunable, weight_name


@dataclass(frozen=True)
class Pruned:
    """A network and what was removed from it so far.

    Attributes:
      model: the network.
      settings: how it is pruned.
      dense_weights: number of prunable weights of the dense network.
      masks: of single weights of `model`.
      graph: dependency groups of the dense network.
      plan: all channels removed so far, in the dense network's indices.
      last: the channels removed by the last cut, in indices of the network before it.
    """

    model: nn.Module
    settings: PruneSettings
    dense_weights: int
    masks: Masks | None = None
    graph: Graph | None = None
    plan: Plan | None = None
    last: Plan | None = None

    def with_settings(self, **changes: Any) -> Pruned:
        """The same network with other settings for further cuts."""
        return replace(self, settings=replace(self.settings, **changes))


def begin(model: nn.Module, example_input: Tensor, settings: PruneSettings) -> Pruned:
    """Starts pruning a dense network; for channel granularities, finds its dependency groups.

    example_input: (N, C, H, W) of the intended size. Raises ValueError for a protected module that does not exist, for
    n:m blocks that no layer has, and as `dependency_graph`.
    """
    weights = sum(weight.numel() for weight in prunable(model).values())
    protect, blocks = settings.protect, settings.granularity.blocks
    paths = dict(model.named_modules())
    for path in protect:
        if path not in paths:
            raise ValueError(f"protect: there is no module {path!r}; choices: {', '.join(filter(None, paths))}")
    if blocks and all(_is_protected(name, protect) for name in input_axes(model, blocks[1])):
        raise ValueError(f"no layer that may be cut has a multiple of {blocks[1]} inputs, which n:m needs")
    graph = dependency_graph(model, example_input, protect) if settings.granularity.cuts_channels else None
    if graph is not None and settings.sparsity_of == "latency":
        graph = replace(graph, latencies=settings.latencies or layer_latencies(model, example_input, graph))
    return Pruned(model, settings, weights, graph=graph)


def score(pruned: Pruned, batches: Batches = (), generator: torch.Generator | None = None) -> Scores:
    """Scores the present network: one score per weight, or per unit of each dependency group; higher = keep.

    batches: pairs (images, labels), for criteria that use data. generator: by default one with seed 0. Returns
    parameter name -> scores of the weight's shape, or group name -> scores (size,); for hybrid those of the units,
    which are removed first. Raises ValueError for weights if the criterion scores channels only, and what the
    criterion raises.
    """
    generator = generator or torch.Generator().manual_seed(0)
    criterion = pruned.settings.criterion
    graph = pruned.graph if pruned.settings.granularity.cuts_channels else None
    normalises = pruned.settings.reduce == GROUP_NORMALISED
    if graph is not None and criterion.channel is not None:
        scores = criterion.channel(graph, pruned.model, pruned.plan, batches, generator)
        return group_normalised(scores) if normalises else scores
    if criterion.weight is None:
        raise ValueError("the criterion scores channels only")
    scores = criterion.weight(pruned.model, batches, generator)
    check_scores(scores, pruned.model)
    if graph is None:
        return scores
    scores = group_scores(graph, scores, reduce="mean" if normalises else pruned.settings.reduce, plan=pruned.plan)
    return group_normalised(scores) if normalises else scores


def prune_to(
    pruned: Pruned,
    sparsity: float,
    batches: Batches = (),
    generator: torch.Generator | None = None,
    scores: Scores | None = None,
) -> Pruned:
    """Prunes further, to a cumulative sparsity of the dense network: masks in place, or a smaller copy.

    A hybrid becomes a smaller copy with masks: channels are cut to channel_share * `sparsity`, then the remaining
    weights, with new scores, are masked to exactly `sparsity`.

    Args:
      pruned: the network so far, with its settings.
      sparsity: in [0, 1). For n:m it must be 1 - n / m; layers without whole blocks stay dense, so less is achieved.
      batches: pairs (images, labels), for criteria that use data.
      generator: of all random draws; by default one with seed 0.
      scores: the result of `score` for this network, if already computed.

    Raises:
      ValueError: targets out of reach, as `allocate` and `weight_masks`; an unknown layer or group for settings.only,
        with the choices.
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
        return _prune_weights(pruned, _weight_masks(pruned, scores, sparsity), batches, generator)
    return _prune_channels(pruned, _channel_plan(pruned, scores, sparsity), batches, generator)


def _prune_hybrid(
    pruned: Pruned, sparsity: float, batches: Batches, generator: torch.Generator, scores: Scores | None
) -> Pruned:
    settings = pruned.settings
    assert pruned.graph is not None
    # Half a step below the target, so that channels alone never exceed it.
    most = sparsity - largest_step(pruned.graph, "params", settings.round_to) / 2 / pruned.dense_weights
    goal = max(min(settings.channel_share * sparsity, most), 0)
    cut = prune_to(pruned.with_settings(granularity=CHANNEL), goal, batches, generator, scores)
    masked = prune_to(cut.with_settings(granularity=WEIGHT), sparsity, batches, generator)
    return replace(masked, settings=settings)


def _channel_plan(pruned: Pruned, scores: Scores, sparsity: float) -> Plan:
    """All channels to be removed at this sparsity, in the dense network's indices."""
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


def _prune_weights(pruned: Pruned, masks: Masks, batches: Batches, generator: torch.Generator) -> Pruned:
    """Sets weights to zero in place, after the remaining ones are updated, if the settings ask for it."""
    only = pruned.settings.only
    if reconstruct := RECONSTRUCTIONS[pruned.settings.reconstruct]:
        touched = {name: mask for name, mask in masks.items() if only is None or name == weight_name(only)}
        _copy_weights(pruned.model, reconstruct(pruned.model, touched, batches, generator))
    apply_masks(pruned.model, masks)
    return replace(pruned, masks=masks)


def _prune_channels(pruned: Pruned, goal: Plan, batches: Batches, generator: torch.Generator) -> Pruned:
    """Removes channels and slices the masks of single weights accordingly."""
    last = goal if pruned.plan is None else remainder(goal, pruned.plan)
    small = apply_plan(pruned.model, last)
    masks = pruned.masks and {name: slice_like(name, mask, last) for name, mask in pruned.masks.items()}
    if reconstruct := RECONSTRUCTIONS[pruned.settings.reconstruct]:
        left = {n: m & (pruned.masks or {}).get(n, m) for n, m in _masks_from_plan(pruned.model, last).items()}
        moved = reconstruct(pruned.model, left, batches, generator)
        _copy_weights(small, {name: slice_like(name, weight, last) for name, weight in moved.items()})
    return replace(pruned, model=small, masks=masks, plan=goal, last=last)


def _weight_masks(pruned: Pruned, scores: Scores, sparsity: float) -> Masks:
    settings = pruned.settings
    free = {name: score for name, score in scores.items() if not _is_protected(name, settings.protect)}
    if settings.granularity.blocks:
        return block_masks(pruned.model, free, *settings.granularity.blocks, previous=pruned.masks)
    if settings.only is not None:
        return _single_layer_masks(free, weight_name(settings.only), sparsity, pruned.masks)
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


def _single_layer_masks(scores: Scores, name: str, sparsity: float, previous: Masks | None) -> Masks:
    """Masks that remove the share `sparsity` of this weight; the masks of all others stay."""
    if name not in scores:
        layers = map(layer_name, scores)
        raise ValueError(f"there is no layer {layer_name(name)!r} to cut; choices: {', '.join(layers)}")
    before = previous or {other: torch.ones_like(score, dtype=torch.bool) for other, score in scores.items()}
    return before | weight_masks({name: scores[name]}, sparsity, "global", previous={name: before[name]})


def _masks_from_plan(model: nn.Module, plan: Plan) -> Masks:
    """Masks of what a plan leaves, for every weight that it cuts."""
    masks = {}
    for name, weight in prunable(model).items():
        layer = plan["layers"].get(name.rpartition(".")[0], {})
        removed = [layer[side]["removed"] for side in weight_sides(layer)]
        if any(removed):
            masks[name] = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
            for dim, places in enumerate(removed):
                masks[name].transpose(0, dim)[places] = False
    return masks


def _copy_weights(model: nn.Module, weights: Scores) -> None:
    with torch.no_grad():
        for name, weight in weights.items():
            model.get_parameter(name).copy_(weight)


def _is_protected(name: str, protect: Sequence[str]) -> bool:
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
    **options: Any,
) -> tuple[nn.Module, Masks | Plan | tuple[Plan, Masks]]:
    """Prunes `model` in one call; returns the network and what was removed.

    Args:
      model: the dense network.
      example_input: (N, C, H, W) of the intended size.
      sparsity: in [0, 1); may be omitted for n:m, where it is 1 - n / m.
      criterion: a name in CRITERIA, or a `Criterion`.
      granularity: "weight", "channel", "hybrid", or n:m such as "2:4".
      scope: a name in SCOPES.
      batches: pairs (images, labels), for criteria that use data.
      protect: paths of modules that are not cut.
      seed: of all random draws.
      curves: for scope sensitivity, parameter (or dependency group) name -> share of it removed -> accuracy drop when
        only that is cut.
      **options: reconstruct, reduce, sparsity_of, min_channels, round_to, channel_share (see `PruneSettings`).

    Returns:
      "weight": the same model with zeros, and its masks (parameter name -> bool, True = kept); `pruning.hold_masks`
      restores the zeros after every optimiser step. "n:m": the same; layers without whole blocks of m inputs have no
      masks (see `pruning.weights.blocks`). "channel": a smaller copy, and its plan (JSON); `pruning.apply_plan` builds
      the same network from the dense one (with the same weights,
      unless `reconstruct` updates them). "hybrid": a smaller copy with zeros, and the pair (plan, masks).

    Raises:
      ValueError: unknown names, with the choices, and targets out of reach.
    """
    if isinstance(criterion, str):
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion {criterion!r}; choose from {', '.join(CRITERIA)}")
        criterion = CRITERIA[criterion]
    kind = Granularity(granularity)
    sparsity = kind.implied_sparsity if sparsity is None else sparsity
    if sparsity is None:
        raise ValueError(f"granularity {granularity!r} needs a sparsity")
    settings = PruneSettings(criterion, kind, scope=scope, protect=tuple(protect), curves=curves, **options)
    pruned = begin(model, example_input, settings)
    pruned = prune_to(pruned, sparsity, batches, torch.Generator().manual_seed(seed))
    if pruned.plan and pruned.masks:
        return pruned.model, (pruned.plan, pruned.masks)
    what = pruned.plan or pruned.masks
    assert what is not None
    return pruned.model, what
