"""Figures of importance and marginal effects of the axes, and of fine-tuning learning rate against sparsity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.comparisons.effects import importance_data, marginal, rates_data
from analysis.presentation import style
from analysis.presentation.rendering import percent, points
from analysis.presentation.style import COLOURS, DASHED, INK, PALE, styled
from analysis.results_folder import Results, candidates, ordered

MAX_LINES = 26  # of marginal effects


@styled
def importance(results: Results) -> Figure:
    """Draws the share of the variance of test accuracy that each axis explains, and the marginal effects of levels."""
    shares = importance_data(results)
    if shares.empty:
        return style.words("There are fewer than ten complete networks, too few to rank the axes.", results.trials)
    effects = _effects(results, [axis for axis in shares["axis"] if axis != "sparsity"])
    lines = max(len(shares), len(effects), 4)
    figure = Figure(figsize=(7.6, 1.5 + 0.2 * lines), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    places = np.arange(len(shares))
    significant = shares["p"].lt(0.05).to_numpy()
    left.barh(places, 100 * shares["share"], color=np.where(significant, COLOURS[0], PALE), height=0.7)
    left.set_yticks(places, [style.plain(axis) for axis in shares["axis"]], fontsize=8)
    left.set(xlabel="share of variance (%)", ylim=(lines - 0.5, -0.5), xlim=(0, max(1, 115 * shares["share"].max())))
    for place, share in zip(places, shares["share"], strict=True):
        left.text(100 * share, place, f" {percent(share)}", va="center", fontsize=7, color=INK)
    left.set_title("variance explained")
    _draw_effects(right, effects, lines)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    caption = (
        "Left: share of the variance of test accuracy (omega squared); sparsity is accounted for first, the other axes "
        "on its residuals; grey: not significant (F test, 5 %). Right: mean gain over all networks of the same "
        "sparsity, with Student's 95 % interval. Networks with different levels may differ in other axes too. Which "
        "axes the best trials have in common is another question, and a table answers it."
    )
    style.head(figure, "What accuracy varies with, and by how much", caption)
    return figure


def _effects(results: Results, names: list[str]) -> pd.DataFrame:
    """The marginal effects of the first axes in `names`, as many as fit in MAX_LINES."""
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity"])
    found: list[pd.DataFrame] = []
    for name in names:
        frame = marginal(rows, name)
        if sum(map(len, found)) + len(frame) > MAX_LINES:
            break
        numeric = pd.api.types.is_numeric_dtype(frame["level"])
        order = sorted(frame["level"]) if numeric else ordered(frame["level"])
        found.append(frame.set_index("level").loc[order].reset_index())
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["axis", "level", "effect"])


def _draw_effects(ax: Axes, rows: pd.DataFrame, lines: int) -> None:
    names = []
    for i, (axis, part) in enumerate(rows.groupby("axis", sort=False)):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "fmt": "o", "markersize": 4, "elinewidth": 1.2}
        reach = (100 * (part["high"] - part["effect"])).fillna(0)
        ax.errorbar(100 * part["effect"], part.index, xerr=reach, **look)
        names += [f"{style.plain(axis)}: {_level_name(level)}" for level in part["level"]]
    ax.axvline(0, **DASHED)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set(xlabel="gain of test accuracy (points)", ylim=(lines - 0.5, -0.5), title="marginal effects")


def _level_name(level: Any) -> str:
    return f"{level:.2g}" if isinstance(level, float) else style.plain(level)


@styled
def rates(results: Results) -> Figure:
    """Draws a heatmap of fine-tuning learning rate x sparsity: the gain over all networks of that sparsity."""
    rows = rates_data(results)
    if rows.empty:
        text = "There are too few networks or learning rates to compare rates by sparsity."
        return style.words(text, results.trials)
    gains, counts = (rows.pivot(index="finetune_lr", columns="sparsity", values=name) for name in ("gain", "n"))
    gains, counts = gains.sort_index(ascending=False), counts.sort_index(ascending=False)
    figure = Figure(figsize=(2.2 + 0.9 * gains.shape[1], 1.9 + 0.45 * len(gains)), layout="constrained")
    ax = figure.subplots()
    most = max(0.1, float(np.nanmax(np.abs(100 * gains.to_numpy()))))
    mesh = ax.pcolormesh(100 * gains.to_numpy(), cmap="PuOr", vmin=-most, vmax=most, edgecolor="white", linewidth=0.6)
    for (line, column), gain in np.ndenumerate(gains.to_numpy()):
        if not np.isnan(gain):
            colour = "white" if abs(100 * gain) > 0.7 * most else "black"
            text = f"{points(gain)}\nn = {counts.to_numpy()[line, column]:.0f}"
            ax.text(column + 0.5, line + 0.5, text, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(np.arange(gains.shape[1]) + 0.5, [percent(float(sparsity)) for sparsity in gains.columns])
    ax.set_yticks(np.arange(len(gains)) + 0.5, [f"{rate:.2g}" for rate in gains.index])
    ax.invert_yaxis()
    ax.set(xlabel="requested sparsity (%)", ylabel="learning rate", facecolor=PALE)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=ax)
    bar.set_label("gain of test accuracy (points)")
    bar.outline.set_visible(False)
    caption = (
        "Mean test accuracy of a cell's networks minus the mean of all networks at that sparsity. Bins are named by "
        "their medians. Other axes vary within a cell."
    )
    style.head(figure, "Gain by learning rate and sparsity", caption)
    return figure
