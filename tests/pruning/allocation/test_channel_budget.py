"""Targets are met: on real networks, against a plain simulation, with floors, multiples, ties and previous cuts."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from models import build
from pruning.allocation.channel_budget import achieved, allocate, allocate_group
from pruning.channels.graph import costs, costs_without, dependency_graph, group_scores, plan_without, removed_units
from pruning.criteria.magnitude import magnitude_l1
from tests.networks import Mixed, Three

IMAGE = torch.zeros(1, 3, 32, 32)
MIXED = dependency_graph(Mixed(), torch.zeros(1, 3, 9, 9))


def unit_scores(graph: Any, kind: Any, model: Any = None) -> Any:
    """Magnitudes, or random scores; other kinds put whole groups orders of magnitude below others."""
    if kind == "magnitude":
        return group_scores(graph, magnitude_l1(model, [], torch.Generator()))
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(graph.groups), generator=generator).tolist()
    return {
        group.name: torch.rand(group.size, generator=generator) * (1 if kind == "random" else 10.0**place)
        for group, place in zip(graph.groups, order, strict=True)
    }


def tolerance(graph: Any, sparsity_of: Any) -> Any:
    """Half a point, or half the share of the largest channel."""
    dense = costs(graph)[sparsity_of]
    firsts = [np.arange(graph.size) == group.start for group in graph.groups]
    return max(0.005, *(0.5 - costs_without(graph, first)[sparsity_of] / dense / 2 for first in firsts))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16_bn"])
@pytest.mark.parametrize("kind", ["magnitude", "random", "uneven"])
def test_targets_are_met(name: Any, kind: Any) -> None:
    with torch.device("meta" if kind != "magnitude" else "cpu"):
        model = build(name, 10)
    graph = dependency_graph(model, IMAGE)
    scores = unit_scores(graph, kind, model)
    for scope in ("global", "layer"):
        for sparsity_of in ("params", "macs"):
            for target in (0.3, 0.5, 0.7, 0.9):
                plan = allocate(graph, scores, target, scope=scope, sparsity_of=sparsity_of)
                assert abs(achieved(graph, plan)[sparsity_of] - target) <= tolerance(graph, sparsity_of)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0, 0.6),
    st.sampled_from(["params", "channels", "macs"]),
    st.booleans(),
)
def test_the_nearest_point_of_the_ranking(seed: Any, target: Any, sparsity_of: Any, tied: Any) -> None:
    """Against removing one unit at a time, lowest first, while its group has another."""
    graph = MIXED
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 4, graph.size) if tied else generator.permutation(graph.size)
    removed, shares = np.zeros(graph.size, dtype=bool), []
    dense = costs(graph)[sparsity_of]
    group_of = np.repeat(np.arange(len(graph.groups)), [g.size for g in graph.groups])
    for unit in sorted(range(graph.size), key=lambda i: (values[i], -i)):
        shares.append(1 - costs_without(graph, removed)[sparsity_of] / dense)
        if (~removed[group_of == group_of[unit]]).sum() > 1:
            removed[unit] = True
    scores = {g.name: torch.tensor(values[g.start : g.start + g.size]) for g in graph.groups}
    plan = allocate(graph, scores, target, sparsity_of=sparsity_of)
    reached = achieved(graph, plan)[sparsity_of]
    assert abs(reached - target) == pytest.approx(min(abs(share - target) for share in shares), abs=1e-12)


@pytest.mark.parametrize("target", [0.1, 0.25, 0.5, 0.77])
def test_the_same_share_of_every_layer(target: Any) -> None:
    graph = dependency_graph(build("resnet20", 10), IMAGE)
    plan = allocate(graph, unit_scores(graph, "uneven"), target, scope="layer", sparsity_of="channels")
    removed = removed_units(graph, plan)
    assert removed.sum() == round(target * graph.size)
    for group in graph.groups:
        here = removed[group.start : group.start + group.size]
        assert abs(here.sum() - target * group.size) <= 1
        scores = unit_scores(graph, "uneven")[group.name].numpy()
        assert scores[here].max(initial=-1) < scores[~here].min()


def test_layers_of_one_size_are_repaired_from_the_last() -> None:
    graph = dependency_graph(nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(4))), torch.zeros(1, 4, 1, 1))
    scores = {name: torch.arange(4.0) for name in ("0", "1", "2")}
    for count, expected in ((1, [0, 0, 1]), (2, [0, 1, 1]), (3, [1, 1, 1]), (4, [1, 1, 2]), (9, [3, 3, 3])):
        plan = allocate(graph, scores, count / 12, scope="layer", sparsity_of="channels")
        assert [len(plan["layers"][name]["out"]["removed"]) for name in "012"] == expected


def test_ties_keep_the_first() -> None:
    """torch-pruning cuts 69.9 % of tied scores where 30 % were asked for."""
    graph = dependency_graph(build("resnet20", 10), IMAGE)
    tied = {group.name: torch.ones(group.size) for group in graph.groups}
    plan = allocate(graph, tied, 0.3, sparsity_of="channels")
    removed = removed_units(graph, plan)
    assert abs(removed.sum() - 0.3 * graph.size) <= 0.5
    # The last groups lose all but their first channel, the one before loses its last.
    assert plan["layers"]["layer3.2.conv1"]["out"]["removed"] == list(range(1, 64))
    partly = next(g for g in reversed(graph.groups) if not removed[g.start + 1])
    rest = removed[partly.start : partly.start + partly.size]
    assert (np.sort(rest) == rest).all()


def test_floor_and_multiples() -> None:
    graph = dependency_graph(build("resnet20", 10), IMAGE)
    scores = unit_scores(graph, "uneven")
    left = {
        options: [
            (
                ~removed_units(graph, allocate(graph, scores, 0.6, min_channels=options[0], round_to=options[1]))[
                    g.start : g.start + g.size
                ]
            ).sum()
            for g in graph.groups
        ]
        for options in ((1, 1), (5, 1), (1, 8), (9, 8))
    }
    assert min(left[1, 1]) == 1
    assert min(left[5, 1]) == 5
    assert all(count % 8 == 0 for count in left[1, 8])
    assert min(left[1, 8]) == 8
    assert min(left[9, 8]) == 16
    # 20 channels, kept in multiples of 8: untouched, or 16, or 8.
    odd = dependency_graph(nn.Sequential(nn.Conv2d(3, 20, 1), nn.Conv2d(20, 2, 1)), torch.zeros(1, 3, 1, 1))
    for target, kept in ((0.05, 20), (0.2, 16), (0.5, 8)):
        plan = allocate(odd, {"0": torch.arange(20.0)}, target, round_to=8)
        assert plan["layers"]["0"]["out"]["removed"] == list(range(20 - kept))


def test_floors_count_channels_not_units() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1, groups=4), nn.Conv2d(16, 2, 1))
    graph = dependency_graph(model, torch.zeros(1, 3, 1, 1))
    assert [(g.size, g.width) for g in graph.groups] == [(4, 4)]
    for min_channels, round_to, left in ((1, 1, 1), (5, 1, 2), (8, 8, 2), (9, 8, 4)):
        options = {"min_channels": min_channels, "round_to": round_to, "sparsity_of": "channels"}
        plan = allocate(graph, {"0": torch.arange(4.0)}, 1 - left / 4, **options)
        assert len(plan["layers"]["1"]["out"]["removed"]) == 4 * (4 - left)


def test_targets_out_of_reach() -> None:
    graph = dependency_graph(build("resnet20", 10), IMAGE)
    scores = unit_scores(graph, "random")
    with pytest.raises(ValueError, match=r"0\.95 of channels is out of reach: min_channels 4, .* 0\.0000 to 0\.8929"):
        allocate(graph, scores, 0.95, sparsity_of="channels", min_channels=4)
    plan = allocate(graph, scores, 0.5)
    with pytest.raises(ValueError, match=r"0\.3 of params is out of reach: .* the previous cut leave 0\.5"):
        allocate(graph, scores, 0.3, previous=plan)
    assert allocate(graph, scores, 0.5, previous=plan) == plan
    nothing = dependency_graph(build("resnet20", 10), IMAGE, protect=["conv1", "layer1", "layer2", "layer3"])
    assert achieved(nothing, allocate(nothing, {}, 0.0)) == {"params": 0, "channels": 0, "macs": 0}
    with pytest.raises(ValueError, match=r"0\.5 of channels is out of reach"):
        allocate(nothing, {}, 0.5, sparsity_of="channels")


def test_a_small_network_takes_the_nearest_it_can() -> None:
    """Four filters: 3 of 4 is the most, and 0.8 is nearer to it than half a filter."""
    graph = dependency_graph(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 1, 1))
    scores = {"0": torch.arange(4.0)}
    assert achieved(graph, allocate(graph, scores, 0.8))["params"] == 0.75
    assert achieved(graph, allocate(graph, scores, 0.6))["params"] == 0.5
    with pytest.raises(ValueError, match="out of reach"):
        allocate(graph, scores, 0.9)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_cut_contains_the_one_before(scope: Any) -> None:
    graph = dependency_graph(build("resnet20", 10), IMAGE)
    first = allocate(graph, unit_scores(graph, "random"), 0.3, scope=scope)
    second = allocate(graph, unit_scores(graph, "uneven"), 0.6, scope=scope, previous=first)
    before, now = removed_units(graph, first), removed_units(graph, second)
    assert (now | before == now).all()
    assert achieved(graph, second)["params"] == pytest.approx(0.6, abs=tolerance(graph, "params"))
    if scope == "layer":  # the same share of the dense layers, not of what was left
        shares = [now[g.start : g.start + g.size].mean() for g in graph.groups]
        assert max(shares) - min(shares) <= 2 / 16


def test_a_layer_that_was_cut_before_waits_for_the_others() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    graph = dependency_graph(model, torch.zeros(1, 3, 1, 1))
    first = plan_without(graph, np.arange(16) < 4)
    scores = {"0": torch.arange(8.0).flip(0), "1": torch.arange(8.0)}  # of what is gone there is no saying
    plan = allocate(graph, scores, 0.5, scope="layer", sparsity_of="channels", previous=first)
    assert plan == plan_without(graph, np.array([1, 1, 1, 1, 0, 0, 0, 0] * 2, dtype=bool))


def test_what_protected_layers_hold_counts() -> None:
    free = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4), protect="fc")
    plan = allocate(graph, {"conv1": torch.tensor([3.0, 0, 2, 1])}, 1 / 3)
    assert plan == plan_without(free, np.array([0, 1, 0, 1, 0, 0, 0], dtype=bool))
    assert achieved(graph, plan)["params"] == pytest.approx((2 * 9 + 2 * 3) / 72)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scope": "erk?"},
            "unknown scope 'erk.'; choose from global, knapsack, layer, both, erk, lamp, uniform_plus, sensitivity",
        ),
        ({"sparsity_of": "bytes"}, "choose from params, channels, macs"),
        ({"target": 1.0}, r"target must be in \[0, 1\)"),
        ({"target": float("nan")}, r"target must be in \[0, 1\)"),
        ({"min_channels": 0}, "min_channels and round_to must be at least 1"),
        ({"round_to": 0}, "min_channels and round_to must be at least 1"),
        ({"scores": {"conv1": torch.ones(4)}}, r"scores must be of these groups and sizes: .*'conv2': \(3,\)"),
        ({"scores": {"conv1": torch.ones(4), "conv2": torch.tensor([1, float("nan"), 0])}}, "'conv2' hold NaN"),
    ],
)
def test_bad_input_is_refused(options: Any, message: Any) -> None:
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    fine = {"scores": {"conv1": torch.ones(4), "conv2": torch.ones(3)}, "target": 0.5}
    with pytest.raises(ValueError, match=message):
        allocate(graph, **{**fine, **options})


@pytest.mark.parametrize(
    ("target", "options", "kept"),
    [
        (0.0, {}, 20),
        (0.5, {}, 10),
        (0.12, {}, 18),  # 17.6
        (0.125, {}, 18),  # 17.5: of two the larger
        (0.99, {}, 1),  # 0.2, but one stays
        (0.9, {"min_channels": 6}, 6),
        (0.9, {"min_channels": 25}, 20),
        (0.3, {"round_to": 8}, 16),  # 14
        (0.7, {"round_to": 8}, 8),
        (0.9, {"round_to": 8}, 8),
        (0.05, {"round_to": 8}, 20),  # 19: untouched is nearer than 16
        (0.7, {"round_to": 8, "min_channels": 9}, 16),
    ],
)
def test_one_group_alone_loses_its_lowest(target: Any, options: Any, kept: Any) -> None:
    graph = dependency_graph(
        nn.Sequential(nn.Conv2d(3, 7, 1), nn.Conv2d(7, 20, 1), nn.Conv2d(20, 9, 1), nn.Conv2d(9, 2, 1)),
        torch.zeros(1, 3, 1, 1),
    )
    scores = {"0": torch.zeros(7), "1": torch.arange(20.0).flip(0), "2": torch.zeros(9)}
    plan = allocate_group(graph, scores, target, "1", **options)
    assert removed_units(graph, plan).tolist() == [False] * (7 + kept) + [True] * (20 - kept) + [False] * 9
    # In two cuts, the second by other scores.
    again = allocate_group(graph, {**scores, "1": torch.arange(20.0)}, 0.95, "1", previous=plan)
    assert removed_units(graph, again)[7:27].sum() == 19
    assert (removed_units(graph, again) >= removed_units(graph, plan)).all()


def test_one_group_alone_after_a_cut_of_all() -> None:
    graph = dependency_graph(Three(), torch.zeros(1, 1, 4, 4))
    scores = {"conv1": torch.arange(4.0), "conv2": torch.arange(3.0)}
    first = plan_without(graph, np.array([0, 0, 0, 1, 1, 0, 0], dtype=bool))
    plan = allocate_group(graph, scores, 0.5, "conv1", previous=first)
    assert removed_units(graph, plan).tolist() == [True, False, False, True, True, False, False]
    assert allocate_group(graph, scores, 0.25, "conv1", previous=first) == first
    with pytest.raises(ValueError, match="0 of group 'conv1' is out of reach: of 4 units 3 are left"):
        allocate_group(graph, scores, 0.0, "conv1", previous=first)
    with pytest.raises(ValueError, match="there is no group 'conv3'; choices: conv1, conv2"):
        allocate_group(graph, scores, 0.5, "conv3")
    with pytest.raises(ValueError, match=r"target must be in \[0, 1\)"):
        allocate_group(graph, scores, 1.0, "conv1")
