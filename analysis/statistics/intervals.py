"""Means and differences with 95 % confidence intervals over seeds; comparison of levels at matched sparsity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import hypot, nan, sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

CONFIDENCE = 0.95
MATCHED = 6  # requested sparsities that agree to this many decimals count as equal


class Interval(NamedTuple):
    """An estimate and its confidence interval; the bounds are NaN if there are fewer than two values."""

    value: float
    low: float
    high: float


def mean_interval(values: npt.ArrayLike, images: float = 0.0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of `values` (n,), one per run, and its interval over runs and test images. NaN values are ignored.

    Over runs alone it is Student's t, exact for independent, normally distributed values and any n >= 2. What the draw
    of the images adds is independent of that, and half-widths add up in squares: wider than it must be for few runs
    (97 to 98 % instead of 95 % in a simulation of 400 images), and never narrower.

    Args:
      values: accuracies, or differences of them.
      images: variance of the mean over draws of the test images (`analysis.statistics.tested_images.variance`); 0: over
        runs alone.
      confidence: in (0, 1).
    """
    known = _known(values)
    if not len(known):
        return Interval(nan, nan, nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Interval(mean, nan, nan)
    half = _half(float(known.var(ddof=1)) / len(known), len(known) - 1, images, confidence)
    return Interval(mean, mean - half, mean + half)


def _half(runs: float, freedom: float, images: float, confidence: float) -> float:
    """Half the width of an interval. runs, images: variances; freedom: degrees of it, of the former."""
    quantile = (1 + confidence) / 2
    return hypot(float(student.ppf(quantile, freedom)) * sqrt(runs), float(norm.ppf(quantile)) * sqrt(images))


def p_value(values: npt.ArrayLike, images: float = 0.0) -> float:
    """One minus the largest confidence at which `mean_interval` does not contain 0; NaN for fewer than two values."""
    known = _known(values)
    if len(known) < 2:
        return nan
    mean, runs = abs(float(known.mean())), float(known.var(ddof=1)) / len(known)
    if not mean or not runs + images:
        return 0.0 if mean else 1.0

    def reach(confidence: float) -> float:
        return mean - _half(runs, len(known) - 1, images, confidence)

    most = 1 - 1e-12
    return 1 - most if reach(most) > 0 else 1 - float(brentq(reach, 0, most, xtol=1e-12))


def difference_interval(
    values: npt.ArrayLike, others: npt.ArrayLike, images: float = 0.0, confidence: float = CONFIDENCE
) -> Interval:
    """The mean of `values` (n,) minus that of `others` (m,), and its interval over runs and test images.

    Over runs alone it is Welch's t, for independent samples with unequal variances (Satterthwaite's degrees of
    freedom). NaN values are ignored; the bounds are NaN unless n >= 2 and m >= 2. Source: Welch, 1947,
    doi:10.1093/biomet/34.1-2.28. images, confidence: see `mean_interval`.
    """
    one, other = _known(values), _known(others)
    if not len(one) or not len(other):
        return Interval(nan, nan, nan)
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Interval(difference, nan, nan)
    parts = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    freedom = 1.0
    if parts.any():
        shares = parts / parts.sum()  # normalised first, because squares of tiny variances would underflow
        freedom = 1 / float((shares**2 / [len(one) - 1, len(other) - 1]).sum())
    half = _half(float(parts.sum()), freedom, images, confidence)
    return Interval(difference, difference - half, difference + half)


def against(
    rows: pd.DataFrame,
    axis: str,
    reference: str,
    within: Sequence[str],
    images: Callable[[Iterable[str], Iterable[str]], float] = lambda one, other: 0.0,
    measure: str = "test_accuracy",
) -> pd.DataFrame:
    """Compares every level of `axis` with `reference` in each cell: runs with the same values of `within`.

    Args:
      rows: runs with the columns used below.
      axis: the column whose levels are compared.
      reference: the level to compare with.
      within: the columns that define a cell.
      images: what the draw of the test images adds to the variance of the difference of two sets of trials, by id.
      measure: the column that is averaged.

    Returns: columns `within`, `axis`, n, mean, std, difference (mean minus the reference's mean in the cell), low,
    high (its 95 % interval, see `difference_interval`), clear (see `verdict`). The reference itself, and cells without
    it, have no difference. Sorted by `within`, then by descending mean.
    """
    known = rows.dropna(subset=[measure, axis])
    lines = []
    for cell, group in known.groupby(list(within), dropna=False):
        levels = {name: part[measure].to_numpy(dtype=float) for name, part in group.groupby(axis)}
        ids = {name: list(part["trial_id"]) for name, part in group.groupby(axis)}
        for name, values in sorted(levels.items(), key=lambda item: -item[1].mean()):
            compared = name != reference and reference in levels
            other = levels[reference] if compared else np.empty(0)
            line = {**dict(zip(within, cell, strict=True)), axis: name, "n": len(values), "mean": values.mean()}
            gain = difference_interval(values, other, images(ids[name], ids[reference]) if compared else 0.0)
            spread = values.std(ddof=1) if len(values) > 1 else nan
            lines.append({**line, "std": spread, "difference": gain.value, "low": gain.low, "high": gain.high})
    frame = pd.DataFrame(lines, columns=[*within, axis, "n", "mean", "std", "difference", "low", "high"])
    words = [verdict(*line) for line in frame[["difference", "low", "high"]].itertuples(index=False)]
    return frame.assign(clear=pd.Series(words, index=frame.index, dtype="str"))


def verdict(value: float, low: float, high: float) -> str | None:
    """Interprets the interval of a difference: "yes" above zero, "worse" below, "not clear" if it contains zero.

    "one run" if there is no interval, None if there is no difference.
    """
    if np.isnan(value):
        return None
    if np.isnan(low):
        return "one run"
    return "yes" if low > 0 else "worse" if high < 0 else "not clear"


def matched(rows: pd.DataFrame, axis: str, within: Sequence[str]) -> pd.DataFrame:
    """The rows in cells (equal values of `within`) with at least two levels of `axis`; requested sparsity rounded."""
    rounded = rows.assign(requested_sparsity=rows["requested_sparsity"].round(MATCHED))
    levels = rounded.groupby(list(within), dropna=False)[axis].transform("nunique")
    return rounded[levels.astype("float64") > 1]


def _known(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = np.asarray(values, dtype=float)
    return np.asarray(array[~np.isnan(array)])


def holm(p: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """P values (n,) adjusted for multiple testing, so that alpha bounds the family-wise error rate. NaN is ignored.

    Valid for dependent tests. Source: Holm, 1979, Scandinavian Journal of Statistics 6 (2).
    """
    values = np.asarray(p, dtype=float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    found = values.copy()
    found[order] = np.minimum(1, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return found
