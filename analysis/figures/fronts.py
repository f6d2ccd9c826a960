"""Figures of the Pareto front, and of accuracy by the levels of an axis.

They show test accuracy, which is not used for any selection; the front is selected by validation accuracy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.presentation import style
from analysis.presentation.looks import (
    and_,
    baseline,
    close_up,
    closeup_floor,
    coloured,
    complete,
    draw_baseline,
    keys,
    looks_of,
    not_drawn,
    shape,
    shaped,
    tidy,
)
from analysis.presentation.style import COLOURS, EDGED, INK, QUIET, STAR, styled
from analysis.results_folder import Results, dense_control, ordered
from analysis.statistics import pareto, runs
from analysis.statistics.objectives import abscissa, unit_of
from analysis.statistics.tested_images import mean_with_images

AXES = ("criterion", "schedule", "granularity", "scope")  # recipe axes with an accuracy_by figure
_LOOKS: dict[str, dict[str, Any]] = {
    "front": {"markersize": 7, "markeredgewidth": 0.9, "markeredgecolor": "black", "zorder": 3},
    "dominated": {"markersize": 4.5, "markeredgewidth": 0, "alpha": 0.35},
    "infeasible": {"markersize": 4.5, "markeredgewidth": 0.8, "alpha": 0.5, "markerfacecolor": "none"},
}
_RING: dict[str, Any] = {
    "marker": "o", "markersize": 14, "markerfacecolor": "none", "markeredgecolor": "#D55E00", "markeredgewidth": 1.6,
    "linestyle": "none", "zorder": 4,
}  # fmt: skip


def front_data(results: Results) -> pd.DataFrame:
    """One row per complete network, by ascending x.

    Columns: trial_id, schedule, scope, granularity, x, test_accuracy, place, mean, low, high, n, knee. x is the first
    objective other than accuracy (sparsity if there is none), in the column's unit; test_accuracy is a fraction; place
    is "front", "dominated" or "infeasible" (a constraint is not met). For front rows only: mean, low, high are the mean
    test accuracy over the recipe's n runs and its 95 % interval (missing for n = 1); knee is true for the knee.
    """
    rows = complete(results)
    best = runs.with_runs(pareto.front(rows, results.objectives), results.trials)
    broken = ~rows["feasible"].fillna(True).astype(bool)
    place = np.where(rows.index.isin(best.index), "front", np.where(broken, "infeasible", "dominated"))
    drawn = rows.assign(x=rows[abscissa(results)].astype("float64"), place=place)
    drawn = drawn.join(_intervals(results, best)).assign(knee=drawn.index == knee(results))
    columns = ["trial_id", "schedule", "scope", "granularity", "x", "test_accuracy", "place", "mean", "low", "high"]
    drawn = drawn[[*columns, "n", "knee"]]
    return drawn.dropna(subset=["x", "test_accuracy"]).sort_values(["x", "trial_id"])


def knee(results: Results) -> Any:
    """The index (in the trials) of the front's knee, with accuracy averaged over runs; None if there is none."""
    best = runs.front(results)
    values = best.assign(accuracy=best["accuracy_mean"])[list(results.objectives)].to_numpy(dtype=float)
    place = pareto.knee(values, list(results.objectives.values()))
    return None if place is None else best.index[place]


def _intervals(results: Results, best: pd.DataFrame) -> pd.DataFrame:
    ran = runs.runs(results.trials)
    ran = ran[ran["recipe"].isin(runs.recipes(results.trials).loc[best.index])]
    found = {number: mean_with_images(results, group) for number, group in ran.groupby("recipe")}
    numbers = runs.recipes(results.trials).loc[best.index]
    frame = pd.DataFrame([found[number] for number in numbers], index=best.index, columns=["mean", "low", "high"])
    return frame.astype("float64").assign(n=best["n"])


@styled
def front(results: Results) -> Figure:
    """Draws test accuracy against sparsity (or another objective): the front among all networks."""
    rows, control = front_data(results), dense_control(results.trials)
    if rows.empty:
        return style.words("There is no complete network to draw a front of.", results.trials)
    name, unit, scale = unit_of(abscissa(results))
    floor = closeup_floor(rows["test_accuracy"], baseline(results, "test_accuracy"))
    figure, axes = style.panels(1 if floor is None else 2, 1, (7.2, 4.0 if floor is None else 6.4), sharey=False)
    for ax in axes:
        _draw_front(
            ax, results, rows if floor is None or ax is axes[-1] else rows[rows["test_accuracy"] >= floor], rows
        )
        ax.plot(control[abscissa(results)].astype("float64") / scale, 100 * control["test_accuracy"], **STAR)
        dense = draw_baseline(ax, results, "test_accuracy")
        ax.set_ylabel("test accuracy (%)")
    axes[-1].set_xlabel(f"{name} ({unit})")
    if floor is not None:
        close_up(axes[0], floor, pd.concat([rows, control])["test_accuracy"])
        axes[0].set_title("Near the baseline")
        axes[1].set_title("All")
    places = [style.key(p, **_look(p, INK, "o")) for p in _LOOKS if (rows["place"] == p).any()]
    places += [style.key("knee", **{**_RING, "markersize": 9})] * bool(rows["knee"].any())
    places += [style.key("mean, 95 % interval", color=INK, marker="_", linestyle="-")] * bool(rows["low"].notna().any())
    stars = [style.key("dense control", **STAR)] * bool(len(control))
    style.legend(figure, {**keys(results, rows), "network": places + dense + stars})
    style.head(
        figure,
        f"{(rows['place'] == 'front').sum()} of {style.counted(len(rows))} on the front",
        _caption(results, rows),
    )
    return figure


