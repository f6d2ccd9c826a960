"""Pareto front, knee and hypervolume of rows of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.results_folder import candidates

SIGN = {"max": -1.0, "min": 1.0}


def is_nondominated(
    values: npt.ArrayLike, directions: Sequence[str], *, keep_duplicates: bool = True
) -> npt.NDArray[np.bool_]:
    """A mask (n,) of the non-dominated rows of `values` (n, m).

    A row dominates another if it is at least as good in every objective, by `directions` ("max" or "min" for each
    of the m columns), and better in one. Equal rows do not dominate each other: all are kept, or only the first of
    them with `keep_duplicates=False`. Rows with a value that is not finite are never kept.
    O(n log n) for up to three objectives (Kung et al. 1975, doi:10.1145/321906.321910).

    >>> is_nondominated([[0.9, 0.5], [0.8, 0.8], [0.8, 0.7]], ["max", "max"]).tolist()
    [True, True, False]
    """
    costs = _costs(values, directions)
    mask = np.zeros(len(costs), dtype=bool)
    finite = np.isfinite(costs).all(axis=1)
    mask[finite] = moocore.is_nondominated(costs[finite], keep_weakly=keep_duplicates)
    return mask


def hypervolume(values: npt.ArrayLike, directions: Sequence[str], reference: Sequence[float]) -> float:
    """The volume dominated by the rows of `values` (n, m), bounded by `reference` (m,); 0 without rows.

    The unit is the product of the objectives' units. Rows that are not finite, or not better than the reference in
    every objective, add nothing. In [0, 1] for sparsity and accuracy as fractions with reference (0, 0).
    Source: Zitzler and Thiele, 1998, doi:10.1007/BFb0056872.

    >>> round(hypervolume([[0.9, 0.5], [0.8, 0.8]], ["max", "max"], [0, 0]), 12)
    0.69
    """
    costs = _costs(values, directions)
    corner = _costs([reference], directions)[0]
    if not np.isfinite(corner).all():
        raise ValueError(f"reference: {list(reference)} is not finite")
    costs = costs[np.isfinite(costs).all(axis=1) & (costs < corner).all(axis=1)]
    return float(moocore.hypervolume(costs, ref=corner)) if len(costs) else 0.0


def volumes(values: npt.ArrayLike, directions: Sequence[str], reference: Sequence[float]) -> npt.NDArray[np.float64]:
    """Hypervolume (n,) of the first i rows of `values` (n, m), for i = 1 .. n; never decreases."""
    costs = _costs(values, directions)
    corner = _costs([reference], directions)[0]
    best, volume, found = np.empty((0, len(corner))), 0.0, np.zeros(len(costs))
    for i, row in enumerate(costs):
        if np.isfinite(row).all() and (row < corner).all() and not (best <= row).all(axis=1).any():
            best = np.vstack([best[~(row <= best).all(axis=1)], row])
            volume = float(moocore.hypervolume(best, ref=corner))
        found[i] = volume
    return found


def knee(values: npt.ArrayLike, directions: Sequence[str]) -> int | None:
    """The index of the knee of a front (n, m), the point of best trade-off; None if there is none.

    Each objective is scaled to [0, 1] over the front (1 is best); the knee has the largest sum. For two objectives that
    is the point farthest beyond the line through the front's ends. None if no row lies beyond that line, fewer than
    three rows are distinct, or a value is not finite. Source: Das, 1999, doi:10.1007/s001580050111.

    >>> knee([[0.0, 1.0], [0.8, 0.9], [1.0, 0.0]], ["max", "max"])
    1
    """
    costs = _costs(values, directions)
    if len(np.unique(costs, axis=0)) < 3 or not np.isfinite(costs).all():
        return None
    best, worst = costs.min(axis=0), costs.max(axis=0)
    spread = np.where(worst > best, worst - best, 1.0)
    gains = ((worst - costs) / spread).sum(axis=1)
    ends = [gains[costs[:, column].argmin()] for column in range(costs.shape[1])]
    return int(gains.argmax()) if gains.max() > max(ends) + 1e-12 else None


def front(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """The trials on the Pareto front of `objectives` (column -> "max" or "min"), with their index.

    Eligible are complete search trials that meet all constraints and have a finite value for every objective, but not
    confirmation runs or trials of a scan. Sorted by the first objective other than accuracy, then accuracy, then trial.
    Raises ValueError for an objective that is not a column.
    """
    if unknown := [name for name in objectives if name not in frame.columns]:
        raise ValueError(f"objective {unknown[0]!r} is not a column; choices: {', '.join(map(str, frame.columns))}")
    rows = candidates(frame)
    rows = rows[rows["feasible"].fillna(True).astype(bool)]
    values = rows[list(objectives)].to_numpy(dtype=float, na_value=np.nan)
    best = rows[is_nondominated(values, list(objectives.values()))]
    first = next((name for name in objectives if name != "accuracy"), "accuracy")
    return best.sort_values([*dict.fromkeys([first, "accuracy"]), "trial_id"])


def _costs(values: npt.ArrayLike, directions: Sequence[str]) -> npt.NDArray[np.float64]:
    """`values` as an (n, m) array to minimise."""
    if not len(directions) or not set(directions) <= set(SIGN):
        raise ValueError(f"directions: {list(directions)}; expected one of max, min for each objective")
    array = np.asarray(values, dtype=float)
    if array.shape == (0,):
        array = array.reshape(0, len(directions))
    if array.ndim != 2 or array.shape[1] != len(directions):
        raise ValueError(f"values: shape {array.shape} does not match {len(directions)} directions; expected (n, m)")
    return array * [SIGN[direction] for direction in directions] + 0.0  # + 0.0 turns -0.0 into 0.0
