"""Single cuts, and the `prune` entry point."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import models
import pruning
from pruning.allocation.scopes import SCOPES
from pruning.calibration.least_squares import RECONSTRUCTIONS
from pruning.channels.surgery import apply_plan
from pruning.criteria import layerwise
from pruning.criteria.registry import CRITERIA
from pruning.measure import cost
from pruning.weights import masks
from tests.cutting import begin, prune_to, score

IMAGES = torch.zeros(2, 3, 32, 32)
BATCHES = [(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)), torch.arange(4))]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removal orders of `obc` in parts of 72 weights, a tenth of the time of whole filters."""
    monkeypatch.setattr(layerwise, "BLOCK", 72)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return models.build("resnet20", 10).eval()


def test_weights_are_masked_in_place_to_the_weight(model: Any) -> None:
    total = sum(w.numel() for w in masks.prunable(model).values())
    kept: Any
    pruned, kept = pruning.prune(model, IMAGES, sparsity=0.7)
    assert pruned is model
    assert sum(int(m.sum()) for m in kept.values()) == total - round(0.7 * total)
    assert masks.sparsity(model) == pytest.approx(0.7, abs=1e-5)


MEASURES = ("params", "macs", "channels")
# Each criterion with one of them, and one criterion with each; the other pairs nightly.
PAIRS = [
    pytest.param(name, measure, marks=[] if name == "magnitude_l1" or number % 3 == other else [pytest.mark.slow])
    for number, name in enumerate(CRITERIA)
    for other, measure in enumerate(MEASURES)
]


