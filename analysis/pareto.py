"""The Pareto front: which rows nothing beats in every objective at once, and how much they dominate together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.frame import networks

BLOCK = 256  # rows compared at once: bounds the memory of a comparison with n others to BLOCK x n
SIGN = {"max": -1.0, "min": 1.0}


def is_nondominated(
    values: npt.ArrayLike, directions: Sequence[str], *, keep_duplicates: bool = True
) -> npt.NDArray[np.bool_]:
    """A mask (n,) of the rows of `values` (n, m) that no other row dominates.

    A row dominates another if it is at least as good in every objective, by `directions` ("max" or "min" for each
    of the m columns), and better in one. Equal rows do not dominate each other: all are kept, or only the first of
    them with `keep_duplicates=False`. A row with a value that is not finite is never kept.
    Sorts for two objectives, O(n log n); compares pairs for three and more, O(n^2).

    >>> is_nondominated([[0.9, 0.5], [0.8, 0.8], [0.8, 0.7]], ["max", "max"]).tolist()
    [True, True, False]
    """
    costs = _costs(values, directions)
    finite = np.flatnonzero(np.isfinite(costs).all(axis=1))
    # Sorted by the first column, then the second: a row can be dominated only by rows above it.
    points, first, place = np.unique(costs[finite], axis=0, return_index=True, return_inverse=True)
    best = _first_in_pairs(points) if points.shape[1] == 2 else _first_in_blocks(points)
    mask = np.zeros(len(costs), dtype=bool)
    if keep_duplicates:
        mask[finite] = best[place.reshape(-1)]
    else:
        mask[finite[first]] = best
    return mask


def hypervolume(values: npt.ArrayLike, directions: Sequence[str], reference: Sequence[float]) -> float:
    """The volume between `reference` (m,) and the front of `values` (n, m): larger is better, 0 for no row.

    In the product of the objectives' units. Rows that are not finite, or not better than the reference in every
    objective, add nothing. For sparsity and accuracy as fractions with reference (0, 0) it lies in [0, 1].
    Source: Zitzler and Thiele, 1998, doi:10.1007/BFb0056872. Slices along the last objective, O(n^(m-1)).

    >>> round(hypervolume([[0.9, 0.5], [0.8, 0.8]], ["max", "max"], [0, 0]), 12)
    0.69
    """
    costs = _costs(values, directions)
    corner = _costs([reference], directions)[0]
    if not np.isfinite(corner).all():
        raise ValueError(f"reference: {list(reference)} is not finite")
    costs = costs[np.isfinite(costs).all(axis=1) & (costs < corner).all(axis=1)]
    return _volume(costs, corner) if len(costs) else 0.0


def front(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The rows of trials on the Pareto front of `objectives` (column -> "max" or "min"), index kept.

    Eligible are complete trials of the search and its confirmation that broke no constraint and have a finite value
    for every objective. Sorted by the first objective that is not accuracy, then accuracy, then trial.
    Raises ValueError for an objective that is no column.
    """
    if unknown := [name for name in objectives if name not in frame.columns]:
        raise ValueError(f"objective {unknown[0]!r} is no column; choices: {', '.join(map(str, frame.columns))}")
    rows = networks(frame)
    rows = rows[rows["feasible"].fillna(True).astype(bool)]
    values = rows[list(objectives)].to_numpy(dtype=float, na_value=np.nan)
    best = rows[is_nondominated(values, list(objectives.values()))]
    first = next((name for name in objectives if name != "accuracy"), "accuracy")
    return best.sort_values([*dict.fromkeys([first, "accuracy"]), "trial_id"])


def _costs(values: npt.ArrayLike, directions: Sequence[str]) -> npt.NDArray[np.float64]:
    """`values` as an (n, m) array in which less is better."""
    if not len(directions) or not set(directions) <= set(SIGN):
        raise ValueError(f"directions: {list(directions)}; expected one of max, min for each objective")
    array = np.asarray(values, dtype=float)
    if array.shape == (0,):
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"values: shape {array.shape} does not go with {len(directions)} directions; expected (n, m)")
    return array * [SIGN[direction] for direction in directions] + 0.0  # + 0.0: a zero has no sign


def _first_in_pairs(points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """For distinct rows (n, 2) in order: whether the second column is below all above it."""
    lowest = np.minimum.accumulate(points[:, 1])
    return np.concatenate([np.ones(min(1, len(points)), dtype=bool), points[1:, 1] < lowest[:-1]])


def _first_in_blocks(points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """For distinct rows (n, m) in order: whether no row above is as low in every column."""
    best = np.ones(len(points), dtype=bool)
    for end in range(BLOCK, len(points) + BLOCK, BLOCK):
        block = slice(end - BLOCK, end)
        rivals = points[:end][best[:end]]  # the front so far, and the block itself
        as_low = (rivals[None] <= points[block][:, None]).all(axis=2)
        best[block] = as_low.sum(axis=1) == 1  # a row is as low as itself
    return best


def _volume(costs: npt.NDArray[np.float64], corner: npt.NDArray[np.float64]) -> float:
    """The volume that `costs` (n, m), all below `corner` (m,), dominate: slabs between consecutive last costs."""
    if len(corner) == 1:
        return float(corner[0] - costs.min())
    costs = costs[np.argsort(costs[:, -1])]
    heights = np.diff(costs[:, -1], append=corner[-1])
    if len(corner) == 2:
        return float(heights @ (corner[0] - np.minimum.accumulate(costs[:, 0])))
    slabs = np.flatnonzero(heights)
    return sum(float(heights[i]) * _volume(costs[: i + 1, :-1], corner[:-1]) for i in slabs)