def _draw_front(ax: Axes, results: Results, shown: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draws the networks `shown`, and of all `rows` the front's line and the intervals of means over runs."""
    scale = unit_of(abscissa(results))[2]
    colours, markers = looks_of(results)
    best = rows[rows["place"] == "front"]
    if len(results.objectives) == 2:  # with three objectives this is a projection, where a line would mislead
        ax.plot(best["x"] / scale, 100 * best["test_accuracy"], color=INK, linewidth=0.9, zorder=2)
    for (schedule, kind, place), group in shown.groupby(["schedule", shape(results), "place"]):
        ax.plot(group["x"] / scale, 100 * group["test_accuracy"], **_look(place, colours[schedule], markers[kind]))
    several = best[best["low"].notna()]
    if len(several):
        half_width = 100 * (several["high"] - several["mean"])
        bars: dict[str, Any] = {
            "fmt": "_",
            "color": INK,
            "elinewidth": 1.1,
            "capsize": 2.5,
            "markersize": 7,
            "zorder": 5,
        }
        limits = ax.get_ylim()
        ax.errorbar(several["x"] / scale, 100 * several["mean"], yerr=half_width, **bars)
        ax.set_ylim(limits)  # a wide interval of two runs must not compress the rest
    ring = shown[shown["knee"]]
    ax.plot(ring["x"] / scale, 100 * ring["test_accuracy"], **_RING)


def _caption(results: Results, rows: pd.DataFrame) -> str:
    objectives = and_(unit_of(objective)[0] for objective in results.objectives)
    sentences = [
        f"The front is selected by {objectives} but drawn with test accuracy, so its line need not be monotonic."
    ]
    if rows["knee"].any():
        sentences.append("Knee: the front's point with the largest sum of objectives, each scaled to [0, 1].")
    if rows["low"].notna().any():
        sentences.append("Intervals: Student's t over the runs of a recipe; those cut off by the frame are longer.")
    return " ".join(filter(None, [*sentences, not_drawn(results)]))


def accuracy_by_data(results: Results, axis: str) -> dict[str, pd.DataFrame]:
    """Level of `axis` (one of AXES) -> its complete networks, by ascending sparsity.

    Columns: trial_id, scope, granularity, sparsity, test_accuracy (fractions). Raises ValueError for another axis.
    """
    if axis not in AXES:
        raise ValueError(f"axis {axis!r}; choices: {', '.join(AXES)}")
    rows = complete(results).dropna(subset=["sparsity", "test_accuracy"]).sort_values("sparsity")
    columns = ["trial_id", "scope", "granularity", "sparsity", "test_accuracy"]
    return {name: rows.loc[rows[axis] == name, columns] for name in ordered(rows[axis])}


def compared_data(results: Results, axis: str) -> pd.DataFrame:
    """All networks of `accuracy_by_data`; empty if the axis has a single level."""
    levels = accuracy_by_data(results, axis)
    return pd.concat(levels.values()) if len(levels) > 1 else pd.DataFrame()


@styled
def accuracy_by(results: Results, axis: str) -> Figure:
    """Draws test accuracy against sparsity, a panel for each level of `axis`; the other networks are grey."""
    levels = accuracy_by_data(results, axis)
    if not levels:
        return style.words(f"There is no complete network to compare by {axis}.", results.trials)
    everything = pd.concat(levels.values())
    floor = closeup_floor(everything["test_accuracy"], baseline(results, "test_accuracy"))
    shown = everything if floor is None else everything[everything["test_accuracy"] >= floor]
    form, markers = shape(results), looks_of(results)[1]
    tint = "scope" if everything["scope"].nunique() > 1 and axis != "scope" else form
    colours = style.assign(everything[tint], COLOURS)
    columns = min(3 if len(levels) <= 9 else 4, len(levels))
    lines = -(-len(levels) // columns)
    figure, axes = style.panels(lines, columns, (1.8 + 2.3 * columns, 1.4 + 2.3 * lines), sharey=True)
    for ax, (level, rows) in zip(axes, levels.items(), strict=False):
        own = shown.index.isin(rows.index)
        ax.plot(100 * shown["sparsity"][~own], 100 * shown["test_accuracy"][~own], **QUIET)
        for (hue, kind), group in shown[own].groupby([tint, form] if tint != form else [form, form]):
            look = {"color": colours[hue], "marker": markers[kind], **EDGED}
            ax.plot(100 * group["sparsity"], 100 * group["test_accuracy"], **look)
        dense = draw_baseline(ax, results, "test_accuracy")
        below = len(rows) - int(own.sum())
        ax.set_title(f"{style.plain(level)}: {len(rows)}" + f", {below} below" * bool(below), fontsize=8.5)
        ax.set(xlabel="sparsity (%)", ylabel="test accuracy (%)")
    if floor is not None:
        close_up(axes[0], floor, everything["test_accuracy"])
    tidy(axes, len(levels), columns)
    several = {"criterion": "criteria", "granularity": "granularities"}.get(axis, f"{axis}s")
    others = [style.key(f"other {several}", **QUIET)] * (len(levels) > 1)
    hues = coloured(everything[tint], colours, markers if tint == form else {})
    forms = {form: shaped(everything[form], markers)} if tint != form else {}
    style.legend(figure, {tint: hues, **forms, "network": others + dense})
    caption = "Each point is one run of a complete network; recipes also differ in keys that are not shown."
    caption += ' In panel titles, "below" counts networks under the lower limit of the axis.' * (floor is not None)
    style.head(figure, f"Test accuracy by {axis}", caption)
    return figure


def _look(place: Any, colour: str, marker: str) -> dict[str, Any]:
    return {"color": colour, "marker": marker, "linestyle": "none", **_LOOKS[place]}
