"""When the LASSO takes channels up: against its conditions of optimality, which know nothing of a path."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.criteria.consumers import entries, lasso_order

pytestmark = pytest.mark.filterwarnings("error")


def contributions(n: Any, seed: Any, rows: Any = 60) -> Any:
    """Correlated columns of unequal size, so that some coefficients leave and come back."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, n)) @ (np.eye(n) + rng.standard_normal((n, n)))
    return mixed * rng.uniform(0.1, 3, n) + 0.3 * rng.standard_normal((rows, n))


def is_minimum(gram: Any, target: Any, beta: Any, penalty: Any, slack: Any) -> Any:
    """The Karush-Kuhn-Tucker conditions: a coefficient is zero, or its pull is the penalty, in its sign."""
    pull = target - gram @ beta
    held = np.abs(pull - penalty * np.sign(beta)) <= slack
    return np.where(beta == 0, np.abs(pull) <= penalty + slack, held).all()


def minimum(gram: Any, target: Any, penalty: Any) -> Any:
    """The LASSO's coefficients at one penalty, by trying every pattern of signs. target: inner products with it."""
    for pattern in itertools.product([-1, 0, 1], repeat=len(gram)):
        signs = np.array(pattern)
        active = np.flatnonzero(signs)
        beta = np.zeros(len(gram))
        beta[active] = np.linalg.solve(gram[np.ix_(active, active)], (target - penalty * signs)[active])
        if (np.sign(beta) == signs).all() and is_minimum(gram, target, beta, penalty, 1e-11 * gram.max()):
            return beta
    raise AssertionError("no pattern of signs is a minimum")


def check(gram: Any, target: Any, found: Any, slack: Any) -> None:
    top = found.max()
    assert top == pytest.approx(np.abs(target).max())
    seen = found * slack > 1e-8 * gram.max()  # steps that `minimum` tells apart
    for i in np.flatnonzero(seen & (found > 1e-4 * top)):
        assert minimum(gram, target, found[i] * (1 + slack))[i] == 0
        assert minimum(gram, target, found[i] * (1 - slack))[i] != 0
    for penalty in top * np.array([0.7, 0.3, 0.1, 0.03, 0.01]):  # and none is up again above its penalty
        assert (minimum(gram, target, penalty)[found < penalty * (1 - slack)] == 0).all()


@given(n=st.integers(1, 4), seed=st.integers(0, 10_000), rows=st.sampled_from([3, 6, 60]))
@settings(max_examples=25, deadline=None)
def test_a_coefficient_is_zero_from_its_penalty_on_and_not_just_below(n: Any, seed: Any, rows: Any) -> None:
    x = contributions(n, seed, rows)
    gram = x.T @ x
    unique = gram + 1e-8 * gram.diagonal().mean() * np.eye(n)  # where there are fewer rows: as `entries` does
    check(unique, gram.sum(1), entries(gram), slack=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(5))
def test_equal_and_opposite_channels_share_the_penalty_of_either_alone(sign: Any, seed: Any) -> None:
    x = contributions(5, seed)
    x[:, 4] = sign * x[:, 1]
    gram = x.T @ x
    found = entries(gram)
    assert found[4] == found[1]
    check(gram[:4, :4], gram.sum(1)[:4], found[:4], slack=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_many_channels_by_coordinate_descent(seed: Any) -> None:
    x = np.maximum(np.random.default_rng(seed).standard_normal((400, 40)) + 0.5, 0)
    x *= np.random.default_rng(seed).uniform(0.2, 2, 40)
    gram = x.T @ x
    found = entries(gram)
    assert (lasso_order(gram) == np.argsort(found, kind="stable")).all()
    for penalty in np.quantile(found, [0.2, 0.5, 0.8]) * 1.0001:
        beta = np.zeros(40)
        while not is_minimum(gram, gram.sum(1), beta, penalty, 1e-9 * penalty):
            for i in range(40):
                pull = gram[i].sum() - gram[i] @ beta + gram[i, i] * beta[i]
                beta[i] = np.sign(pull) * max(abs(pull) - penalty, 0) / gram[i, i]
        assert ((beta != 0) <= (found > penalty)).all()
        assert (beta != 0).sum() > 0.9 * (found > penalty).sum()  # few are up for a while only


def test_by_hand() -> None:
    """Uncorrelated contributions join in the order of their energies."""
    assert entries(np.diag([4.0, 9.0, 1.0])).tolist() == pytest.approx([4, 9, 1])
    assert lasso_order(np.diag([4.0, 9.0, 1.0])).tolist() == [2, 0, 1]


def test_nothing_and_dead_channels() -> None:
    assert entries(np.zeros((0, 0))).shape == (0,)
    assert entries(np.zeros((3, 3))).tolist() == [0, 0, 0]
    assert entries(np.diag([0.0, 2.0])).tolist() == pytest.approx([0, 2])
    x = contributions(6, 0)
    alone = entries(x.T @ x)
    x = np.insert(x, [0, 3], 0, axis=1)
    np.testing.assert_allclose(entries(x.T @ x), np.insert(alone, [0, 3], 0), rtol=1e-5)


def test_what_cancels_is_never_taken_up() -> None:
    x = contributions(1, 0)
    x = np.hstack([x, -x])
    assert entries(x.T @ x).tolist() == [0, 0]


@pytest.mark.parametrize("n", [2, 3, 16])
def test_ties_join_together(n: Any) -> None:
    """By symmetry all are taken up at once, the highest penalty: no one's turn may wait for another's."""
    equicorrelated = 0.5 * np.eye(n) + 0.5
    np.testing.assert_allclose(entries(equicorrelated), (n + 1) / 2, rtol=1e-6)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    around = 0.6 ** np.minimum(apart, n - apart)
    np.testing.assert_allclose(entries(around), around.sum(1), rtol=1e-6)


@pytest.mark.parametrize("noise", [0, 1e-10, 1e-6])
@pytest.mark.parametrize("rows", [20, 200])
def test_near_singular_is_finite_the_same_again_and_of_any_unit(rows: Any, noise: Any) -> None:
    x = contributions(64, 0, rows)
    x[:, 40:50] = x[:, :10] + noise * contributions(10, 1, rows)
    x[:, 50:55] = -x[:, 10:15]
    gram = x.T @ x
    found = entries(gram)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.max() == pytest.approx(np.abs(gram.sum(1)).max())
    assert (entries(gram.copy()) == found).all()
    np.testing.assert_allclose(entries(gram * 2.0**-60), found * 2.0**-60)  # the unit of the outputs is nothing to it
