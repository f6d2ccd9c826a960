"""A user's own criterion is tried before the study: what breaks the promises of a criterion is said."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from pruning.weights.masks import prunable
from study.trials.scoring import probe
from tests.models.test_checks import SHAPE, network


def good(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: weight.detach().abs() for name, weight in prunable(model).items()}


def random(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable(model).items()}


def returns_nothing(model: nn.Module, batches: Any, generator: Any) -> Any:
    return None


def flattens(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: scores.flatten() for name, scores in good(model, batches, generator).items()}


def scores_all(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: value.detach().abs() for name, value in model.named_parameters()}


def scores_some(model: nn.Module, batches: Any, generator: Any) -> Any:
    return dict(list(good(model, batches, generator).items())[1:])


def scores_nan(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: weight.detach().log() for name, weight in prunable(model).items()}


def scores_infinite(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: weight.detach().abs() / 0 for name, weight in prunable(model).items()}


def scores_with_numbers(model: nn.Module, batches: Any, generator: Any) -> Any:
    return dict.fromkeys(prunable(model), 0.5)


def leaves(model: nn.Module, batches: Any, generator: Any) -> Any:
    sys.exit(0)


def takes_one(model: nn.Module) -> Any:
    return {}


def trains(model: nn.Module, batches: Any, generator: Any) -> Any:
    model.train()(batches[0][0])
    return good(model, batches, generator)


def changes(model: nn.Module, batches: Any, generator: Any) -> Any:
    with torch.no_grad():
        next(iter(prunable(model).values())).mul_(2)
    return good(model, batches, generator)


def switches(model: nn.Module, batches: Any, generator: Any) -> Any:
    model.train(not model.training)
    return good(model, batches, generator)


def draws(model: nn.Module, batches: Any, generator: Any) -> Any:
    return {name: torch.rand_like(weight) for name, weight in prunable(model).items()}


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        (returns_nothing, "returned a NoneType; expected a dict of parameter name -> tensor"),
        (flattens, r"returned torch.float32 \(108,\) for '0.weight'; expected real scores \(4, 3, 3, 3\)"),
        (scores_all, "returned scores for '0.bias'; expected one tensor for each of 0.weight, 5.weight"),
        (scores_some, "returned no scores for '0.weight'"),
        (scores_nan, "returned scores for '0.weight' that are NaN or infinite"),
        (scores_infinite, "returned scores for '0.weight' that are NaN or infinite"),
        (scores_with_numbers, "returned a float for '0.weight'; expected real scores"),
        (leaves, "raised SystemExit: 0"),
        (takes_one, "raised TypeError: .*takes 1 positional argument but 3 were given"),
        (trains, "changes 1.running_mean of the network"),
        (changes, "changes 0.weight of the network"),
        (switches, "leaves the network in another mode"),
        (draws, "draws from torch's global generator; use the one that it is given"),
    ],
)
def test_a_criterion_that_breaks_its_promise_is_refused_by_how(criterion: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        probe(f"{__name__}:{criterion.__name__}", network(10, SHAPE).eval(), SHAPE)
    assert str(caught.value).startswith(f"criterion {__name__}:{criterion.__name__}")


@pytest.mark.parametrize("name", [f"{__name__}:good", f"{__name__}:random", "random", "taylor", "obs", "activation"])
def test_those_that_keep_it_are_accepted_the_projects_own_among_them(name: str) -> None:
    probe(name, network(10, SHAPE).eval(), SHAPE)
