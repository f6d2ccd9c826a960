"""Channels first, then weights: the exact target, over several cuts, and nothing removed comes back."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
import pruning
from pruning.channels.surgery import apply_plan
from pruning.criteria.registry import CRITERIA
from pruning.weights.masks import prunable
from tests.cutting import begin, prune_to

IMAGES = torch.zeros(2, 3, 32, 32)
BATCHES = [(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.arange(4))]
MAGNITUDE = CRITERIA["magnitude_l1"]


def network(name: Any = "resnet20") -> Any:
    """A network whose weights are all different and non-zero."""
    torch.manual_seed(0)
    model = models.build(name, 10).eval()
    drawn = torch.randperm(2 * held(model)) - held(model) + 0.5
    sizes = [weight.numel() for weight in prunable(model).values()]
    with torch.no_grad():
        for weight, part in zip(prunable(model).values(), drawn[: held(model)].split(sizes), strict=True):
            weight.copy_(part.view(weight.shape) / 2**20)
    return model


def held(model: Any) -> Any:
    return sum(weight.numel() for weight in prunable(model).values())


def values(model: Any) -> Any:
    """The non-zero weights, which can be identified by their values."""
    return {value for weight in prunable(model).values() for value in weight.detach().flatten().tolist() if value}


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 0.95), st.floats(0.01, 0.99), st.sampled_from(["global", "layer", "erk"]))
def test_the_target_is_met_to_the_weight_and_channels_bring_their_share(sparsity: Any, share: Any, scope: Any) -> None:
    model = network("resnet8")
    options = {"sparsity": sparsity, "channel_share": share, "scope": scope, "granularity": "hybrid"}
    small, (plan, masks) = pruning.prune(model, IMAGES, **options)
    assert held(small) / held(model) == pytest.approx(1 - share * sparsity, abs=0.0123)  # the largest unit
    assert len(values(small)) == held(model) - round(sparsity * held(model))
    assert values(small) <= values(model)
    again = apply_plan(model, plan)
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert all(torch.equal(small.get_parameter(name) != 0, mask) for name, mask in masks.items())


def test_the_network_that_was_given_is_left_alone() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    pruning.prune(model, IMAGES, sparsity=0.7, granularity="hybrid")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("criterion", ["magnitude_l1", "random", "taylor"])
def test_cut_after_cut_what_is_gone_stays_gone(criterion: Any) -> None:
    """Identified by value: no masked weight returns when channels are cut around it."""
    dense = network()
    state, before = begin(dense, IMAGES, "hybrid", protect=["layer1.0"]), values(dense)
    total, generator = held(dense), torch.Generator().manual_seed(0)
    for target in (0.2, 0.2, 0.5, 0.8):
        state = prune_to(
            state, target, criterion=CRITERIA[criterion], batches=BATCHES, generator=generator, channel_share=0.6
        )
        assert values(state.model) <= before
        before = values(state.model)
        assert len(before) == total - round(target * total)
        assert held(state.model) / total == pytest.approx(1 - 0.6 * target, abs=0.02)
        assert held(state.model) == held(apply_plan(dense, state.plan))
    assert torch.equal(state.model.layer1[0].conv1.weight, dense.layer1[0].conv1.weight)


def test_masks_go_with_their_weights_and_still_hold_what_training_moved() -> None:
    first = prune_to(begin(network(), IMAGES, "hybrid"), 0.4, criterion=MAGNITUDE)
    with torch.no_grad():
        for weight in prunable(first.model).values():  # a step of training ...
            weight.add_(0.001)
    pruning.hold_masks(first.model, first.masks)()  # ... after which the masks are held
    kept = values(first.model)
    second = prune_to(first, 0.6, criterion=MAGNITUDE)
    assert values(second.model) <= kept
    assert {n: m.shape for n, m in second.masks.items()} == {n: w.shape for n, w in prunable(second.model).items()}


@pytest.mark.parametrize("reconstruct", ["layer", "sequential"])
def test_weights_that_moved_are_zero_where_masks_are(reconstruct: Any) -> None:
    total = held(network("resnet8"))
    state = begin(network("resnet8"), IMAGES, "hybrid")
    for target in (0.3, 0.6):
        state = prune_to(state, target, reconstruct=reconstruct, batches=BATCHES)
        for name, mask in state.masks.items():
            assert not state.model.get_parameter(name)[~mask].any()
        assert sum(int(mask.sum()) for mask in state.masks.values()) == total - round(target * total)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity_of": "macs"}, "counts params, .* not macs"),
        ({"channel_share": 1.0}, "channel_share must be between 0 and 1; it is 1.0"),
        ({"channel_share": 0.0}, "channel_share must be between 0 and 1"),
        ({"only": "fc"}, "by weight or by channel, not by hybrid"),
        ({"criterion": "fpgm"}, "scores channels only"),
        ({"min_channels": 16, "channel_share": 0.99, "sparsity": 0.9}, "out of reach"),
        ({"sparsity": None}, "granularity 'hybrid' needs a sparsity"),
    ],
)
def test_wrong_arguments_are_refused_with_the_reason(arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pruning.prune(network(), IMAGES, **{"granularity": "hybrid", "sparsity": 0.5, **arguments})
