"""Scopes of channels: each against its own definition; all of them in order, exact and nested."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_pruning.pruner.importance import LAMPImportance

from models import build
from pruning.allocation.channel_budget import achieved, allocate
from pruning.allocation.channel_scopes import unit_costs
from pruning.allocation.scopes import SCOPES
from pruning.allocation.sensitivity import Curves
from pruning.channels.graph import Graph, dependency_graph, removed_units
from tests.networks import Mixed

MIXED = dependency_graph(Mixed(), torch.zeros(1, 3, 9, 9))
RESNET = dependency_graph(build("resnet20", 10), torch.zeros(1, 3, 32, 32))
IN_A_ROW = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1),
    nn.Conv2d(4, 6, 3, padding=1),
    nn.MaxPool2d(4),
    nn.Conv2d(6, 6, 1),
    nn.Flatten(),
    nn.Linear(24, 20),
    nn.Linear(20, 2),
)
ROW = dependency_graph(IN_A_ROW, torch.zeros(1, 3, 8, 8))  # groups 0, 1, 3, 5 of 4, 6, 6, 20 units


def random_scores(graph: Graph, seed: int = 0, levels: int = 10**6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.randint(0, levels, (g.size,), generator=generator).double() for g in graph.groups}


def made_up(graph: Graph, seed: int = 0) -> Curves:
    drops = np.random.default_rng(seed).integers(-2, 9, (len(graph.groups), 3)) / 10
    return {g.name: dict(zip((0.25, 0.5, 0.9), row, strict=True)) for g, row in zip(graph.groups, drops, strict=True)}


def gone_by_group(graph: Graph, plan: dict) -> dict[str, np.ndarray]:
    removed = removed_units(graph, plan)
    return {g.name: removed[g.start : g.start + g.size] for g in graph.groups}


def counts(graph: Graph, plan: dict) -> list[int]:
    return [int(gone.sum()) for gone in gone_by_group(graph, plan).values()]


@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 10**6]), st.floats(0, 0.6), st.floats(0, 0.6))
def test_cuts_are_exact_nested_and_lowest_first(scope: Any, seed: Any, levels: Any, one: Any, other: Any) -> None:
    """With all, some or no scores equal (and zero); the second cut uses other scores."""
    options = {"scope": scope, "sparsity_of": "channels", "curves": made_up(MIXED, seed)}
    plan = None
    most = 10 if scope == "uniform_plus" else 17  # one of each group stays; of the first, all 8
    for number, target in enumerate(sorted([one, other])):
        scores = random_scores(MIXED, seed + number, levels)
        goal = round(target * MIXED.size)
        if goal > most:
            with pytest.raises(ValueError, match="out of reach"):
                allocate(MIXED, scores, goal / MIXED.size, previous=plan, **options)
            return
        before = np.zeros(MIXED.size, dtype=bool) if plan is None else removed_units(MIXED, plan)
        plan = allocate(MIXED, scores, goal / MIXED.size, previous=plan, **options)
        assert sum(counts(MIXED, plan)) == goal
        assert removed_units(MIXED, plan)[before].all()
        for group in MIXED.groups:
            gone = gone_by_group(MIXED, plan)[group.name]
            assert not gone.all()
            new = gone & ~before[group.start : group.start + group.size]
            if new.any():
                order = list(zip(scores[group.name].tolist(), -np.arange(group.size), strict=True))
                assert max(itertools.compress(order, new)) < min(itertools.compress(order, ~gone))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("sparsity_of", ["params", "macs"])
def test_targets_are_met(scope: str, sparsity_of: str) -> None:
    for target in (0.1, 0.5, 0.9):
        plan = allocate(
            RESNET, random_scores(RESNET), target, scope=scope, sparsity_of=sparsity_of, curves=made_up(RESNET)
        )
        assert achieved(RESNET, plan)[sparsity_of] == pytest.approx(target, abs=0.02)


class Apart(nn.Module):
    """Two layers of different cost that share no weights, so that costs add up."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, stride=2)
        self.of_a, self.of_b = nn.Linear(4, 2), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        return self.of_a(self.a(x).mean((2, 3))), self.of_b(self.b(x).mean((2, 3)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=9, max_size=9), st.sampled_from(["params", "macs"]), st.floats(0.1, 0.7))
