"""Criteria: closed forms, norms by torch.linalg, and a model left untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pruning.criteria import CRITERIA
from pruning.masks import Scores, prunable
from pruning.scopes import weight_masks

WEIGHT_CRITERIA = [name for name, criterion in CRITERIA.items() if criterion.weight is not None]
each_criterion = pytest.mark.parametrize("name", WEIGHT_CRITERIA)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))


def score(name: str, model: nn.Module, seed: int = 0) -> Scores:
    function = CRITERIA[name].weight
    assert function is not None
    batches = [(torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(9)), torch.tensor([0, 1]))]
    return function(model, batches, torch.Generator().manual_seed(seed))


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_scores_follow_the_generator_not_the_model() -> None:
    on_cpu, on_gpu = score("random", network()), score("random", network().cuda())
    for name, expected in on_cpu.items():
        assert on_gpu[name].is_cuda
        assert torch.equal(on_gpu[name].cpu(), expected)
    function = CRITERIA["random"].weight
    assert function is not None
    assert function(network(), [], torch.Generator("cuda"))["0.weight"].device.type == "cpu"
