"""Which criterion, and which scope: networks at matched sparsity, against random pruning and one global ranking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.presentation import style
from analysis.presentation.rendering import Table, label, percent
from analysis.presentation.style import DASHED, INK, styled
from analysis.results_folder import RECIPE, Results, networks, ordered
from analysis.statistics.intervals import against, matched

CONTROL = "random"  # the criterion that any other has to beat
LEVELS = 6  # of sparsity, in one figure
_COLUMNS = ["n", "mean", "std", "difference", "low", "high", "clear"]


def criteria(results: Results) -> Table:
    """Every criterion against random at matched requested sparsity. One row per criterion in its cell.

    Columns: criterion, granularity, scope, requested_sparsity, n (runs), mean, std (of test accuracy), difference (to
    random in the same cell), low, high (its 95 % interval), beats_random. Only cells that have two criteria or more.
    """
    frame, said = _compared(results, "criterion", CONTROL, ["granularity", "scope", "requested_sparsity"])
    return Table(frame.rename(columns={"clear": "beats_random"}), said)


def scopes(results: Results) -> Table:
    """Every scope against `global` at matched granularity, criterion and requested sparsity. One row per scope there.

    Columns as in `criteria`, with beats_global. Only cells that have two scopes or more.
    """
    frame, said = _compared(results, "scope", "global", ["granularity", "criterion", "requested_sparsity"])
    return Table(frame.rename(columns={"clear": "beats_global"}), said)


def _compared(results: Results, axis: str, reference: str, within: list[str]) -> tuple[pd.DataFrame, str]:
    rows = networks(results.trials).dropna(subset=["test_accuracy", axis])
    shared = matched(rows, axis, _cells(rows, within))
    frame = against(shared, axis, reference, _cells(rows, within))
    frame = frame[[axis, *_cells(rows, within), *_COLUMNS]]
    drawn = int(frame["clear"].isin(["yes", "worse", "not clear"]).sum())
    chance = f" Of {drawn} such intervals {drawn / 20:.0f} miss the truth by chance." if drawn >= 20 else ""
    alone = len(rows) - len(shared)
    without = f" Not here: {style.counted(alone)} whose sparsity no other {axis} was asked for." if alone else ""
    return frame, (
        f"Test accuracy of each {axis}'s networks at the same requested sparsity: mean and standard deviation over "
        f"runs, and the difference of the mean to {reference}'s there with its 95 % interval (Welch's t interval: runs "
        f"independent, unequal spread; none from a single run). Clear is what the interval says: yes, it lies above "
        f"zero; worse, below.{chance}{_differing(shared, [axis, *_cells(rows, within)])}{without}"
    )


def _cells(rows: pd.DataFrame, within: list[str]) -> list[str]:
    """What has to be equal for networks to be compared; 80 % of the channels is not 80 % of the weights."""
    kinds = rows.groupby("granularity")["sparsity_of"].nunique(dropna=False)
    return [*within, "sparsity_of"] if (kinds > 1).any() else within


def _differing(rows: pd.DataFrame, fixed: list[str]) -> str:
    """What else differs between the runs of a cell, which their spread then holds too."""
    keys = [key for key in RECIPE if key not in fixed and len(rows)]
    # `steps` follows from the schedule, and is no difference of its own.
    named = [key for key in keys if rows.groupby(fixed, dropna=False)[key].nunique(dropna=False).gt(1).any()]
    return f" Runs of a cell differ also in {', '.join(map(label, named))}." if named else ""


def criteria_data(results: Results) -> pd.DataFrame:
    """Test accuracy of every criterion at matched requested sparsity: a row for each granularity, scope and sparsity.

    Columns: criterion, granularity, scope, requested_sparsity, n, mean, lowest, highest (over runs, fractions). No more
    than LEVELS sparsities, evenly spaced. Criteria come best first by their mean gain over the cells they share, random
    last.
    """
    within = ["granularity", "scope", "requested_sparsity"]
    rows = networks(results.trials).dropna(subset=["test_accuracy", "criterion"])
    rows = matched(rows, "criterion", within)
    levels = np.sort(rows["requested_sparsity"].unique())
    chosen = levels[np.linspace(0, len(levels) - 1, min(LEVELS, len(levels))).round().astype(int)]
    rows = rows[rows["requested_sparsity"].isin(chosen)]
    grouped = rows.groupby([*within, "criterion"])["test_accuracy"]
    drawn = grouped.agg(n="size", mean="mean", lowest="min", highest="max").reset_index()
    gain = drawn["mean"] - drawn.groupby(within)["mean"].transform("mean")
    order = gain.groupby(drawn["criterion"]).mean().sort_values(ascending=False).index
    names = [*(name for name in order if name != CONTROL), *(name for name in order if name == CONTROL)]
    place = drawn["criterion"].map({name: i for i, name in enumerate(names)})
    columns = ["criterion", *within, "n", "mean", "lowest", "highest"]
    return drawn.assign(place=place).sort_values(["place", *within], ignore_index=True)[columns]


@styled
def accuracies(results: Results) -> Figure:
    """Test accuracy by criterion at matched sparsity, a panel for each granularity and scope, on the same axes."""
    rows = criteria_data(results)
    if rows.empty:
        return style.words("No two criteria have a network of the same requested sparsity.", results.trials)
    names, levels = list(rows["criterion"].unique()), sorted(rows["requested_sparsity"].unique())
    down, across = ordered(rows["granularity"]), ordered(rows["scope"])
    inches = (1.8 + 2.5 * len(across), 1.3 + len(down) * (0.5 + 0.21 * max(4, len(names))))
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(len(down), len(across), sharex=True, sharey=True, squeeze=False)
    looks = _by_level(levels)
    baseline = (results.record.get("baseline") or {}).get("test_accuracy")
    for (i, j), ax in np.ndenumerate(axes):
        part = rows[(rows["granularity"] == down[i]) & (rows["scope"] == across[j])]
        _draw(ax, part, names, looks)
        ax.set_title(f"{style.plain(down[i])}, {style.plain(across[j])}" + ": none" * part.empty)
        if baseline is not None:
            ax.axvline(100 * baseline, **DASHED)
        ax.tick_params(axis="y", labelsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("test accuracy (%)")
    axes[0, 0].set_yticks(range(len(names)), [style.plain(name) for name in names])
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    dense = [style.key(f"baseline, {percent(baseline)} %", **DASHED)] if baseline is not None else []
    asked = [style.key(f"{percent(level)} %", **{**looks[level], "linestyle": "none"}) for level in levels]
    control = [style.key("random, the control", color="#e9e9e9", marker="s", markersize=9)] * (CONTROL in names)
    style.legend(figure, {"asked for": asked, "network": dense + control})
    several = rows["n"].max() > 1
    spans = "Dots are means, bars reach from the lowest to the highest run" if several else "Every dot is one run"
    title = f"Test accuracy of {len(names)} criteria at the same requested sparsity"
    style.head(figure, title, f"{spans}{_runs(rows)}. Criteria in the order of their mean over what they share.")
    return figure


def _draw(ax: Axes, rows: pd.DataFrame, names: list[Any], looks: dict[float, dict[str, Any]]) -> None:
    if CONTROL in names:
        ax.axhspan(names.index(CONTROL) - 0.5, names.index(CONTROL) + 0.5, color="#e9e9e9", zorder=0, linewidth=0)
    for (level, look), shift in zip(looks.items(), np.linspace(-0.25, 0.25, len(looks) + 2)[1:-1], strict=True):
        group = rows[rows["requested_sparsity"] == level]
        places = group["criterion"].map(names.index) + shift
        ax.hlines(places, 100 * group["lowest"], 100 * group["highest"], color=look["color"], linewidth=1.2)
        ax.plot(100 * group["mean"], places, **look)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def _by_level(levels: list[float]) -> dict[float, dict[str, Any]]:
    """A look for each sparsity: the more is gone, the darker; shapes too, for print."""
    shades = colormaps["viridis_r"](np.linspace(0.15, 1, len(levels)) if len(levels) > 1 else [0.8])
    edge = {"markeredgecolor": INK, "markeredgewidth": 0.3, "markersize": 4.8, "linestyle": "none"}
    return {
        level: {"color": tuple(shade), "marker": style.MARKERS[i], **edge}
        for i, (level, shade) in enumerate(zip(levels, shades, strict=True))
    }


def _runs(rows: pd.DataFrame) -> str:
    low, high = rows["n"].min(), rows["n"].max()
    return "" if high == 1 else f" ({low} each)" if low == high else f" ({low} to {high} each)"
