"""Channel criteria from the reconstruction error of the layers that read the channel (He et al. 2017; ThiNet).

`regression` and `thinet` each order the units of a group, and score a unit by the relative error of the reading layers'
outputs once it and all units before it are removed. Scores follow that order within a group, and compare the loss
between groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pruning.calibration.grams import damped, grams, place_products
from pruning.calibration.hooks import Batches, require_batches
from pruning.channels.graph import Graph
from pruning.channels.layers import CONVS
from pruning.channels.plans import Plan
from pruning.criteria.scoring import by_group, gone_units, units_left
from pruning.weights.masks import Scores

RIDGE = 1e-8  # share of the mean diagonal added to the diagonal, so that nearly equal channels have one solution
EQUAL = 1e-13  # relative difference up to which numbers differ by rounding only
TIE = 1e-15  # relative penalty difference that orders channels entering the LASSO's path together, earlier ones first


class Reader(NamedTuple):
    """A layer that reads channels.

    Attributes:
      units: unit at each of its input places, -1 where nothing can be cut.
      weight: (outputs, columns).
      gram: X X^T of its input columns.
      products: inner products of the places' contributions to the output; they sum to the output's energy.
    """

    units: np.ndarray
    weight: Tensor
    gram: Tensor
    products: np.ndarray


def regression_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Relative error of the reading layers' outputs once the unit and all worse ones are removed.

    He et al. 2017, arXiv:1707.06168: the LASSO on channels gives the order (the later a unit enters its path as the
    penalty falls, the sooner it is removed), least squares on the remaining inputs gives the error. Summed over the
    layers that read the channels. Raises ValueError for a group that no nn.Conv*d (of one group) or nn.Linear reads.
    Args: as every channel criterion, see `Criterion`.
    """
    return _scores(graph, plan, _readers(graph, model, plan, batches, generator), lasso_order, least_errors)