def test_a_knapsack_removes_the_least_sum_of_scores_for_what_it_saves(
    scores: Any, sparsity_of: str, target: float
) -> None:
    """No other choice of units saves as much for less, out of all 2^9. Costs of a unit by hand: 3 + 2 and 27 + 3."""
    graph = dependency_graph(Apart(), torch.zeros(1, 3, 9, 9))
    each = {"params": [5] * 4 + [30] * 5, "macs": [3 * 81 + 2] * 4 + [27 * 16 + 3] * 5}[sparsity_of]
    given_scores = {"a": torch.tensor(scores[:4]).double(), "b": torch.tensor(scores[4:]).double()}
    gone = gone_by_group(graph, allocate(graph, given_scores, target, scope="knapsack", sparsity_of=sparsity_of))
    removed = [*gone["a"], *gone["b"]]
    saved, lost = np.dot(removed, each), np.dot(removed, scores)
    for other in itertools.product([False, True], repeat=9):
        if all(other[:4]) or all(other[4:]):
            continue  # no layer is emptied
        assert np.dot(other, scores) >= lost or np.dot(other, each) < saved


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([3, 10**6]), st.integers(0, 24))
def test_both_takes_the_lesser_of_what_the_network_and_the_layer_would(seed: Any, levels: Any, gone: Any) -> None:
    """At some share t: of a group of n, min(its units among the network's lowest t, the nearest number to t * n)."""
    scores = random_scores(ROW, seed, levels)
    units = [(score, -(g.start + j), g.name) for g in ROW.groups for j, score in enumerate(scores[g.name].tolist())]
    lowest = [name for *_, name in sorted(units)]

    def lesser(t: Fraction) -> list[int]:
        network = lowest[: math.floor(t * ROW.size + Fraction(1, 2))]
        return [min(network.count(g.name), math.floor(t * g.size + Fraction(1, 2))) for g in ROW.groups]

    thresholds = {Fraction(2 * j + 1, 2 * n) for n in (ROW.size, *(g.size for g in ROW.groups)) for j in range(n)}
    found = counts(ROW, allocate(ROW, scores, gone / ROW.size, scope="both", sparsity_of="channels"))
    before, after = [0] * len(found), [0] * len(found)
    for t in sorted(thresholds):
        before, after = after, lesser(t)
        if sum(after) >= gone:
            break
    assert sum(found) == gone
    assert all(low <= n <= high for low, n, high in zip(before, found, after, strict=True))


@pytest.mark.parametrize("target", [0.3, 0.6, 0.85])
def test_erk_keeps_shares_in_proportion_to_density(target: float) -> None:
    """Densities by hand; the same eps, to half a unit, fits all groups that are cut."""
    plan = allocate(ROW, random_scores(ROW), target, scope="erk", sparsity_of="channels")
    densities = [(4 + 3 + 6) / 108, (6 + 4 + 6) / 216, (6 + 6 + 2) / 36, (20 + 24) / 480]
    bounds = []
    for group, density, gone in zip(ROW.groups, densities, counts(ROW, plan), strict=True):
        kept = group.size - gone
        least = (kept - 0.5) / group.size / density if kept > 1 else 0.0
        bounds.append((least, (kept + 0.5) / group.size / density if gone else np.inf))
    assert max(low for low, _ in bounds) <= min(high for _, high in bounds)
    assert sum(counts(ROW, plan)) == round(target * ROW.size)


