"""Channels valued by what the layers that read them lose: `regression` (He et al.) and `thinet` (Luo et al.).

Both say in which order a group's units go, and score each by the error once it and all before it are gone, relative to
the energy of the readers' outputs. Within a group that ranks by the order; between groups by what is lost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pruning.channels.graph import Graph
from pruning.channels.layers import CONVS
from pruning.channels.plans import Plan
from pruning.criteria.reconstruction import damped, grams, place_products
from pruning.criteria.scoring import Batches, by_group, gone_units, needed, units_left
from pruning.weights.masks import Scores

RIDGE = 1e-8  # of the mean diagonal, added to the diagonal, so that channels almost equal have one solution
EQUAL = 1e-13  # of what they are, between numbers that differ by rounding alone
TIE = 1e-15  # by which of channels that the LASSO's path would take up at once the later one loses


class Reader(NamedTuple):
    """A layer that reads channels.

    units: at each of its input places, -1 where nothing can be cut. weight: (outputs, columns); gram: X X^T of its
    columns. products: inner products of what the places contribute to the output; they sum to the output's energy.
    """

    units: np.ndarray
    weight: Tensor
    gram: Tensor
    products: np.ndarray


def regression_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """The error of the readers' outputs, relative to their energy, once the unit and all worse ones are gone.

    He et al. 2017, arXiv:1707.06168: the LASSO on channels says in which order they go (the later its path takes one
    up as the penalty falls, the sooner), least squares on the inputs that stay what is lost. Summed over the layers
    that read the channels. Raises ValueError for a group that no nn.Conv*d (of one group) or nn.Linear reads.
    """
    return _scores(graph, plan, _readers(graph, model, plan, batches, generator), lasso_order, least_errors)


def thinet_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """The energy of all that is gone with the unit and those before it, relative to that of the readers' outputs.

    ThiNet (Luo et al. 2017, arXiv:1707.06342, algorithm 1): the next to go is the one with which the sum of all that
    is gone has the least energy. Summed over the layers that read the channels. Raises ValueError as
    `regression_channels`.
    """
    return _scores(graph, plan, _readers(graph, model, plan, batches, generator), greedy_order, sum_errors)


def lasso_order(products: np.ndarray) -> np.ndarray:
    """The order in which units go: by the penalty at which the LASSO's path takes them up, the least first."""
    return np.argsort(entries(products), kind="stable")


def entries(gram: np.ndarray) -> np.ndarray:
    """The penalty from which on each coefficient of the LASSO on channels is zero, (n,); 0 for those that always are.

    gram: (n, n), inner products of the contributions. The coefficients at a penalty are b = argmin
    |sum of contributions - sum of b_i contribution_i|^2 / 2 + penalty * |b|_1; their path as it falls, by the homotopy
    of Efron et al. 2004 (arXiv:math/0406456), is scikit-learn's. Contributions that are equal, or opposite, share their
    penalty. Below 1.2e-7 of the highest penalty scikit-learn ends the path, as only rounding would bend it.
    """
    from sklearn.exceptions import ConvergenceWarning  # takes a second to import, which other criteria need not
    from sklearn.linear_model import lars_path_gram

    found = np.zeros(len(gram))
    ridge = RIDGE * gram.diagonal().mean() if len(gram) else 0.0
    alive = np.flatnonzero(gram.diagonal() > ridge)
    pulls = gram.sum(1)[alive]
    highest = np.abs(pulls).max(initial=0)  # the unit from here on: scikit-learn's tolerances are absolute
    if not highest > 1e-5 * ridge:  # nothing there, or it cancels but for rounding
        return found
    # Of contributions that join at once scikit-learn's path overlooks all but one: equal ones go as one, the others
    # are put one after another.
    twin = _first_equals(gram[np.ix_(alive, alive)], pulls)
    firsts = np.flatnonzero(twin == np.arange(len(alive)))
    chosen = alive[firsts]
    with warnings.catch_warnings():
        # It may end the path early where rounding outweighs what is left: what it has not taken up by then keeps 0.
        warnings.simplefilter("ignore", ConvergenceWarning)
        penalties, _, betas = lars_path_gram(
            Xy=pulls[firsts] / highest * (1 - TIE * np.arange(len(firsts))),
            Gram=(gram[np.ix_(chosen, chosen)] + ridge * np.eye(len(chosen))) / highest,
            n_samples=1,
            max_iter=8 * len(chosen),  # a path with more corners is not worth walking to its end
            method="lasso",
        )
    first = (betas != 0).argmax(1)  # the corner after the one at which it joins
    found[chosen] = np.where(first > 0, highest * penalties[first - 1], 0.0)
    found[alive] = found[alive[twin]]
    return found


