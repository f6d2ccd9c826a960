"""Compares criteria with random pruning, and scopes with the global scope, at matched requested sparsity."""

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
from analysis.statistics import tested_images
from analysis.statistics.intervals import against, matched

CONTROL = "random"  # the criterion that the others are compared with
MAX_SPARSITIES = 6  # in one figure
_COLUMNS = ["n", "mean", "std", "difference", "low", "high", "clear"]


def criteria(results: Results) -> Table:
    """Compares every criterion with random at the same requested sparsity. One row per criterion and cell.

    Columns: criterion, granularity, scope, requested_sparsity, n (runs), mean, std (of test accuracy), difference (from
    random in the same cell), low, high (its 95 % interval), beats_random. Only cells with two or more criteria.
    """
    frame, caption = _comparison(results, "criterion", CONTROL, ["granularity", "scope", "requested_sparsity"])
    return Table(frame.rename(columns={"clear": "beats_random"}), caption)


def scopes(results: Results) -> Table:
    """Compares every scope with `global` at the same granularity, criterion and requested sparsity.

    One row per scope and cell. Columns as in `criteria`, with beats_global. Only cells with two or more scopes.
    """
    frame, caption = _comparison(results, "scope", "global", ["granularity", "criterion", "requested_sparsity"])
    return Table(frame.rename(columns={"clear": "beats_global"}), caption)


def _comparison(results: Results, axis: str, reference: str, within: list[str]) -> tuple[pd.DataFrame, str]:
    rows = networks(results.trials).dropna(subset=["test_accuracy", axis])
    cell = _cell_keys(rows, within)
    shared = matched(rows, axis, cell)
    frame = against(shared, axis, reference, cell, tested_images.of_difference(results))[[axis, *cell, *_COLUMNS]]
    count = int(frame["clear"].isin(["yes", "worse", "not clear"]).sum())
    chance = f" About {count / 20:.0f} of these {count} intervals miss the true value by chance." if count >= 20 else ""
    unmatched = len(rows) - len(shared)
    left_out = f" Left out: {style.counted(unmatched)} at sparsities with a single {axis}." if unmatched else ""
    return frame, (
        f"Test accuracy by {axis} at the same requested sparsity: mean and standard deviation over runs, and the "
        f"difference from {reference}'s mean with its 95 % interval (over runs, Welch's t, and, where each network's "
        f"answers are kept, over the test images; none for a single run). The last "
        f"column: yes, the interval lies above zero; worse, below; not clear, it contains zero.{chance}"
        f"{_uncontrolled(shared, [axis, *cell])}{left_out}"
    )


def _cell_keys(rows: pd.DataFrame, within: list[str]) -> list[str]:
    """The keys that must be equal for a comparison; adds sparsity_of, as 80 % of channels is not 80 % of weights."""
    kinds = rows.groupby("granularity")["sparsity_of"].nunique(dropna=False)
    return [*within, "sparsity_of"] if (kinds > 1).any() else within


def _uncontrolled(rows: pd.DataFrame, fixed: list[str]) -> str:
    """A sentence naming the other keys that vary between the runs of a cell and so add to their spread."""
    keys = [key for key in RECIPE if key not in fixed and len(rows)]
    named = [key for key in keys if rows.groupby(fixed, dropna=False)[key].nunique(dropna=False).gt(1).any()]
    return f" Runs in a cell also differ in {', '.join(map(label, named))}." if named else ""


def criteria_data(results: Results) -> pd.DataFrame:
    """Test accuracy of every criterion in each cell (granularity, scope, requested sparsity) with several criteria.

    Columns: criterion, granularity, scope, requested_sparsity, n, mean, lowest, highest (over runs, fractions). At most
    MAX_SPARSITIES sparsities, evenly spaced. Criteria are sorted by their mean gain over the cell's mean, best first;
    random comes last.
    """
    within = ["granularity", "scope", "requested_sparsity"]
    rows = networks(results.trials).dropna(subset=["test_accuracy", "criterion"])
    rows = matched(rows, "criterion", within)
    levels = np.sort(rows["requested_sparsity"].unique())
    chosen = levels[np.linspace(0, len(levels) - 1, min(MAX_SPARSITIES, len(levels))).round().astype(int)]
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
    """Draws test accuracy by criterion at matched sparsity; a panel for each granularity and scope, shared axes."""
    rows = criteria_data(results)
    if rows.empty:
        return style.words("No two criteria have networks at the same requested sparsity.", results.trials)
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
    requested = [style.key(f"{percent(level)} %", **{**looks[level], "linestyle": "none"}) for level in levels]
    control = [style.key("random, the control", color="#e9e9e9", marker="s", markersize=9)] * (CONTROL in names)
    style.legend(figure, {"requested": requested, "network": dense + control})
    several = rows["n"].max() > 1
    marks = "Dots are means over runs; bars span the lowest to the highest" if several else "Each dot is one run"
    title = f"Test accuracy of {len(names)} criteria at the same requested sparsity"
    order = "Criteria are sorted by mean test accuracy relative to the others in the same cells"
    order += "; random is last" * (CONTROL in names)
    style.head(figure, title, f"{marks}{_runs_each(rows)}. {order}.")
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
    """Colour and marker for each sparsity: higher is darker; markers differ too, for greyscale print."""
    shades = colormaps["viridis_r"](np.linspace(0.15, 1, len(levels)) if len(levels) > 1 else [0.8])
    edge = {"markeredgecolor": INK, "markeredgewidth": 0.3, "markersize": 4.8, "linestyle": "none"}
    return {
        level: {"color": tuple(shade), "marker": style.MARKERS[i], **edge}
        for i, (level, shade) in enumerate(zip(levels, shades, strict=True))
    }


def _runs_each(rows: pd.DataFrame) -> str:
    low, high = rows["n"].min(), rows["n"].max()
    return "" if high == 1 else f" ({low} each)" if low == high else f" ({low} to {high} each)"
