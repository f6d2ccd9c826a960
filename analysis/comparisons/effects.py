"""Effect of each recipe axis on test accuracy at equal sparsity: paired differences, marginal effects, importance."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.presentation.rendering import Table
from analysis.results_folder import RECIPE, Results, axes, candidates, networks
from analysis.statistics import tested_images
from analysis.statistics.intervals import CONFIDENCE, MATCHED, holm, mean_interval, p_value, verdict
from analysis.statistics.tested_images import ImageVariance

NUMBERS = ("sparse_epochs", "distil")  # compared as levels, in at most NUMBER_BINS bins
COMPARED = ("criterion", "granularity", "scope", "schedule", "reconstruct", "quantize", *NUMBERS)
CALIPER = 0.025  # largest difference of achieved sparsity within a pair of networks
MIN_PAIRS = 3  # of recipes that differ in one axis only; with fewer, networks are paired by sparsity
SPARSITY_BINS, NUMBER_BINS = 10, 5  # quantile bins of sparsity, and of other numbers, if there are more values
_DEPENDENT_KEYS = {  # axis -> keys with another meaning, or none, on another level of that axis
    "schedule": {"steps", "initial_sparsity"},
    "granularity": {
        "channel_share",
        "sparsity_of",
        "reduce",
        "min_channels",
        "round_to",
        "layer",
        "group",
        "sparse_epochs",
        "group_lasso",
    },
    "sparse_epochs": {"group_lasso"},
    "distil": {"temperature"},
}
_COLUMNS = ["axis", "level", "other", "pairs", "matched", "difference", "low", "high", "p", "clear"]


class Pairs(NamedTuple):
    """Differences of test accuracy between paired networks of two levels, and how they were paired.

    images: what the draw of the test images adds to the variance of their mean.
    """

    differences: np.ndarray
    matched: str
    images: float = 0.0


def effects(results: Results) -> Table:
    """Compares the best level of every axis with each other level, in pairs of networks at equal sparsity.

    Columns: axis, level (best by marginal effect on validation accuracy), other, pairs (count), matched ("recipe": a
    pair differs in this axis only; "sparsity": the other COMPARED axes are equal and achieved sparsities within
    CALIPER), difference (mean over pairs, of test accuracy), low, high (95 % t interval), p (Holm-adjusted over all
    pairs of levels of the axis, so that the choice of the best one among them counts), clear.
    """
    every = networks(results.trials)
    levels = {axis: binned(every[axis], NUMBER_BINS).map("{:g}".format, na_action="ignore") for axis in NUMBERS}
    every = every.assign(**levels)
    rows = every.loc[candidates(results.trials).index].dropna(subset=["test_accuracy", "sparsity"])
    images = tested_images.of_difference(results)
    frames = [_against_others(every, rows, axis, images) for axis in COMPARED if rows[axis].nunique() > 1]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_COLUMNS)
    return Table(
        frame,
        "The best level of each axis (by mean validation accuracy at equal sparsity) against each other level: mean "
        "difference of test accuracy over pairs of networks, its 95 % interval (over pairs and, where "
        "each network's answers are kept, test images) and p, adjusted for all "
        "pairs of levels of the axis (Holm), as any of them might have been the best. Matched by recipe: the two "
        "networks differ in this axis only; seeds are averaged. Matched by sparsity: the other axes of this table are "
        f"equal and achieved sparsities within {100 * CALIPER:g} points, but fine-tuning rates and epochs may differ. "
        "Clear: yes, the interval lies above zero and p below 0.05; no pairs, no two networks can be compared so, and "
        "more trials, or a grid, would bring some. "
        "An adaptive sampler runs promising levels more often and with better settings: a clear difference is more "
        "than chance, but the level need not be its cause.",
    )


def _against_others(every: pd.DataFrame, rows: pd.DataFrame, axis: str, images: ImageVariance) -> pd.DataFrame:
    gains = marginal(rows, axis, "accuracy").sort_values("effect", ascending=False, kind="stable")
    best, *_ = levels = list(gains["level"])
    lines = []
    for level, other in itertools.combinations(levels, 2):
        found = pairs(every, axis, level, other, images)
        gap = mean_interval(found.differences, found.images)
        line = {"axis": axis, "level": level, "other": other, "pairs": len(found.differences)}
        line |= {"matched": found.matched, "difference": gap.value, "low": gap.low, "high": gap.high}
        lines.append(line | {"p": p_value(found.differences, found.images)})
    adjusted = holm([line["p"] for line in lines])[: len(levels) - 1]
    frame = pd.DataFrame(lines[: len(levels) - 1])  # combinations begin with those of the best level
    few = {0: "no pairs", 1: "one pair"}
    words = [
        few.get(line["pairs"])
        or ("not clear" if p >= 1 - CONFIDENCE else verdict(*line[["difference", "low", "high"]]))
        for (_, line), p in zip(frame.iterrows(), adjusted, strict=True)
    ]
    return frame.assign(p=adjusted, clear=pd.Series(words, index=frame.index, dtype="str"))


def pairs(
    rows: pd.DataFrame, axis: str, level: object, other: object, images: ImageVariance = lambda one, other: 0.0
) -> Pairs:
    """Pairs networks of two levels of `axis`: by recipe if there are at least MIN_PAIRS, otherwise by sparsity.

    Args:
      rows: trials.
      axis: the column that holds both levels.
      level: the first level; differences are its test accuracy minus the other's.
      other: the second level.
      images: see `intervals.against`.
    """
    rows = rows.dropna(subset=["test_accuracy", "sparsity"])
    one, two = rows[rows[axis] == level], rows[rows[axis] == other]
    left_out = {axis, *_DEPENDENT_KEYS.get(axis, ())}
    varying = [key for key in RECIPE if key not in left_out and rows[key].nunique(dropna=False) > 1]
    keys = [*varying, "requested_sparsity"]
    first, second = (
        part.assign(requested_sparsity=part["requested_sparsity"].round(MATCHED))
        .groupby(keys, dropna=False)
        .agg(test_accuracy=("test_accuracy", "mean"), ids=("trial_id", list))
        for part in (one, two)
    )
    both = pd.merge(first.reset_index(), second.reset_index(), on=keys)
    if len(both) >= MIN_PAIRS:
        differences = (both["test_accuracy_x"] - both["test_accuracy_y"]).to_numpy(dtype=float)
        return Pairs(differences, "recipe", images(*(itertools.chain(*both[ids]) for ids in ("ids_x", "ids_y"))))
    strata = [key for key in COMPARED if key != axis and rows[key].notna().any()]  # older folders lack some
    groups = dict(iter(two.groupby(strata, dropna=False)))
    found = [
        pair
        for key, group in one.groupby(strata, dropna=False)
        if key in groups
        for pair in _paired_by_sparsity(group, groups[key])
    ]
    accuracy, name = rows["test_accuracy"], rows["trial_id"]
    differences = np.array([accuracy[i] - accuracy[j] for i, j in found], dtype=float)
    return Pairs(differences, "sparsity", images([name[i] for i, _ in found], [name[j] for _, j in found]))


def _paired_by_sparsity(one: pd.DataFrame, two: pd.DataFrame) -> list[tuple[Any, Any]]:
    """Disjoint pairs of rows, by index, within CALIPER of sparsity. Greedy matching in sorted order is maximal."""
    one, two = one.sort_values("sparsity"), two.sort_values("sparsity")
    places, found, j = two["sparsity"].to_numpy(), [], 0
    for i, sparsity in one["sparsity"].items():
        while j < len(places) and places[j] < sparsity - CALIPER:
            j += 1
        if j < len(places) and places[j] <= sparsity + CALIPER:
            found.append((i, two.index[j]))
            j += 1
    return found


def binned(values: pd.Series, most: int) -> pd.Series:
    """The values if at most `most` are distinct, otherwise the median of each value's quantile bin (of `most` bins)."""
    numbers = values.astype("float64").round(MATCHED)
    if numbers.nunique() <= most:
        return numbers
    ranges = pd.qcut(numbers, most, duplicates="drop")
    return numbers.groupby(ranges, observed=True).transform("median")


