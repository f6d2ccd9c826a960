"""The LASSO's whole path, on channels: which are given up as their price rises."""

from __future__ import annotations

import numpy as np

RIDGE = 1e-8  # of the mean diagonal, added to the diagonal, so that equal channels have one solution
END = 1e-7  # of the highest penalty: below it the path is taken to run straight on, as only rounding would bend it


def lasso_path(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All corners of b(penalty) = argmin |sum of contributions - sum of b_i contribution_i|^2 / 2 + penalty * |b|_1.

    gram: (n, n), inner products of the contributions. Returns the corners' penalties (k,), falling from the least
    at which b is zero to 0, and their b (k, n); in between b is linear. The homotopy of Osborne et al. 2000 and Efron
    et al. 2004: while no coefficient joins or leaves, the active ones move along a line.
    """
    scale = gram.diagonal().mean() if len(gram) else 0.0
    if not scale > 0:
        return np.zeros(1), np.zeros((1, len(gram)))
    pull = gram.sum(1)  # of the residual on each contribution; +-penalty for the active ones, less for the others
    gram = gram + RIDGE * scale * np.eye(len(gram))
    alive = gram.diagonal() > 2 * RIDGE * scale
    beta, penalty = np.zeros(len(gram)), float(np.abs(pull[alive]).max())
    active: list[int] = []
    inverse = np.zeros((0, 0))
    penalties, betas = [penalty], [beta.copy()]
    joins: int | None = int(np.argmax(np.where(alive, np.abs(pull), -1)))
    for _ in range(8 * len(gram)):  # a path with more corners is not worth walking to its end
        if joins is not None:
            inverse = _bordered(inverse, gram[active, joins], gram[joins, joins], RIDGE * scale)
            active.append(joins)
        line = inverse @ np.sign(pull[active])
        slope = gram[:, active] @ line
        rest = alive.copy()
        rest[active] = False
        step, joins, leaves = penalty, None, None
        with np.errstate(divide="ignore", invalid="ignore"):
            ahead = np.minimum(_positive(penalty - pull, 1 - slope), _positive(penalty + pull, 1 + slope))
            back = _positive(-beta[active] * np.sign(line), np.abs(line), strictly=True)
        ahead[~rest] = np.inf
        if ahead.min() < step:
            step, joins = float(ahead.min()), int(ahead.argmin())
        if back.min() < step:
            step, joins, leaves = float(back.min()), None, int(back.argmin())
        if penalty - step < END * penalties[0]:
            step, joins, leaves = penalty, None, None
        beta[active] += step * line
        pull -= step * slope
        penalty -= step
        if leaves is not None:
            beta[active.pop(leaves)] = 0.0
            inverse = _without(inverse, leaves)
        penalties.append(penalty)
        betas.append(beta.copy())
        if joins is None and leaves is None or not active:
            break
    return np.array(penalties), np.array(betas)


def entries(gram: np.ndarray) -> np.ndarray:
    """The penalty from which on each coefficient is zero, (n,); 0 for those that never are anything else."""
    penalties, betas = lasso_path(gram)
    first = (betas != 0).argmax(0)  # the corner after the one at which it joins
    return np.where(first > 0, penalties[first - 1], 0.0)


def _positive(distance: np.ndarray, speed: np.ndarray, strictly: bool = False) -> np.ndarray:
    """distance / speed where things approach, otherwise infinity; rounding may have carried some past their goal."""
    far = distance > 0 if strictly else np.full(distance.shape, True)
    return np.where(far & (speed > 1e-12), np.maximum(distance, 0) / speed, np.inf)


def _bordered(inverse: np.ndarray, column: np.ndarray, corner: float, least: float) -> np.ndarray:
    """The inverse of a symmetric matrix, no eigenvalue below `least`, once a column is added."""
    u = inverse @ column
    rest = max(corner - column @ u, least)  # its Schur complement, which rounding must not bring to zero
    edge = -u[:, None] / rest
    return np.block([[inverse + np.outer(u, u) / rest, edge], [edge.T, np.array([[1 / rest]])]])


def _without(inverse: np.ndarray, i: int) -> np.ndarray:
    """The inverse of a symmetric matrix once row and column i are gone."""
    others = np.arange(len(inverse)) != i
    column = inverse[others, i]
    return inverse[np.ix_(others, others)] - np.outer(column, column) / inverse[i, i]