def greedy_order(products: np.ndarray) -> np.ndarray:
    """The order in which units go so that at each step the sum of all that are gone has the least energy.

    products: (n, n), inner products of the units' contributions. Ties: the first.
    """
    order: list[int] = []
    cost = products.diagonal().copy()  # what each would add to the energy of the sum
    for _ in range(len(products)):
        order.append(int(cost.argmin()))
        cost += 2 * products[order[-1]]
        cost[order] = np.inf
    return np.array(order, dtype=np.int64)


def least_errors(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Errors, by least squares on all columns that stay, once units[0], units[:2], ... are gone; as `sum_errors`.

    With the columns in the order in which they go, the last to go first, X X^T = L L^T: column k of W L is what column
    k adds to the output that those before it can't. So one factorisation gives the errors of all cuts.
    """
    errors = np.zeros(len(units))
    for reader in readers:
        rank = np.full(max(reader.units.max(), units.max()) + 2, len(units))  # of no unit in the group: never goes
        rank[units] = np.arange(len(units))
        ranks = rank[reader.units].repeat(len(reader.gram) // len(reader.units))
        order = np.argsort(-ranks, kind="stable")
        index = torch.from_numpy(order).to(reader.gram.device)
        factor = torch.linalg.cholesky_ex(damped(reader.gram[index][:, index])).L
        new = (reader.weight[:, index] @ factor).square().sum(0).cpu().numpy()
        lost = np.bincount(ranks[order], new, len(units) + 1)
        errors += lost[:-1].cumsum() / (lost.sum() or 1.0)
    return errors


def sum_errors(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Energies of the sums of contributions of units[0], units[:2], ..., over readers, relative to their outputs'."""
    errors = np.zeros(len(units))
    for reader in readers:
        errors += _unit_products(reader, units).cumsum(0).cumsum(1).diagonal()
    return errors


def _first_equals(gram: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    """For each contribution the first that is equal or opposite to it but for rounding, itself or one before it.

    pulls: their inner products with the sum of all, which tell apart what is too close for a difference of squares.
    """
    energies, pulls = gram.diagonal(), np.abs(pulls)
    distances = np.add.outer(energies, energies) - 2 * np.abs(gram)
    equal = distances <= EQUAL * np.minimum.outer(energies, energies)
    equal &= np.abs(np.subtract.outer(pulls, pulls)) <= EQUAL * pulls.max()
    first = equal.argmax(1)
    while (first[first] != first).any():
        first = first[first]
    return first


def _scores(
    graph: Graph,
    plan: Plan | None,
    readers: Sequence[Reader],
    in_order: Callable[[np.ndarray], np.ndarray],
    errors_of: Callable[[Sequence[Reader], np.ndarray], np.ndarray],
) -> Scores:
    values, gone = np.zeros(graph.size), gone_units(graph, plan)
    for group in graph.groups:
        units = group.start + np.flatnonzero(~gone[group.start : group.start + group.size])
        mine = [reader for reader in readers if np.isin(reader.units, units).any()]
        if not mine:
            raise ValueError(f"no convolution or linear layer reads the channels of group {group.name!r}")
        products = np.sum([_unit_products(reader, units) for reader in mine], axis=0)
        order = in_order(products)
        values[units[order]] = _rising(errors_of(mine, units[order]))
    return by_group(graph, plan, torch.from_numpy(values))


def _readers(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> list[Reader]:
    left = units_left(graph, plan)
    paths = [path for (path, side), units in left.items() if side == "in" and (units >= 0).any()]
    paths = [path for path in paths if _is_reader(model.get_submodule(path))]
    readers = []
    for name, (layer, gram) in grams(model, [f"{path}.weight" for path in paths], needed(batches), generator).items():
        units = left[name.removesuffix(".weight"), "in"]
        weight = layer.get_parameter("weight").detach()
        products = place_products(weight, gram[0]).cpu().numpy()
        readers.append(Reader(units, weight.flatten(1).double(), gram[0], products))
    return readers


def _is_reader(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVS) and layer.groups == 1)


def _unit_products(reader: Reader, units: np.ndarray) -> np.ndarray:
    """Inner products of what the units contribute to a reader's output, relative to its energy, (units, units)."""
    places, place_unit = np.nonzero(reader.units[:, None] == units[None, :])
    found = np.zeros((len(units), len(units)))
    np.add.at(found, (place_unit[:, None], place_unit[None, :]), reader.products[np.ix_(places, places)])
    return found / (reader.products.sum() or 1.0)


def _rising(values: np.ndarray) -> np.ndarray:
    """The values made strictly increasing, by as little as it takes: a sum's energy may fall with one more in it."""
    values = np.maximum.accumulate(np.maximum(values, 0))
    for i in range(1, len(values)):
        values[i] = max(values[i], np.nextafter(values[i - 1], np.inf))
    return values