def thinet_channels(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> Scores:
    """Relative energy of the summed contributions of the unit and all units removed before it.

    ThiNet (Luo et al. 2017, arXiv:1707.06342, algorithm 1): each step removes the unit that keeps this energy lowest.
    Energies are relative to those of the reading layers' outputs, and summed over these layers. Raises ValueError as
    `regression_channels`. Args: as every channel criterion, see `Criterion`.
    """
    return _scores(graph, plan, _readers(graph, model, plan, batches, generator), greedy_order, sum_errors)


def lasso_order(products: np.ndarray) -> np.ndarray:
    """Removal order of the units: by the penalty at which each enters the LASSO's path, lowest first."""
    return np.argsort(entries(products), kind="stable")


def entries(gram: np.ndarray) -> np.ndarray:
    """The penalty at which each coefficient of the LASSO on channels becomes zero, (n,); 0 for those that always are.

    gram: (n, n), inner products of the contributions. The coefficients at a penalty are b = argmin
    |sum of contributions - sum of b_i contribution_i|^2 / 2 + penalty * |b|_1; scikit-learn computes their path as the
    penalty falls by the homotopy of Efron et al. 2004 (arXiv:math/0406456). Equal or opposite contributions share a
    penalty. The path ends at 1.2e-7 of the highest penalty, below which rounding dominates.
    """
    from sklearn.exceptions import ConvergenceWarning  # imported here as it takes a second, and only this needs it
    from sklearn.linear_model import lars_path_gram

    found = np.zeros(len(gram))
    ridge = RIDGE * gram.diagonal().mean() if len(gram) else 0.0
    alive = np.flatnonzero(gram.diagonal() > ridge)
    correlations = gram.sum(1)[alive]
    highest = np.abs(correlations).max(initial=0)  # normalises the inputs below: scikit-learn's tolerances are absolute
    if not highest > 1e-5 * ridge:  # no contributions, or they cancel up to rounding
        return found
    # If several contributions enter together, scikit-learn's path misses all but one: equal ones are merged, the
    # others are separated by TIE.
    first_equal = _first_equals(gram[np.ix_(alive, alive)], correlations)
    firsts = np.flatnonzero(first_equal == np.arange(len(alive)))
    chosen = alive[firsts]
    with warnings.catch_warnings():
        # The path may end early where rounding dominates; contributions that have not entered by then keep 0.
        warnings.simplefilter("ignore", ConvergenceWarning)
        penalties, _, betas = lars_path_gram(
            Xy=correlations[firsts] / highest * (1 - TIE * np.arange(len(firsts))),
            Gram=(gram[np.ix_(chosen, chosen)] + ridge * np.eye(len(chosen))) / highest,
            n_samples=1,
            max_iter=8 * len(chosen),  # bounds the time for paths with very many corners
            method="lasso",
        )
    first = (betas != 0).argmax(1)  # the corner after the one where it enters
    found[chosen] = np.where(first > 0, highest * penalties[first - 1], 0.0)
    found[alive] = found[alive[first_equal]]
    return found


def greedy_order(products: np.ndarray) -> np.ndarray:
    """Removal order in which each step keeps the energy of the summed removed contributions lowest.

    products: (n, n), inner products of the units' contributions. Among equal ones the first is removed.
    """
    order: list[int] = []
    cost = products.diagonal().copy()  # what removing each unit next would add to the energy
    for _ in range(len(products)):
        order.append(int(cost.argmin()))
        cost += 2 * products[order[-1]]
        cost[order] = np.inf
    return np.array(order, dtype=np.int64)


def least_errors(readers: Sequence[Reader], units: np.ndarray) -> np.ndarray:
    """Errors by least squares on all remaining columns, once units[0], units[:2], ... are removed; as `sum_errors`.

    With columns in reverse removal order, X X^T = L L^T: column k of W L is what column k adds to the output beyond
    those before it. One factorisation thus gives the errors of all cuts.
    """
    errors = np.zeros(len(units))
    for reader in readers:
        rank = np.full(max(reader.units.max(), units.max()) + 2, len(units))  # default: not in the group, never removed
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
    """Relative energies of the summed contributions of units[0], units[:2], ..., summed over readers."""
    errors = np.zeros(len(units))
    for reader in readers:
        errors += _unit_products(reader, units).cumsum(0).cumsum(1).diagonal()
    return errors


def _first_equals(gram: np.ndarray, correlations: np.ndarray) -> np.ndarray:
    """For each contribution the first one that is equal or opposite to it up to rounding, possibly itself.

    correlations: inner products with the sum of all, which separate contributions too close for a difference of
    squares.
    """
    energies, correlations = gram.diagonal(), np.abs(correlations)
    distances = np.add.outer(energies, energies) - 2 * np.abs(gram)
    equal = distances <= EQUAL * np.minimum.outer(energies, energies)
    equal &= np.abs(np.subtract.outer(correlations, correlations)) <= EQUAL * correlations.max()
    first: np.ndarray = equal.argmax(1)
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
        values[units[order]] = _strictly_increasing(errors_of(mine, units[order]))
    return by_group(graph, plan, torch.from_numpy(values))


def _readers(
    graph: Graph, model: nn.Module, plan: Plan | None, batches: Batches, generator: torch.Generator
) -> list[Reader]:
    left = units_left(graph, plan)
    paths = [path for (path, side), units in left.items() if side == "in" and (units >= 0).any()]
    paths = [path for path in paths if _is_reader(model.get_submodule(path))]
    readers = []
    for name, (layer, gram) in grams(
        model, [f"{path}.weight" for path in paths], require_batches(batches), generator
    ).items():
        units = left[name.removesuffix(".weight"), "in"]
        weight = layer.get_parameter("weight").detach()
        products = place_products(weight, gram[0]).cpu().numpy()
        readers.append(Reader(units, weight.flatten(1).double(), gram[0], products))
    return readers


def _is_reader(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear) or (isinstance(layer, CONVS) and layer.groups == 1)


def _unit_products(reader: Reader, units: np.ndarray) -> np.ndarray:
    """Inner products of the units' contributions to a reader's output, relative to its energy, (units, units)."""
    places, place_unit = np.nonzero(reader.units[:, None] == units[None, :])
    found = np.zeros((len(units), len(units)))
    np.add.at(found, (place_unit[:, None], place_unit[None, :]), reader.products[np.ix_(places, places)])
    return found / (reader.products.sum() or 1.0)


def _strictly_increasing(values: np.ndarray) -> np.ndarray:
    """The values made strictly increasing by minimal changes: a sum's energy may fall when a term is added."""
    values = np.maximum.accumulate(np.maximum(values, 0))
    for i in range(1, len(values)):
        values[i] = max(values[i], np.nextafter(values[i - 1], np.inf))
    return values
