"""Criteria of a layer's output: against numpy's least squares, exhaustive search, and the algorithm step by step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pruning.allocation.weight_budget import weight_masks
from pruning.calibration import grams
from pruning.calibration.grams import damped
from pruning.calibration.least_squares import layer
from pruning.criteria import layerwise
from pruning.criteria.layerwise import obc, regression, removal_costs
from tests.layer_inputs import generator, layer_and_columns, refitted, with_damping


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_scores_are_the_errors_that_numpys_least_squares_leaves() -> None:
    conv, batches, x = layer_and_columns()
    score, x = regression(conv, batches, generator())["weight"].flatten(1), with_damping(x)
    energy = np.square(conv.weight.detach().flatten(1).numpy() @ x).sum()
    for row, weight in enumerate(conv.weight.detach().flatten(1).numpy()):
        for gone in (0, 5, 26):
            _, error = refitted(x, weight, np.arange(27) != gone)
            assert score[row, gone].item() == pytest.approx(error / energy)


def test_masks_of_its_own_scores_lose_less_with_the_update() -> None:
    conv, batches, x = layer_and_columns()
    masks = weight_masks(regression(conv, batches, generator()), 0.5, "global")
    moved = layer(conv, masks, batches, generator())["weight"].flatten(1).numpy()
    weight, mask = conv.weight.detach().flatten(1).numpy(), masks["weight"].flatten(1).numpy()
    assert np.square((weight - moved) @ x).sum() < 0.9 * np.square((weight - weight * mask) @ x).sum()


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs (1, 1, 0) and (0, 0, 2): the second copies the first, and the third is alone. Outputs 5 and 10."""
    monkeypatch.setattr(grams, "DAMPING", 1e-12)
    linear = nn.Linear(3, 1, bias=False).double()
    linear.weight.data = torch.tensor([[3.0, 2.0, 5.0]]).double()
    batches = [(torch.tensor([[1.0, 1, 0], [0, 0, 2]]).double(), torch.zeros(2))]
    score = regression(linear, batches, generator())["weight"]
    assert score.tolist() == [[pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6), pytest.approx(100 / 125)]]
    # The lesser of the twins goes for nothing; then the other is alone, and has the whole of 5.
    assert obc(linear, batches, generator())["weight"].tolist() == [
        [pytest.approx(25 / 125), pytest.approx(0, abs=1e-6), pytest.approx(100 / 125)]
    ]


def step_by_step(weight: Any, hessian: Any) -> Any:
    """Algorithm 1 of Frantar & Alistarh for one row, as it is printed: order of removal, and the cost of each step."""
    w, inverse = weight.copy(), np.linalg.inv(hessian)
    order: list[int] = []
    costs = []
    for _ in range(len(w)):
        left = [p for p in range(len(w)) if p not in order]
        chosen = min(left, key=lambda p: w[p] ** 2 / inverse[p, p])
        costs.append(w[chosen] ** 2 / inverse[chosen, chosen])
        order.append(chosen)
        w -= inverse[:, chosen] * w[chosen] / inverse[chosen, chosen]
        inverse = inverse - np.outer(inverse[:, chosen], inverse[chosen]) / inverse[chosen, chosen]
    return order, np.maximum.accumulate(costs)


def example(rows: int, size: int) -> Any:
    rng = np.random.default_rng(rows + size)
    x = rng.normal(size=(size, size)) @ rng.normal(size=(size, 3 * size))  # correlated inputs
    weight = rng.normal(size=(rows, size))
    hessian = damped(torch.from_numpy(x @ x.T))
    return weight, hessian.numpy(), with_damping(x)


@pytest.mark.parametrize(("rows", "size", "steps", "held"), [(3, 10, 32, 2**24), (5, 40, 7, 2 * 40**2), (2, 33, 32, 1)])
def test_costs_are_those_of_the_algorithm_step_by_step(
    rows: int, size: int, steps: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layerwise, "STEPS", steps)
    monkeypatch.setattr(layerwise, "HELD", held)
    weight, hessian, _ = example(rows, size)
    found = removal_costs(torch.from_numpy(weight), torch.linalg.inv(torch.from_numpy(hessian))).numpy()
    for row in range(rows):
        order, costs = step_by_step(weight[row], hessian)
        assert np.argsort(found[row]).tolist() == order
        np.testing.assert_allclose(found[row, order], costs, rtol=1e-7)


def test_each_removal_is_the_best_of_all_by_exhaustive_search() -> None:
    """Ten weights: of all that are left, the one whose loss numpy's least squares on the rest makes least."""
    weight, hessian, x = example(4, 10)
    found = removal_costs(torch.from_numpy(weight), torch.linalg.inv(torch.from_numpy(hessian))).numpy()
    for row in range(4):
        left, before, costs = list(range(10)), 0.0, []
        for chosen in np.argsort(found[row]).tolist():
            errors = {p: refitted(x, weight[row], np.array([q for q in left if q != p], dtype=int))[1] for p in left}
            assert min(errors, key=lambda p: errors[p]) == chosen
            costs.append(errors[chosen] - before)
            before = errors[chosen]
            left.remove(chosen)
        np.testing.assert_allclose(np.sort(found[row]), np.maximum.accumulate(costs), rtol=1e-6)


def test_obc_with_its_update_loses_less_than_one_shot_obs() -> None:
    conv, batches, x = layer_and_columns()
    weight = conv.weight.detach().flatten(1).numpy()

    def error(function: Any) -> float:
        masks = weight_masks(function(conv, batches, generator()), 0.7, "global")
        moved = layer(conv, masks, batches, generator())["weight"].flatten(1).numpy()
        return float(np.square((weight - moved) @ x).sum())

    assert error(obc) < error(regression)


def test_wide_filters_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "BLOCK", 10)
    conv, batches, x = layer_and_columns()
    score, x = obc(conv, batches, generator())["weight"].flatten(1), with_damping(x)
    weight = conv.weight.detach().flatten(1).numpy()
    energy = np.square(weight @ x).sum()
    for left, right in ((0, 9), (9, 18), (18, 27)):
        part = torch.from_numpy((x @ x.T)[left:right, left:right])
        undamped = part - torch.eye(9) * float(0.01 / 1.01 * np.trace(x @ x.T) / 27)
        for row in range(4):
            order, costs = step_by_step(weight[row, left:right], damped(undamped).numpy())
            np.testing.assert_allclose(score[row, left:right][order], costs / energy, rtol=1e-6)
