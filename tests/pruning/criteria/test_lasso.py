"""The LASSO's path against scikit-learn's solver and path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, lars_path

from pruning.criteria.lasso import entries, lasso_path


def contributions(n, seed, rows=60):
    """Correlated columns of unequal size, so that some coefficients leave and come back."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((rows, n)) @ (np.eye(n) + rng.standard_normal((n, n)))
    return mixed * rng.uniform(0.1, 3, n) + 0.3 * rng.standard_normal((rows, n))


@given(n=st.integers(1, 12), seed=st.integers(0, 10_000), share=st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_any_point_of_the_path_is_scikit_learns(n, seed, share):
    x = contributions(n, seed)
    penalties, betas = lasso_path(x.T @ x)
    assert (np.diff(penalties) <= 0).all()
    penalty = share * penalties[0]
    ours = [np.interp(penalty, penalties[::-1], beta[::-1]) for beta in betas.T]
    solver = Lasso(alpha=penalty / len(x), fit_intercept=False, tol=1e-12, max_iter=200_000)
    np.testing.assert_allclose(ours, solver.fit(x, x.sum(1)).coef_, atol=1e-4)
    np.testing.assert_allclose(betas[-1], 1, atol=1e-4)  # without a price all stay as they are


@pytest.mark.parametrize("seed", range(5))
def test_corners_are_those_of_scikit_learns_path(seed):
    x = contributions(10, seed)
    alphas, _, coefs = lars_path(x, x.sum(1), method="lasso")
    penalties, _ = lasso_path(x.T @ x)
    np.testing.assert_allclose(penalties, alphas * len(x), rtol=1e-4, atol=1e-4 * penalties[0])
    first = np.array([np.flatnonzero(c)[0] for c in coefs])
    np.testing.assert_allclose(entries(x.T @ x), alphas[first - 1] * len(x), rtol=1e-4)


def test_by_hand():
    """Uncorrelated contributions join in the order of their energies."""
    assert entries(np.diag([4.0, 9.0, 1.0])).tolist() == pytest.approx([4, 9, 1])


def test_dead_and_equal_contributions():
    assert entries(np.zeros((3, 3))).tolist() == [0, 0, 0]
    assert entries(np.diag([0.0, 2.0])).tolist() == pytest.approx([0, 2])
    x = contributions(3, 0)
    x = x[:, [0, 1, 1, 2]]
    found = entries(x.T @ x)
    assert np.isfinite(found).all()
    assert found.max() > 0
    assert entries(np.zeros((0, 0))).shape == (0,)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_fewer_numbers_than_contributions(seed):
    """The path is not unique then, but it is a path: it obeys the conditions of its minimum at every corner."""
    x = contributions(16, seed)[:6]
    penalties, betas = lasso_path(x.T @ x)
    pulls = x.T @ (x.sum(1)[:, None] - x @ betas.T)
    assert (np.abs(pulls) <= penalties + 1e-4 * penalties[0]).all()
    assert (np.abs(betas) < 1e4).all()
