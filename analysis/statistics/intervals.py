"""Means, differences and their 95 % intervals over seeds; levels of an axis beside each other at matched sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

CONFIDENCE = 0.95
MATCHED = 6  # decimals of a requested sparsity up to which two recipes asked for the same


class Interval(NamedTuple):
    """An estimate and its confidence interval; bounds are NaN where one value or none cannot tell a spread."""

    value: float
    low: float
    high: float


def mean_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The mean of `values` (n,), and Student's t interval of the mean. NaN values are left out.

    Right for independent values of a normal distribution, whatever its spread, and for few: n >= 2.
    """
    known = _known(values)
    if not len(known):
        return Interval(nan, nan, nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Interval(mean, nan, nan)
    half = float(student.ppf((1 + confidence) / 2, len(known) - 1)) * float(known.std(ddof=1)) / sqrt(len(known))
    return Interval(mean, mean - half, mean + half)


def difference_interval(values: npt.ArrayLike, others: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The mean of `values` (n,) less that of `others` (m,), independent of them, and Welch's t interval of it.

    The two may spread differently; their degrees of freedom are Satterthwaite's. NaN values are left out; the bounds
    are NaN unless n >= 2 and m >= 2. Source: Welch, 1947, doi:10.1093/biomet/34.1-2.28.
    """
    one, other = _known(values), _known(others)
    if not len(one) or not len(other):
        return Interval(nan, nan, nan)
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Interval(difference, nan, nan)
    parts = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    if not parts.any():
        return Interval(difference, difference, difference)
    shares = parts / parts.sum()  # squared as they are, tiny variances would vanish
    freedom = 1 / (shares**2 / [len(one) - 1, len(other) - 1]).sum()
    half = float(student.ppf((1 + confidence) / 2, freedom)) * sqrt(parts.sum())
    return Interval(difference, difference - half, difference + half)


def against(
    rows: pd.DataFrame, axis: str, reference: str, within: Sequence[str], measure: str = "test_accuracy"
) -> pd.DataFrame:
    """For every level of `axis` in every cell of `within`: its runs, and how much they gain over `reference` there.

    Columns: within, axis, n, mean, std, difference, low, high, clear: `difference` is the mean less the reference's
    in the same cell, low and high Welch's 95 % interval of it, `clear` what that interval says in words. Cells without
    the reference, and the reference itself, have no difference. Sorted by within, then by falling mean.
    """
    known = rows.dropna(subset=[measure, axis])
    lines = []
    for cell, group in known.groupby(list(within), dropna=False):
        levels = {name: values.to_numpy(dtype=float) for name, values in group.groupby(axis)[measure]}
        for name, values in sorted(levels.items(), key=lambda item: -item[1].mean()):
            other = levels.get(reference, np.empty(0)) if name != reference else np.empty(0)
            line = {**dict(zip(within, cell, strict=True)), axis: name, "n": len(values), "mean": values.mean()}
            gain = difference_interval(values, other)
            spread = values.std(ddof=1) if len(values) > 1 else nan
            lines.append({**line, "std": spread, "difference": gain.value, "low": gain.low, "high": gain.high})
    frame = pd.DataFrame(lines, columns=[*within, axis, "n", "mean", "std", "difference", "low", "high"])
    words = [verdict(*line) for line in frame[["difference", "low", "high"]].itertuples(index=False)]
    return frame.assign(clear=pd.Series(words, index=frame.index, dtype="str"))


def verdict(value: float, low: float, high: float) -> str | None:
    """What an interval of a difference says: "yes" if above zero, "worse" if below, else "not clear"."""
    if np.isnan(value):
        return None
    if np.isnan(low):
        return "one run"
    return "yes" if low > 0 else "worse" if high < 0 else "not clear"


def matched(rows: pd.DataFrame, axis: str, within: Sequence[str]) -> pd.DataFrame:
    """Those of `rows` in whose cell of `within` there are two levels of `axis` or more; requested sparsity rounded."""
    rounded = rows.assign(requested_sparsity=rows["requested_sparsity"].round(MATCHED))
    levels = rounded.groupby(list(within), dropna=False)[axis].transform("nunique")
    return rounded[levels.astype("float64") > 1]


def _known(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = np.asarray(values, dtype=float)
    return np.asarray(array[~np.isnan(array)])


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """P values (n,) adjusted for being n: below alpha for all n together. NaN stays NaN and does not count.

    Source: Holm, 1979, Scandinavian Journal of Statistics 6 (2). Valid whatever the tests' dependence.
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    found = values.copy()
    found[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return found