@pytest.mark.parametrize(("criterion", "sparsity_of"), PAIRS)
def test_channels_are_cut_from_a_copy_near_the_target_and_the_plan_restores_it(
    model: Any, criterion: Any, sparsity_of: Any
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, plan = pruning.prune(
        model,
        IMAGES,
        sparsity=0.5,
        granularity="channel",
        criterion=criterion,
        sparsity_of=sparsity_of,
        batches=BATCHES,
        seed=1,
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = apply_plan(model, plan)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in small.named_parameters()}
    assert torch.equal(small(IMAGES), again(IMAGES))
    if sparsity_of == "macs":
        assert cost.macs(small, (3, 32, 32)) / cost.macs(model, (3, 32, 32)) == pytest.approx(0.5, abs=0.02)
    if sparsity_of == "params":
        left = sum(w.numel() for w in masks.prunable(small).values())
        assert left / sum(w.numel() for w in masks.prunable(model).values()) == pytest.approx(0.5, abs=0.02)


def test_two_cuts_of_channels_compose_to_a_plan_of_the_dense_network(model: Any) -> None:
    first = prune_to(begin(model, IMAGES, "channel"), 0.3, criterion=CRITERIA["magnitude_l1"])
    second = prune_to(first, 0.6, criterion=CRITERIA["magnitude_l1"])
    assert torch.equal(apply_plan(model, second.plan)(IMAGES), second.model(IMAGES))
    assert torch.equal(apply_plan(first.model, second.last)(IMAGES), second.model(IMAGES))
    assert masks.sparsity(second.model, second.dense_weights) == pytest.approx(0.6, abs=0.02)


def test_what_was_masked_stays_masked(model: Any) -> None:
    first = prune_to(begin(model, IMAGES), 0.3, criterion=CRITERIA["random"])
    gone = {name: ~mask for name, mask in first.masks.items()}
    second = prune_to(first, 0.6, criterion=CRITERIA["random"])
    assert not any((second.masks[name] & mask).any() for name, mask in gone.items())


def test_random_channels_do_not_rank_by_the_size_of_filters() -> None:
    """Of two equally wide layers, one with 9 times the weights, both lose about half."""
    model = nn.Sequential(nn.Conv2d(3, 200, 1), nn.ReLU(), nn.Conv2d(200, 200, 3), nn.ReLU(), nn.Conv2d(200, 5, 1))
    _, plan = pruning.prune(
        model, torch.zeros(1, 3, 8, 8), sparsity=0.5, granularity="channel", criterion="random", sparsity_of="channels"
    )
    gone = [len(plan["layers"][name]["out"]["removed"]) for name in ("0", "2")]
    assert gone == pytest.approx([100, 100], abs=30)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
@pytest.mark.parametrize("scope", SCOPES)
def test_every_scope_meets_the_target(model: Any, scope: Any, granularity: Any) -> None:
    names = list(masks.prunable(model))
    groups = begin(model, IMAGES, "channel").graph.groups
    curves = {name: {0.5: 0.01 * i, 0.9: 0.05 * i} for i, name in enumerate([*names, *(g.name for g in groups)])}
    options = {"sparsity": 0.6, "scope": scope, "granularity": granularity, "curves": curves}
    small, _ = pruning.prune(copy.deepcopy(model), IMAGES, **options)
    dense = sum(w.numel() for w in masks.prunable(model).values())
    assert masks.sparsity(small, dense) == pytest.approx(0.6, abs=1e-5 if granularity == "weight" else 0.02)
    if scope == "uniform_plus":
        assert torch.equal(small.conv1.weight, model.conv1.weight)
        assert small.fc.weight.count_nonzero() >= 0.2 * model.fc.weight.numel()


def test_uniform_plus_spares_no_other_layer_where_the_first_is_protected(model: Any) -> None:
    _, kept = pruning.prune(model, IMAGES, sparsity=0.5, scope="uniform_plus", protect=["conv1", "fc"])
    shares = [mask.float().mean().item() for mask in kept.values()]
    assert max(shares) - min(shares) < 0.01


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_scores_that_are_known_take_the_place_of_the_criterion(model: Any, granularity: Any) -> None:
    dense = begin(copy.deepcopy(model), IMAGES, granularity)
    known = score(dense, CRITERIA["taylor"], BATCHES, torch.Generator().manual_seed(0))
    unknown = prune_to(begin(model, IMAGES, granularity), 0.5, criterion=CRITERIA["taylor"], batches=BATCHES)
    cut = prune_to(dense, 0.5, criterion=CRITERIA["random"], scores=known)
    assert cut.plan == unknown.plan
    assert torch.equal(cut.model(IMAGES), unknown.model(IMAGES))
    assert list(known) == [g.name for g in dense.graph.groups] if dense.graph else list(masks.prunable(model))


def test_scores_of_channels_reduce_and_criteria_without_a_form_are_refused(model: Any) -> None:
    dense = begin(model, IMAGES, "channel")
    sums, means = (score(dense, CRITERIA["magnitude_l1"], reduce=reduce) for reduce in ("sum", "mean"))
    # The filters of the first residual stream: conv1's 3 x 3 x 3 weights, and 16 x 3 x 3 of each conv2.
    assert torch.allclose(sums["conv1"], means["conv1"] * (27 + 3 * 144))
    with pytest.raises(ValueError, match="the criterion scores channels only"):
        score(begin(model, IMAGES), CRITERIA["fpgm"])


@pytest.mark.parametrize("criterion", ["magnitude_l1", "regression", "obs"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_one_layer_alone_is_cut_to_the_weight(model: Any, criterion: Any, share: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"criterion": CRITERIA[criterion], "batches": BATCHES, "only": "layer2.0.conv1"}
    cut = prune_to(begin(model, IMAGES, protect=["layer1"]), share, **options)
    name = "layer2.0.conv1.weight"
    zeros = int((model.get_parameter(name) == 0).sum())
    assert zeros == round(share * before[name].numel())
    assert all(torch.equal(before[n], tensor) for n, tensor in model.state_dict().items() if n != name)
    # And on from there: another layer, with what is gone here still gone, and then all.
    second = prune_to(cut, 0.5, **options | {"only": "fc"})
    assert int((model.get_parameter(name) == 0).sum()) == zeros
    assert int((model.fc.weight == 0).sum()) == round(0.5 * model.fc.weight.numel())
    assert all(torch.equal(second.masks[n], m) for n, m in cut.masks.items() if n != "fc.weight")
    prune_to(second, 0.5, criterion=CRITERIA["magnitude_l1"])
    assert masks.sparsity(model) == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("criterion", ["magnitude_l1", "regression", "thinet"])
def test_one_group_alone_is_cut_to_the_unit(model: Any, criterion: Any) -> None:
    options = {"criterion": CRITERIA[criterion], "batches": BATCHES}
    dense = begin(model, IMAGES, "channel")
    cut = prune_to(dense, 0.7, only="layer2.0.conv1", sparsity_of="macs", **options)
    touched = {path: layer for path, layer in cut.plan["layers"].items() if any(a["removed"] for a in axes(layer))}
    assert len(touched["layer2.0.conv1"]["out"]["removed"]) == round(0.7 * 32)
    assert set(touched) == {"layer2.0.conv1", "layer2.0.bn1", "layer2.0.conv2"}
    assert touched["layer2.0.conv2"]["out"]["removed"] == []
    for name, tensor in cut.model.state_dict().items():
        if name.rpartition(".")[0] not in touched:
            assert torch.equal(tensor, model.state_dict()[name])
    second = prune_to(cut, 0.5, only="layer2.1.conv1", min_channels=20, **options)
    assert second.model.layer2[1].conv1.out_channels == 20
    assert second.model.layer2[0].conv1.out_channels == 32 - round(0.7 * 32)


def axes(layer: Any) -> Any:
    return [layer[side] for side in ("out", "in") if side in layer]


@pytest.mark.parametrize(
    ("granularity", "only", "options", "message"),
    [
        ("weight", "conv9", {}, "there is no layer 'conv9' to cut; choices: conv1, layer2.0.conv1"),
        ("weight", "layer1.0.conv1", {}, "there is no layer 'layer1.0.conv1' to cut"),  # it is protected
        ("channel", "conv9", {}, "there is no group 'conv9'; choices: layer2.0.conv1"),
        ("weight", "conv1", {"scope": "layer"}, "only 'conv1': .* scope is global, not 'layer'"),
        ("weight", "conv1", {"sparsity": 1.0}, "sparsity"),
    ],
)
def test_what_cannot_be_cut_alone_is_named(model: Any, granularity: Any, only: Any, options: Any, message: Any) -> None:
    arguments = {"sparsity": 0.5, "criterion": CRITERIA["magnitude_l1"], "only": only, **options}
    with pytest.raises(ValueError, match=message):
        prune_to(begin(model, IMAGES, granularity, ["layer1"]), **arguments)


@pytest.mark.parametrize("granularity", ["weight", "channel", "hybrid", "2:4"])
@pytest.mark.parametrize("criterion", ["magnitude_l1", "regression"])
def test_restoring_the_layers_outputs_changes_the_networks_less(criterion: Any, granularity: Any) -> None:
    images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    torch.manual_seed(0)
    dense = models.build("resnet8", 10).double().eval()
    labels = dense(images).argmax(1)
    changes = {}
    sparsity = None if granularity == "2:4" else 0.3
    for how in RECONSTRUCTIONS:
        model = copy.deepcopy(dense)
        small, what = pruning.prune(
            model, images[:1], sparsity=sparsity, criterion=criterion, granularity=granularity,
            batches=[(images, labels)], reconstruct=how,
        )  # fmt: skip
        changes[how] = what, (small(images) - dense(images)).square().mean().item()
    if granularity != "hybrid":  # which scores the weights once the channels are gone
        assert str(changes["layer"][0]) == str(changes["none"][0]) == str(changes["sequential"][0])
    assert changes["sequential"][1] < changes["layer"][1] < changes["none"][1]


def test_weights_that_moved_stay_where_their_masks_let_them_and_protected_ones_do_not_move(model: Any) -> None:
    before = {name: weight.detach().clone() for name, weight in masks.prunable(model).items()}
    _, kept = pruning.prune(model, IMAGES, sparsity=0.5, batches=BATCHES, protect=["layer1"], reconstruct="layer")
    for name, weight in masks.prunable(model).items():
        if name.startswith("layer1."):
            assert torch.equal(weight, before[name])
        else:
            assert not weight[~kept[name]].any()
    moved = [not torch.equal(model.get_parameter(n)[kept[n]], before[n][kept[n]]) for n in kept]
    assert sum(moved) > len(moved) / 2


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_protected_modules_are_left_whole(model: Any, granularity: Any) -> None:
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
def test_wrong_arguments_are_refused_with_the_choices(model: Any, arguments: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        pruning.prune(model, IMAGES, **{"sparsity": 0.5, **arguments})
