"""The figures of effects: importance and marginal effects of the axes, and fine-tuning rate against sparsity."""

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

MOST = 26  # lines of marginal effects


@styled
def importance(results: Results) -> Figure:
    """How much of the variance of test accuracy each axis accounts for, and what its levels gain at equal sparsity."""
    shares = importance_data(results)
    if shares.empty:
        return style.words("There are fewer than ten complete networks: too few to weigh the axes.", results.trials)
    effects = _effects(results, [axis for axis in shares["axis"] if axis != "sparsity"])
    lines = max(len(shares), len(effects), 4)
    figure = Figure(figsize=(7.6, 1.5 + 0.2 * lines), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    places = np.arange(len(shares))
    sure = shares["p"].lt(0.05).to_numpy()
    left.barh(places, 100 * shares["share"], color=np.where(sure, COLOURS[0], PALE), height=0.7)
    left.set_yticks(places, [style.plain(axis) for axis in shares["axis"]], fontsize=8)
    left.set(xlabel="share of variance (%)", ylim=(lines - 0.5, -0.5), xlim=(0, max(1, 115 * shares["share"].max())))
    for place, share in zip(places, shares["share"], strict=True):
        left.text(100 * share, place, f" {percent(share)}", va="center", fontsize=7, color=INK)
    left.set_title("importance")
    _draw_effects(right, effects, lines)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    said = (
        "Left: omega squared of test accuracy; sparsity first, the other axes for what it leaves; grey: no more than "
        "chance (F test, 5 %). Right: mean gain over all networks of the same sparsity, with Student's 95 % interval "
        "over networks. Networks of a level may differ from the others' in other axes too."
    )
    style.head(figure, "What the axes are worth", said)
    return figure


def _effects(results: Results, names: list[str]) -> pd.DataFrame:
    """The marginal effects of as many axes, the most important first, as there is room for."""
    rows = candidates(results.trials).dropna(subset=["test_accuracy", "sparsity"])
    found: list[pd.DataFrame] = []
    for name in names:
        frame = marginal(rows, name)
        if sum(map(len, found)) + len(frame) > MOST:
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
        names += [f"{style.plain(axis)}: {_name(level)}" for level in part["level"]]
    ax.axvline(0, **DASHED)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set(xlabel="gain of test accuracy (points)", ylim=(lines - 0.5, -0.5), title="marginal effects")


def _name(level: Any) -> str:
    return f"{level:.2g}" if isinstance(level, float) else style.plain(level)


@styled
def rates(results: Results) -> Figure:
    """Fine-tuning rate x sparsity: what a rate gains over all networks of that sparsity."""
    rows = rates_data(results)
    if rows.empty:
        said = "There are too few networks or rates to see how rate and sparsity go together."
        return style.words(said, results.trials)
    gains, counts = (rows.pivot(index="finetune_lr", columns="sparsity", values=name) for name in ("gain", "n"))
    gains, counts = gains.sort_index(ascending=False), counts.sort_index(ascending=False)
    figure = Figure(figsize=(2.2 + 0.9 * gains.shape[1], 1.9 + 0.45 * len(gains)), layout="constrained")
    ax = figure.subplots()
    most = max(0.1, float(np.nanmax(np.abs(100 * gains.to_numpy()))))
    mesh = ax.pcolormesh(100 * gains.to_numpy(), cmap="PuOr", vmin=-most, vmax=most, edgecolor="white", linewidth=0.6)
    for (line, column), gain in np.ndenumerate(gains.to_numpy()):
        if not np.isnan(gain):
            colour = "white" if abs(100 * gain) > 0.7 * most else "black"
            said = f"{points(gain)}\nn = {counts.to_numpy()[line, column]:.0f}"
            ax.text(column + 0.5, line + 0.5, said, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(np.arange(gains.shape[1]) + 0.5, [percent(float(asked)) for asked in gains.columns])
    ax.set_yticks(np.arange(len(gains)) + 0.5, [f"{rate:.2g}" for rate in gains.index])
    ax.invert_yaxis()
    ax.set(xlabel="requested sparsity (%)", ylabel="fine-tuning rate", facecolor=PALE)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(mesh, ax=ax)
    bar.set_label("gain of test accuracy (points)")
    bar.outline.set_visible(False)
    said = (
        "Mean over networks less the mean of all of that sparsity; ranges are named by their medians. Other axes "
        "differ within a cell."
    )
    style.head(figure, "Fine-tuning rate and sparsity", said)
    return figure
