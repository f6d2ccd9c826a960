"""Criteria: closed forms, norms by torch.linalg, scipy and torch-pruning, invariances, and an unchanged model."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch_pruning.pruner.importance import BNScaleImportance

import models
from pruning.allocation.weight_budget import weight_masks
from pruning.calibration.least_squares import RECONSTRUCTIONS
from pruning.channels.graph import dependency_graph, group_scores, plan_without
from pruning.channels.plans import Plan
from pruning.channels.surgery import apply_plan
from pruning.criteria import layerwise
from pruning.criteria.registry import COMPUTE_COSTS, CRITERIA
from pruning.weights.masks import Scores, prunable
from tests.networks import narrow, trained_like

WEIGHT_CRITERIA = [name for name, criterion in CRITERIA.items() if criterion.weight is not None]
each_criterion = pytest.mark.parametrize("name", WEIGHT_CRITERIA)
each_of_channels = pytest.mark.parametrize("name", CRITERIA)


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(layerwise, "BLOCK", 72)  # of `obc`: half of the time


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def score(name: str, model: nn.Module, seed: int = 0) -> Scores:
    function = CRITERIA[name].weight
    assert function is not None
    batches = [(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9)), torch.tensor([0, 1]))]
    return function(model, batches, torch.Generator().manual_seed(seed))


def calibration(size: int = 8, count: int = 24, device: str | torch.device = "cpu") -> list[tuple[Tensor, Tensor]]:
    images = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    images, labels = images.to(device), torch.arange(count, device=device) % 3
    return [(images[:10], labels[:10]), (images[10:], labels[10:])]


def channel_score(name: str, model: nn.Module, plan: Plan | None = None, dense: nn.Module | None = None) -> Scores:
    """Channel scores as in `pruning.pipeline`: by the criterion's own function, or summed over filters."""
    batches, generator = calibration(device=next(model.parameters()).device), torch.Generator()
    graph = dependency_graph(dense or model, batches[0][0])
    criterion = CRITERIA[name]
    if criterion.channel is not None:
        return criterion.channel(graph, model, plan, batches, generator.manual_seed(0))
    assert criterion.weight is not None
    return group_scores(graph, criterion.weight(model, batches, generator.manual_seed(0)), plan=plan)


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that scoring must not change."""
    return {
        "tensors": {key: tensor.clone() for key, tensor in model.state_dict().items()},
        "modes": [module.training for module in model.modules()],
        "grads": [p.grad if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "hooks": [[len(h) for k, h in vars(m).items() if k.endswith("_hooks")] for m in model.modules()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "identities": [id(p) for p in [*model.parameters(), *model.buffers()]],
    }


@each_of_channels
@pytest.mark.parametrize("cut", [False, True])
def test_every_unit_has_a_finite_score(name: str, cut: bool, device: torch.device) -> None:
    """In a cut network removed units score -inf, the others as in a network that never had them."""
    dense = trained_like(narrow(3)).to(device)
    graph, plan, model = dependency_graph(dense, calibration()[0][0]), None, dense
    gone = np.zeros(graph.size, dtype=bool)
    if cut:
        gone[::3] = True
        plan = plan_without(graph, gone)
        model = apply_plan(dense, plan)
    scores = channel_score(name, model, plan, dense)
    assert {key: tuple(score.shape) for key, score in scores.items()} == {g.name: (g.size,) for g in graph.groups}
    for group in graph.groups:
        left = ~gone[group.start : group.start + group.size]
        assert scores[group.name][left].isfinite().all()
        if name != "random":  # which need not care: what is gone stays gone
            assert (scores[group.name][~left] == -torch.inf).all()
    if cut and name != "random":
        alone = channel_score(name, model)
        for group in graph.groups:
            score = scores[group.name]
            torch.testing.assert_close(score[score > -torch.inf], alone[group.name])


@each_criterion
def test_scores_of_weights_lie_beside_them_and_are_those_of_the_cpu(name: str, device: torch.device) -> None:
    model = trained_like(narrow(3))
    function = CRITERIA[name].weight
    assert function is not None
    expected = function(model, calibration(), torch.Generator().manual_seed(0))
    scores = function(model.to(device), calibration(device=device), torch.Generator().manual_seed(0))
    for key, score in scores.items():
        assert (score.device.type, score.shape) == (device.type, model.get_parameter(key).shape)
        torch.testing.assert_close(score.cpu(), expected[key])


@pytest.mark.parametrize("name", ["layer", "sequential"])
def test_reconstruction_works_where_the_network_is(name: str, device: torch.device) -> None:
    """Of half of the weights: what remains is finite, on the device, and zero where masked."""
    reconstruct = RECONSTRUCTIONS[name]
    assert reconstruct is not None
    model = trained_like(narrow(3)).to(device)
    masks = weight_masks({key: w.detach().abs() for key, w in prunable(model).items()}, 0.5, "layer")
    moved = reconstruct(model, masks, calibration(device=device), torch.Generator().manual_seed(0))
    for key, weight in moved.items():
        assert weight.device.type == device.type
        assert weight.isfinite().all()
        assert not weight[~masks[key]].any()


@each_of_channels
@pytest.mark.parametrize("training", [True, False])
def test_scoring_channels_leaves_the_model_as_it_was(name: str, training: bool) -> None:
    model = trained_like(narrow(3)).train(training)
    model.layer1.eval()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.layer2.requires_grad_(False)
    before = state(model)
    with torch.no_grad():  # whatever mode of autograd the caller is in
        channel_score(name, model)
    after = state(model)
    torch.testing.assert_close(after.pop("tensors"), before.pop("tensors"), rtol=0, atol=0)
    torch.testing.assert_close(after.pop("grads"), before.pop("grads"), rtol=0, atol=0)
    assert after == before


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"random"}))
def test_permuting_filters_permutes_scores(name: str) -> None:
    model = trained_like(narrow(3) if name == "obc" else models.build("resnet8", 3))
    # Eight and eight: what reads them has 144 weights per filter, which obs takes in two blocks.
    rng = torch.Generator().manual_seed(1)
    order = torch.cat([torch.randperm(8, generator=rng), 8 + torch.randperm(8, generator=rng)])
    criterion = CRITERIA[name]
    before = criterion.weight and criterion.weight(model, calibration(), torch.Generator().manual_seed(0))
    channels = channel_score(name, model)["layer1.0.conv1"]
    block = model.layer1[0]
    with torch.no_grad():
        for tensor in (block.conv1.weight, *(block.bn1.state_dict().values())):
            if tensor.ndim:
                tensor.copy_(tensor[order].clone())
        block.conv2.weight.copy_(block.conv2.weight[:, order].clone())
    torch.testing.assert_close(channel_score(name, model)["layer1.0.conv1"], channels[order])
    if before is not None and criterion.weight is not None:
        after = criterion.weight(model, calibration(), torch.Generator().manual_seed(0))
        torch.testing.assert_close(after["layer1.0.conv1.weight"], before["layer1.0.conv1.weight"][order])
        torch.testing.assert_close(after["layer1.0.conv2.weight"], before["layer1.0.conv2.weight"][:, order])
        torch.testing.assert_close(after["fc.weight"], before["fc.weight"])


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"random"}))
def test_memory_formats_and_half_the_digits_do_not_matter(name: str) -> None:
    """Networks are trained in channels_last and float32."""
    model = trained_like(narrow(3))
    exact, exact_weights = channel_score(name, model), score_with(name, model) if name in WEIGHT_CRITERIA else {}
    graph = dependency_graph(model, calibration()[0][0])
    criterion, other = CRITERIA[name], model.float().to(memory_format=torch.channels_last)
    batches = [(x.float().contiguous(memory_format=torch.channels_last), labels) for x, labels in calibration()]
    generator = torch.Generator().manual_seed(0)
    weights = criterion.weight and criterion.weight(other, batches, torch.Generator().manual_seed(0))
    if criterion.channel is not None:
        scores = criterion.channel(graph, other, None, batches, generator)
    else:
        assert weights is not None
        scores = group_scores(graph, weights)
    for key, score_ in scores.items():
        # The order in which regression gives channels up turns on small differences.
        close = torch.isclose(score_.double(), exact[key], rtol=1e-2, atol=1e-3 * float(exact[key].max()))
        assert close.double().mean() > (0.8 if name == "regression" else 0.999)
    for key, tensor in (weights or {}).items():
        assert tensor.dtype == torch.float32
        close = torch.isclose(
            tensor.double(), exact_weights[key], rtol=1e-2, atol=1e-3 * float(exact_weights[key].max())
        )
        assert close.double().mean() > 0.999


SCALES = {"magnitude_l1": 2, "magnitude_l2": 4, "bn_scale": 2, "activation": 1, "apoz": 2, "regression": 1, "obc": 1}


@pytest.mark.parametrize("name", SCALES)
def test_doubling_a_layer_scales_its_own_scores(name: str) -> None:
    model, criterion = trained_like(narrow(3)), CRITERIA[name]
    assert criterion.weight is not None
    before = criterion.weight(model, calibration(), torch.Generator())
    model.layer2[0].conv2.weight.data *= 2
    after = criterion.weight(model, calibration(), torch.Generator())
    key = "layer2.0.conv2.weight"
    torch.testing.assert_close(after[key], SCALES[name] * before[key])


@each_criterion
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_targets_are_met_exactly_though_a_layer_is_zero_and_no_layer_is_emptied(name: str, sparsity: float) -> None:
    model = trained_like(narrow(3))
    model.layer2[0].conv1.weight.data.zero_()
    scores = score_with(name, model)
    total = sum(s.numel() for s in scores.values())
    masks = weight_masks(scores, sparsity, "global")
    assert sum(int(mask.sum()) for mask in masks.values()) == total - round(sparsity * total)
    assert all(mask.any() for mask in masks.values())


def score_with(name: str, model: nn.Module) -> Scores:
    function = CRITERIA[name].weight
    assert function is not None
    return function(model, calibration(), torch.Generator().manual_seed(0))


def test_every_criterion_says_what_it_is() -> None:
    for criterion in CRITERIA.values():
        assert criterion.cost in COMPUTE_COSTS
        assert criterion.source
        assert bool(criterion.of_weight) == (criterion.weight is not None)
        assert criterion.of_channel


@pytest.mark.parametrize("name", CRITERIA)
def test_the_stated_cost_is_what_is_asked_of_the_data(name: str) -> None:
    model = trained_like(narrow(3))
    graph = dependency_graph(model, calibration()[0][0])
    criterion: Any = CRITERIA[name]
    for function in (
        criterion.weight and (lambda: criterion.weight(model, [], torch.Generator())),
        criterion.channel and (lambda: criterion.channel(graph, model, None, [], torch.Generator())),
    ):
        if function and criterion.cost == "weights":
            function()
        elif function:
            with pytest.raises(ValueError, match="needs data"):
                function()


@each_criterion
def test_every_prunable_weight_has_a_finite_score_and_no_gradient(name: str) -> None:
    model = network()
    scores = score(name, model)
    assert list(scores) == list(prunable(model))
    for key, weight in prunable(model).items():
        assert scores[key].shape == weight.shape
        assert scores[key].isfinite().all()
        assert not scores[key].requires_grad


@each_criterion
@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_the_model_as_it_was(name: str, training: bool) -> None:
    model = network().train(training)
    model[0].weight.requires_grad_(False)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for tensor in score(name, model).values():
        tensor.zero_()  # nor do the scores share memory with it
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training is training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, *[True] * 5]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@each_criterion
def test_one_seed_one_set_of_scores(name: str) -> None:
    model = network()
    first = score(name, model, seed=5)
    torch.rand(3)  # the global generator has no say
    assert all(torch.equal(tensor, first[key]) for key, tensor in score(name, model, seed=5).items())


def test_magnitude_by_hand() -> None:
    model = nn.Linear(3, 1)
    model.weight.data = torch.tensor([[-3.0, 0.0, 2.0]])
    assert score("magnitude_l1", model)["weight"].tolist() == [[3, 0, 2]]
    assert score("magnitude_l2", model)["weight"].tolist() == [[9, 0, 4]]


def test_summed_over_a_filter_magnitudes_are_its_norms() -> None:
    model = network()
    filters = model[0].weight.detach().flatten(1)
    for name, norm, power in (("magnitude_l1", 1, 1), ("magnitude_l2", 2, 2)):
        expected = torch.linalg.vector_norm(filters, norm, dim=1) ** power
        torch.testing.assert_close(score(name, model)["0.weight"].flatten(1).sum(1), expected)


def test_both_magnitudes_make_the_same_masks() -> None:
    model = network()
    l1, l2 = (weight_masks(score(name, model), 0.9, "global") for name in ("magnitude_l1", "magnitude_l2"))
    assert all(torch.equal(l1[name], l2[name]) for name in l1)


def test_random_scores_are_uniform_and_depend_on_the_seed_alone() -> None:
    model = nn.Linear(200, 200)
    scores = score("random", model, seed=1)["weight"]
    assert scores.min() > 0
    assert scores.max() <= 1
    # Of 40,000 uniform draws the mean's standard deviation is 0.0014, and the Kolmogorov distance exceeds
    # 0.01 once in 1,500 seeds.
    assert abs(scores.mean() - 0.5) < 0.006
    steps = torch.arange(1, scores.numel() + 1) / scores.numel()
    assert (scores.flatten().sort().values - steps).abs().max() < 0.01
    assert not torch.equal(scores, score("random", model, seed=2)["weight"])
    model.weight.data.zero_()
    assert torch.equal(scores, score("random", model, seed=1)["weight"])


def test_random_scores_of_half_precision_weights_hardly_tie() -> None:
    scores = score("random", nn.Linear(100, 100).bfloat16())["weight"]
    assert len(scores.unique()) > 9900


def test_random_scores_follow_the_generator_not_the_model(device: torch.device) -> None:
    on_cpu, on_device = score("random", network()), score("random", network().to(device))
    for name, expected in on_cpu.items():
        assert on_device[name].device.type == device.type
        assert torch.equal(on_device[name].cpu(), expected)
    function = CRITERIA["random"].weight
    assert function is not None
    assert function(network(), [], torch.Generator(device))["0.weight"].device.type == "cpu"


def test_bn_scale_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, eps=0.0), nn.ReLU(), nn.Conv2d(2, 1, 1)).double()
    model[0].weight.data = torch.tensor([[3.0, 0, 6], [-4, 8, 0]]).double().reshape(2, 3, 1, 1)
    model[1].weight.data = torch.tensor([-2.0, 0.5]).double()
    model[1].running_var = torch.tensor([4.0, 16.0]).double()
    model[3].weight.data = torch.tensor([-1.0, 7.0]).double().reshape(1, 2, 1, 1)
    scores = score("bn_scale", model)
    assert scores["0.weight"].flatten().tolist() == [3, 0, 6, 0.5, 1, 0]  # |-2 / 2 * 3|, ..., |0.5 / 4 * -4|, ...
    assert scores["3.weight"].flatten().tolist() == [1, 7]
    assert channel_score("bn_scale", model)["0"].tolist() == [2, 0.5]


def test_bn_scale_is_torchs_own_fusion() -> None:
    model: Any = trained_like(narrow(3))
    scores = score_with("bn_scale", model)
    for conv, norm in ((model.conv1, model.bn1), (model.layer2[0].conv2, model.layer2[0].bn2)):
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
        name = next(key for key, weight in prunable(model).items() if weight is conv.weight)
        torch.testing.assert_close(scores[name], fused.weight.detach().abs())


def test_bn_scale_where_nothing_can_be_folded() -> None:
    with pytest.raises(ValueError, match="no batch norm follows"):
        score("bn_scale", nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)).double()
    with pytest.raises(ValueError, match="no batch norm with a gamma follows"):
        channel_score("bn_scale", model)


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_bn_scale_of_channels_is_torch_prunings(name: str) -> None:
    model = trained_like(models.build(name, 10)).float()
    image = torch.zeros(1, 3, 32, 32)
    graph = dependency_graph(model, image)
    function = CRITERIA["bn_scale"].channel
    assert function is not None
    ours = function(graph, model, None, [], torch.Generator())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=image)
    importance = BNScaleImportance(normalizer=None)
    for group in graph.groups:
        layer = model.get_submodule(group.name)
        found = theirs.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, list(range(group.size)))
        torch.testing.assert_close(ours[group.name].float(), importance(found))


def test_fpgm_against_scipy() -> None:
    model = trained_like(narrow(3))
    scores = channel_score("fpgm", model)
    inner, stem, end = (
        layer.weight.detach().flatten(1).numpy()
        for layer in (model.layer1[0].conv1, model.conv1, model.layer1[0].conv2)
    )
    np.testing.assert_allclose(scores["layer1.0.conv1"], cdist(inner, inner).mean(1))
    np.testing.assert_allclose(scores["conv1"], (cdist(stem, stem).mean(1) + cdist(end, end).mean(1)) / 2)


def test_fpgm_takes_the_filter_in_the_middle_not_the_smallest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1)).double()
    model[0].weight.data = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]).double().reshape(3, 3, 1, 1)
    assert channel_score("fpgm", model)["0"].tolist() == pytest.approx([4 / 3, 1, 5 / 3])