def residuals(rows: pd.DataFrame, measure: str = "test_accuracy") -> pd.Series:
    """Accuracy minus the mean of all networks at the same requested sparsity, or in the same sparsity bin."""
    return rows[measure] - rows.groupby(_sparsities(rows))[measure].transform("mean")


def _sparsities(rows: pd.DataFrame) -> pd.Series:
    known = rows["requested_sparsity"].fillna(rows["sparsity"])
    return binned(known, SPARSITY_BINS if len(rows) >= 4 * SPARSITY_BINS else max(2, len(rows) // 4))


def marginal(rows: pd.DataFrame, axis: str, measure: str = "test_accuracy") -> pd.DataFrame:
    """Mean gain of each level of `axis` over all networks of the same sparsity, with its 95 % t interval.

    Columns: axis, level, n, effect, low, high (of `measure`, fractions). Numbers with more than NUMBER_BINS values
    are grouped into quantile bins, named by their median. Other differences between levels are not controlled for.
    """
    gains = residuals(rows, measure)
    lines = []
    for level, part in gains.groupby(_levels(rows[axis])):
        found = mean_interval(part)
        lines.append({"axis": axis, "level": level, "n": len(part), "effect": found.value})
        lines[-1] |= {"low": found.low, "high": found.high}
    return pd.DataFrame(lines, columns=["axis", "level", "n", "effect", "low", "high"])


def _levels(values: pd.Series) -> pd.Series:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return binned(values.dropna(), NUMBER_BINS) if numeric else values.dropna().astype(str)


def importance_data(results: Results) -> pd.DataFrame:
    """Share of the variance of test accuracy explained by each varying axis, largest first.

    Columns: axis, levels (count), share (of the total variance, in [0, 1]; omega squared, near 0 for an axis without
    effect), p (F test). Sparsity is accounted for first, the other axes on its residuals. Empty below ten
    networks.
    """
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity"])
    if len(rows) < 10:
        return pd.DataFrame(columns=["axis", "levels", "share", "p"])
    sparsities = _sparsities(rows)
    lines: list[dict[str, Any]] = [{"axis": "sparsity", **_omega(rows["test_accuracy"], sparsities)}]
    rest = 1 - float(lines[0]["share"])
    for axis in axes(results.trials)[0]:
        found = _omega(residuals(rows), _levels(rows[axis]))
        lines.append({"axis": axis, **found, "share": rest * found["share"]})
    frame = pd.DataFrame(lines)[["axis", "levels", "share", "p"]]
    return frame[frame["levels"] > 1].sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _omega(values: pd.Series, levels: pd.Series) -> dict[str, float]:
    """Omega squared of a one-way ANOVA: the share of variance between levels, corrected for chance."""
    groups = [part.to_numpy() for _, part in values.groupby(levels) if len(part)]
    known = np.concatenate(groups) if groups else np.empty(0)
    between = sum(len(part) * (part.mean() - known.mean()) ** 2 for part in groups)
    whole = float(((known - known.mean()) ** 2).sum()) if len(known) else 0.0
    free = len(known) - len(groups)
    if len(groups) < 2 or free < 1 or whole <= 0:
        return {"levels": len(groups), "share": 0.0, "p": float("nan")}
    within = (whole - between) / free
    f = between / (len(groups) - 1) / within if within > 0 else np.inf
    share = max(0.0, (between - (len(groups) - 1) * within) / (whole + within))
    return {"levels": len(groups), "share": float(share), "p": float(stats.f.sf(f, len(groups) - 1, free))}


def rates_data(results: Results) -> pd.DataFrame:
    """Gain by fine-tuning learning rate and sparsity: finetune_lr, sparsity (medians of quantile bins), n, gain.

    gain: mean test accuracy of the networks in the cell minus that of all networks at that sparsity. Empty if the study
    has one learning rate or fewer than 20 networks.
    """
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity", "finetune_lr"])
    if rows["finetune_lr"].nunique() < 2 or len(rows) < 20:
        return pd.DataFrame(columns=["finetune_lr", "sparsity", "n", "gain"])
    table = pd.DataFrame(
        {
            "finetune_lr": binned(rows["finetune_lr"], NUMBER_BINS),
            "sparsity": binned(rows["requested_sparsity"].fillna(rows["sparsity"]), NUMBER_BINS),
            "accuracy": rows["test_accuracy"],
        }
    )
    table["gain"] = table["accuracy"] - table.groupby("sparsity")["accuracy"].transform("mean")
    return table.groupby(["finetune_lr", "sparsity"])["gain"].agg(n="size", gain="mean").reset_index()
