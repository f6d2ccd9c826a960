"""What each axis of a recipe does to test accuracy at equal sparsity: paired differences, marginal effects, shares."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.presentation.rendering import Table
from analysis.results_folder import RECIPE, Results, axes, candidates, networks
from analysis.statistics.intervals import CONFIDENCE, MATCHED, holm, mean_interval, verdict

COMPARED = ("criterion", "granularity", "scope", "schedule")
CALIPER = 0.025  # of achieved sparsity: how far two networks may be apart to make a pair
ENOUGH = 3  # pairs of recipes that differ in nothing else: with fewer, networks are paired by sparsity
BINS, LEVELS = 10, 5  # of sparsity, and of another number, where there are more values than that
_FOLLOW = {  # keys that mean something else, or nothing, on another level of an axis
    "schedule": {"steps", "initial_sparsity"},
    "granularity": {"channel_share", "sparsity_of", "reduce", "min_channels", "round_to", "layer", "group"},
}
_COLUMNS = ["axis", "level", "other", "pairs", "matched", "difference", "low", "high", "p", "clear"]


class Pairs(NamedTuple):
    """Differences of test accuracy, one level's network less the other's, and what the two have in common."""

    differences: np.ndarray
    matched: str


def effects(results: Results) -> Table:
    """Of every axis the level that does best at equal sparsity, against each of the others, in pairs.

    Columns: axis, level (the best by its marginal effect), other, pairs, matched ("recipe": the two differ in this axis
    alone; "sparsity": they have the other COMPARED axes in common and achieved sparsities within CALIPER), difference
    (mean over pairs, of test accuracy), low, high (95 % t interval), p (Holm's, over the axis), clear.
    """
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity"])
    frames = [_against_others(networks(results.trials), rows, axis) for axis in COMPARED if rows[axis].nunique() > 1]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=_COLUMNS)
    return Table(
        frame,
        "Of each axis the level with the best mean at equal sparsity against each other one: mean difference of test "
        "accuracy over pairs of networks, with its 95 % interval (Student's t over pairs) and p adjusted for the "
        "number of comparisons of the axis (Holm). Matched by recipe: the two differ in this axis alone, seeds are "
        "averaged; by sparsity: the other axes of this table are equal and achieved sparsities within "
        f"{100 * CALIPER:g} points, while rates and lengths of fine-tuning may differ. Which level is best was chosen "
        "on the same networks. A sampler that learns runs its favourites more often and better tuned: clear says no "
        "more than that chance alone does not make such a difference.",
    )


def _against_others(every: pd.DataFrame, rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    gains = marginal(rows, axis)
    best = gains.sort_values("effect").iloc[-1]["level"]
    lines = []
    for other in gains["level"]:
        if other != best:
            found = pairs(every, axis, best, other)
            gap = mean_interval(found.differences)
            line = {"axis": axis, "level": best, "other": other, "pairs": len(found.differences)}
            line |= {"matched": found.matched, "difference": gap.value, "low": gap.low, "high": gap.high}
            lines.append(line | {"p": _p(found.differences)})
    frame = pd.DataFrame(lines)
    adjusted = holm(frame["p"].to_numpy())
    words = [
        None if np.isnan(line["difference"]) else "not clear" if p >= 1 - CONFIDENCE else verdict(*line)
        for (_, line), p in zip(frame[["difference", "low", "high"]].iterrows(), adjusted, strict=True)
    ]
    return frame.assign(p=adjusted, clear=pd.Series(words, index=frame.index, dtype="str"))


def pairs(rows: pd.DataFrame, axis: str, level: object, other: object) -> Pairs:
    """Pairs of networks of two levels of `axis`: by recipe where there are ENOUGH such, else by sparsity."""
    rows = rows.dropna(subset=["test_accuracy", "sparsity"])
    one, two = rows[rows[axis] == level], rows[rows[axis] == other]
    keys = [key for key in [*RECIPE, "requested_sparsity"] if key != axis and key not in _FOLLOW.get(axis, set())]
    first, second = (
        part.assign(requested_sparsity=part["requested_sparsity"].round(MATCHED))
        .groupby(keys, dropna=False)["test_accuracy"]
        .mean()
        for part in (one, two)
    )
    both = pd.merge(first.reset_index(), second.reset_index(), on=keys)
    if len(both) >= ENOUGH:
        return Pairs((both["test_accuracy_x"] - both["test_accuracy_y"]).to_numpy(dtype=float), "recipe")
    strata = [key for key in COMPARED if key != axis]
    groups = dict(iter(two.groupby(strata, dropna=False)))
    found = [_near(group, groups[key]) for key, group in one.groupby(strata, dropna=False) if key in groups]
    return Pairs(np.concatenate(found) if found else np.empty(0), "sparsity")


def _near(one: pd.DataFrame, two: pd.DataFrame) -> np.ndarray:
    """Differences over disjoint pairs within CALIPER of sparsity: as many as can be, since both go in rising order."""
    one, two = one.sort_values("sparsity"), two.sort_values("sparsity")
    places, values = two["sparsity"].to_numpy(), two["test_accuracy"].to_numpy()
    found, j = [], 0
    for sparsity, accuracy in zip(one["sparsity"], one["test_accuracy"], strict=True):
        while j < len(places) and places[j] < sparsity - CALIPER:
            j += 1
        if j < len(places) and places[j] <= sparsity + CALIPER:
            found.append(accuracy - values[j])
            j += 1
    return np.array(found, dtype=float)


def _p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return float("nan")
    if np.ptp(differences) == 0:
        return 0.0 if differences[0] else 1.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def binned(values: pd.Series, most: int) -> pd.Series:
    """Values as they are where no more than `most` differ, else the middle of their quantile range (of `most`)."""
    numbers = values.astype("float64").round(MATCHED)
    if numbers.nunique() <= most:
        return numbers
    ranges = pd.qcut(numbers, most, duplicates="drop")
    return numbers.groupby(ranges, observed=True).transform("median")


def residuals(rows: pd.DataFrame) -> pd.Series:
    """Test accuracy less the mean of all networks at the same requested sparsity, or in the same tenth of them."""
    return rows["test_accuracy"] - rows.groupby(_sparsities(rows))["test_accuracy"].transform("mean")


def _sparsities(rows: pd.DataFrame) -> pd.Series:
    known = rows["requested_sparsity"].fillna(rows["sparsity"])
    return binned(known, BINS if len(rows) >= 4 * BINS else max(2, len(rows) // 4))


def marginal(rows: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Of every level of `axis` its networks' mean gain over all networks of the same sparsity, with 95 % t interval.

    Columns: axis, level, n, effect, low, high (of test accuracy, fractions); numbers of more than LEVELS values in
    quantile ranges, named by their median. Every network counts once, whatever else differs between levels.
    """
    gains = residuals(rows)
    lines = []
    for level, part in gains.groupby(_levels(rows[axis])):
        found = mean_interval(part)
        lines.append({"axis": axis, "level": level, "n": len(part), "effect": found.value})
        lines[-1] |= {"low": found.low, "high": found.high}
    return pd.DataFrame(lines, columns=["axis", "level", "n", "effect", "low", "high"])


def _levels(values: pd.Series) -> pd.Series:
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return binned(values.dropna(), LEVELS) if numeric else values.dropna().astype(str)


def importance_data(results: Results) -> pd.DataFrame:
    """How much of the variance of test accuracy each axis accounts for: a row for each that varies, most first.

    Columns: axis, levels, share (of all variance, in [0, 1]; omega squared, which is 0 on average for an axis that does
    nothing), p (F test). Sparsity comes first into account; the others for what it leaves. Empty below ten networks.
    """
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity"])
    if len(rows) < 10:
        return pd.DataFrame(columns=["axis", "levels", "share", "p"])
    asked = _sparsities(rows)
    lines: list[dict[str, Any]] = [{"axis": "sparsity", **_omega(rows["test_accuracy"], asked)}]
    rest = 1 - float(lines[0]["share"])
    for axis in axes(results.trials)[0]:
        found = _omega(residuals(rows), _levels(rows[axis]))
        lines.append({"axis": axis, **found, "share": rest * found["share"]})
    frame = pd.DataFrame(lines)[["axis", "levels", "share", "p"]]
    return frame[frame["levels"] > 1].sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _omega(values: pd.Series, levels: pd.Series) -> dict[str, float]:
    """Omega squared of a one-way analysis of variance: the share of variance between levels, corrected for chance."""
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
    """How the fine-tuning rate does at each sparsity: finetune_lr, sparsity (medians of quantile ranges), n, gain.

    gain: mean test accuracy of the networks there less that of all networks at that sparsity. Empty where the study has
    one rate, or fewer than 20 networks.
    """
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity", "finetune_lr"])
    if rows["finetune_lr"].nunique() < 2 or len(rows) < 20:
        return pd.DataFrame(columns=["finetune_lr", "sparsity", "n", "gain"])
    table = pd.DataFrame(
        {
            "finetune_lr": binned(rows["finetune_lr"], LEVELS),
            "sparsity": binned(rows["requested_sparsity"].fillna(rows["sparsity"]), LEVELS),
            "accuracy": rows["test_accuracy"],
        }
    )
    table["gain"] = table["accuracy"] - table.groupby("sparsity")["accuracy"].transform("mean")
    return table.groupby(["finetune_lr", "sparsity"])["gain"].agg(n="size", gain="mean").reset_index()
