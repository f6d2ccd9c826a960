"""One cut, and the door for people with their own loop."""

import pytest
import torch
from torch import nn

import models
import pruning
from pruning import cost, masks
from pruning.criteria import CRITERIA
from pruning.cutting import begin, further
from pruning.surgery import apply_plan

IMAGES = torch.zeros(2, 3, 32, 32)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return models.build("resnet20", 10).eval()


def test_weights_are_masked_in_place_to_the_weight(model):
    total = sum(w.numel() for w in masks.prunable(model).values())
    pruned, kept = pruning.prune(model, IMAGES, sparsity=0.7)
    assert pruned is model
    assert sum(int(m.sum()) for m in kept.values()) == total - round(0.7 * total)
    assert masks.sparsity(model) == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("sparsity_of", ["params", "macs", "channels"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_channels_are_cut_from_a_copy_near_the_target_and_the_plan_restores_it(model, criterion, sparsity_of):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, plan = pruning.prune(
        model, IMAGES, sparsity=0.5, granularity="channel", criterion=criterion, sparsity_of=sparsity_of, seed=1
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = apply_plan(model, plan)
    assert torch.equal(small(IMAGES), again(IMAGES))
    if sparsity_of == "macs":
        assert cost.macs(small, (3, 32, 32)) / cost.macs(model, (3, 32, 32)) == pytest.approx(0.5, abs=0.02)
    if sparsity_of == "params":
        left = sum(w.numel() for w in masks.prunable(small).values())
        assert left / sum(w.numel() for w in masks.prunable(model).values()) == pytest.approx(0.5, abs=0.02)


def test_two_cuts_of_channels_compose_to_a_plan_of_the_dense_network(model):
    first = further(begin(model, IMAGES, "channel"), 0.3, criterion=CRITERIA["magnitude_l1"])
    second = further(first, 0.6, criterion=CRITERIA["magnitude_l1"])
    assert torch.equal(apply_plan(model, second.plan)(IMAGES), second.model(IMAGES))
    assert torch.equal(apply_plan(first.model, second.last)(IMAGES), second.model(IMAGES))
    assert masks.sparsity(second.model, second.dense_weights) == pytest.approx(0.6, abs=0.02)


def test_what_was_masked_stays_masked(model):
    first = further(begin(model, IMAGES), 0.3, criterion=CRITERIA["random"])
    gone = {name: ~mask for name, mask in first.masks.items()}
    second = further(first, 0.6, criterion=CRITERIA["random"])
    assert not any((second.masks[name] & mask).any() for name, mask in gone.items())


def test_random_channels_do_not_rank_by_the_size_of_filters():
    """Of two equally wide layers, one with 9 times the weights, both lose about half."""
    model = nn.Sequential(nn.Conv2d(3, 200, 1), nn.ReLU(), nn.Conv2d(200, 200, 3), nn.ReLU(), nn.Conv2d(200, 5, 1))
    _, plan = pruning.prune(
        model, torch.zeros(1, 3, 8, 8), sparsity=0.5, granularity="channel", criterion="random", sparsity_of="channels"
    )
    gone = [len(plan["layers"][name]["out"]["removed"]) for name in ("0", "2")]
    assert gone == pytest.approx([100, 100], abs=30)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_protected_modules_are_left_whole(model, granularity):
    small, _ = pruning.prune(model, IMAGES, sparsity=0.5, granularity=granularity, protect=["layer1"])
    for name, parameter in model.layer1.named_parameters():
        assert torch.count_nonzero(small.layer1.get_parameter(name)) == torch.count_nonzero(parameter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "size"}, "unknown criterion 'size'; choose from magnitude_l1"),
        ({"granularity": "row"}, "unknown granularity 'row'; choose from weight, channel"),
        ({"scope": "all"}, "unknown scope 'all'"),
        ({"granularity": "channel", "sparsity_of": "bytes"}, "unknown sparsity_of"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"protect": ["nothing"]}, "no module 'nothing'"),
        ({"granularity": "channel", "min_channels": 16, "sparsity": 0.9}, "out of reach"),
    ],
)
def test_wrong_arguments_are_refused_with_the_choices(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, IMAGES, **{"sparsity": 0.5, **arguments})