def test_erk_pools_the_layers_that_make_a_group() -> None:
    """Two 1x1 convolutions are added: dimensions (8 + 3 + 2) + (8 + 6 + 2), weights 24 + 48."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.mid = nn.Conv2d(3, 8, 1), nn.Conv2d(6, 8, 1), nn.Conv2d(3, 6, 1)
            self.bn, self.out = nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)

        def forward(self, x: Any) -> Any:
            return self.out(self.bn(self.a(x) + self.b(self.mid(x))))

    graph = dependency_graph(Sum(), torch.zeros(1, 3, 2, 2))
    erk: Any = SCOPES["erk"]
    ranks = erk.channels(graph, np.arange(14.0), "params", None)
    sizes = {group.name: (group.start, group.size) for group in graph.groups}
    for name, density in {"a": (13 + 16) / 72, "mid": (6 + 3 + 2) / 18}.items():
        start, size = sizes[name]
        expected = [-(1 - (j + 0.5) / size) / density for j in range(size)]
        assert ranks[start : start + size] == pytest.approx(expected)


@pytest.mark.parametrize("target", [0.2, 0.5, 0.8])
def test_lamp_ranks_by_torch_prunings_scores(target: float) -> None:
    scores = random_scores(RESNET)
    plan = allocate(RESNET, scores, target, scope="lamp", sparsity_of="channels")
    theirs = {name: LAMPImportance()._lamp(score.float()) for name, score in scores.items()}
    gone = gone_by_group(RESNET, plan)
    removed = torch.cat([theirs[name][torch.from_numpy(cut)] for name, cut in gone.items()])
    kept = torch.cat([theirs[name][torch.from_numpy(~cut)] for name, cut in gone.items()])
    assert removed.max() <= kept.min() + 1e-5
    with pytest.raises(ValueError, match="lamp ranks finite scores of at least 0; those of 'conv1' are not"):
        allocate(RESNET, scores | {"conv1": -torch.ones(16)}, 0.5, scope="lamp")


def test_uniform_plus_spares_both_ends() -> None:
    for target, gone in (
        (0.5, [0, 3, 3, 12]),  # up to 0.575 of each: the fourth of 6 would be 0.583
        (26 / 36, [0, 5, 5, 16]),  # the classifier reads group 5, of which 16 of 20 go at most; 5 and 6 the floor
    ):
        plan = allocate(ROW, random_scores(ROW), target, scope="uniform_plus", sparsity_of="channels")
        assert counts(ROW, plan) == gone
    with pytest.raises(ValueError, match=r"scope uniform_plus.* leave 0\.0000 to 0\.7222"):
        allocate(ROW, random_scores(ROW), 0.8, scope="uniform_plus", sparsity_of="channels")


def test_uniform_plus_goes_by_the_ends_of_the_whole_network() -> None:
    """If first or last layer are protected, no other takes their place; a residual stream is kept as a whole."""
    inner = dependency_graph(IN_A_ROW, torch.zeros(1, 3, 8, 8), protect=["0", "6"])
    assert [group.name for group in inner.groups] == ["1", "3"]
    plan = allocate(inner, random_scores(inner), 0.5, scope="uniform_plus", sparsity_of="channels")
    assert counts(inner, plan) == [3, 3]
    plan = allocate(RESNET, random_scores(RESNET), 0.7, scope="uniform_plus", sparsity_of="channels")
    shares = {name: gone.mean() for name, gone in gone_by_group(RESNET, plan).items()}
    assert shares.pop("conv1") == 0
    others = 0.7 * RESNET.size / (RESNET.size - 16)
    assert all(share == pytest.approx(others, abs=0.5 / 16) for share in shares.values())
    convolutions = dependency_graph(
        nn.Sequential(*(nn.Conv2d(4, 10, 1), nn.Conv2d(10, 10, 1), nn.Conv2d(10, 2, 1))), torch.zeros(1, 4, 1, 1)
    )
    plan = allocate(convolutions, random_scores(convolutions), 0.45, scope="uniform_plus", sparsity_of="channels")
    assert counts(convolutions, plan) == [0, 9]  # a last convolution is no classifier


def test_uniform_plus_waits_for_whole_multiples() -> None:
    """Of 20 units the classifier's last 4 never go; in multiples of 8, 8 stay."""
    options = {"scope": "uniform_plus", "sparsity_of": "channels", "round_to": 8}
    assert counts(ROW, allocate(ROW, random_scores(ROW), 12 / 36, **options)) == [0, 0, 0, 12]
    with pytest.raises(ValueError, match=r"leave 0\.0000 to 0\.3333"):
        allocate(ROW, random_scores(ROW), 0.9, **options)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 11))
def test_sensitivity_takes_the_least_summed_drop(seed: int, remove: int) -> None:
    """Least over all combinations of whole units, for convex curves that have a point at every one of them."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1))
    graph = dependency_graph(model, torch.zeros(1, 3, 1, 1))
    generator = np.random.default_rng(seed)
    sums = {g.name: np.cumsum(np.sort(generator.integers(-2, 6, g.size))) / 8 for g in graph.groups}
    curves = {name: {(k + 1) / len(s): drop for k, drop in enumerate(s)} for name, s in sums.items()}
    plan = allocate(
        graph, random_scores(graph), remove / 15, scope="sensitivity", sparsity_of="channels", curves=curves
    )
    drops = [np.concatenate([[0.0], s]) for s in sums.values()]
    ranges = itertools.product(*(range(g.size) for g in graph.groups))
    least = min(sum(d[n] for d, n in zip(drops, ns, strict=True)) for ns in ranges if sum(ns) == remove)
    assert sum(d[n] for d, n in zip(drops, counts(graph, plan), strict=True)) == pytest.approx(least)


def test_sensitivity_counts_in_the_currency_of_the_target() -> None:
    """With the same drop per unit everywhere, the group with the highest cost per unit is removed first."""
    assert unit_costs(ROW, "params")[[0, 4, 10, 16]].tolist() == [27 + 54, 36 + 6, 6 + 80, 24 + 2]
    assert unit_costs(ROW, "macs")[[0, 4, 10, 16]].tolist() == [81 * 64, 36 * 64 + 6 * 4, 6 * 4 + 80, 26]
    curves = {group.name: {1: group.size / 20} for group in ROW.groups}
    for sparsity_of, gone in (("params", [0, 0, 3, 0]), ("macs", [1, 0, 0, 0])):
        plan = allocate(ROW, random_scores(ROW), 0.3, scope="sensitivity", sparsity_of=sparsity_of, curves=curves)
        assert counts(ROW, plan) == gone


def test_sensitivity_without_a_difference_is_uniform() -> None:
    flat = {group.name: {0.5: 0.0} for group in ROW.groups}
    for target in (0.25, 0.5, 0.75):
        plans = [
            allocate(ROW, random_scores(ROW), target, scope=scope, sparsity_of="channels", curves=flat)
            for scope in ("sensitivity", "layer")
        ]
        assert plans[0] == plans[1]
    for curves in (None, {"0": {0.5: 0.1}}):
        with pytest.raises(ValueError, match="scope sensitivity.*run the scan"):
            allocate(ROW, random_scores(ROW), 0.5, scope="sensitivity", curves=curves)
