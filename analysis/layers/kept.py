"""The figure of layers: what networks keep of every one. A function for what is drawn, one to draw it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from analysis.presentation import rendering, style
from analysis.presentation.looks import MOST, counted, selected
from analysis.presentation.style import PALE, styled
from analysis.results_folder import Results, layers_of

FEW, LINES = 9, 60  # layers from which on the figure grows with them, and up to which each has a line of text
COLUMN, LINE = 0.36, 0.16  # inches of a cell
TITLES = {"weights_left": "weights", "channels_left": "channels"}
TICKS = (0, 1, 5, 10, 25, 50, 100)


def layers_data(results: Results) -> pd.DataFrame:
    """What the selected networks keep of every layer: a row for each network, by rising sparsity, and layer, in order.

    Columns: trial_id, granularity, sparsity, layer; weights_left, the share of the dense network's weights there that
    is left and not zero, and channels_left, that of its output channels: both in [0, 1]. Networks without a layers.csv
    have no rows.
    """
    best = results.trials[results.trials["trial_id"].isin(selected(results)["trial_id"])]
    best = best.sort_values(["sparsity", "trial_id"])
    rows = best[["trial_id", "granularity", "sparsity"]].merge(layers_of(results, best), on="trial_id")
    counts = rows[["nonzero_weights", "dense_weights", "out_channels", "dense_out_channels"]].astype("float64")
    return rows[["trial_id", "granularity", "sparsity", "layer"]].assign(
        weights_left=counts["nonzero_weights"] / counts["dense_weights"],
        channels_left=counts["out_channels"] / counts["dense_out_channels"],
    )


def spaced(rows: pd.DataFrame, most: int = MOST) -> pd.DataFrame:
    """Of the networks in `rows` at most `most`, evenly spaced in their order, the first and the last among them."""
    names = rows["trial_id"].unique()
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return rows[rows["trial_id"].isin(names[places])]


@styled
def layers(results: Results) -> Figure:
    """The share of weights, and for networks with channels cut that of channels, that is left of every layer."""
    everything = layers_data(results)
    if everything.empty:
        return style.words("No network that could be drawn has its layers on file (layers.csv).", results.trials)
    rows = spaced(everything)
    cut = rows[rows.groupby("trial_id")["channels_left"].transform("min") < 1]
    parts = {"weights_left": rows, "channels_left": cut} if len(cut) else {"weights_left": rows}
    widths = [max(2, part["trial_id"].nunique()) for part in parts.values()]
    names = list(rows["layer"].unique())
    inches = (max(5.2, 2.8 + COLUMN * sum(widths)), 1.8 + LINE * min(max(len(names), FEW), LINES))
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False, width_ratios=widths)[0]
    for ax, (share, part) in zip(axes, parts.items(), strict=True):
        mesh = _heatmap(ax, part, share, names)
    name_layers(axes[0], names)
    bar = figure.colorbar(mesh, ax=axes, ticks=TICKS, format="%g", pad=0.02, aspect=8 * inches[1])
    bar.set_label("left (%)")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    title = f"Left of every layer: {counted(results, rows['trial_id'].nunique())}"
    style.head(figure, title, _caption(results, everything, rows))
    return figure


def _heatmap(ax: Axes, rows: pd.DataFrame, share: str, names: list[str]) -> QuadMesh:
    """A cell for every layer, the first on top, and network of `rows`: the percentage in column `share`."""
    trials = rows.drop_duplicates("trial_id")
    table = rows.pivot(index="layer", columns="trial_id", values=share)
    percents = 100 * table.reindex(index=names, columns=trials["trial_id"]).to_numpy()
    # A root's scale, since 2 and 8 % left are further apart than 92 and 98 %; the more is left, the more ink.
    mesh = ax.pcolormesh(percents, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    if len(names) <= LINES:
        mesh.set(edgecolor="white", linewidth=0.4)
        _write(ax, percents)
    ax.set_xticks(np.arange(len(trials)) + 0.5, [_column(trial) for _, trial in trials.iterrows()], fontsize=7)
    ax.set(title=TITLES[share], xlabel="sparsity (%)", facecolor=PALE)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return mesh


def _write(ax: Axes, percents: npt.NDArray[np.float64]) -> None:
    """The percentages in their cells."""
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5, "in_layout": False}  # a layout is slow
    for (line, column), percent in np.ndenumerate(percents):
        ax.text(column + 0.5, line + 0.5, _short(percent), color="white" if percent > 50 else "black", **middle)


def name_layers(ax: Axes, names: list[str]) -> None:
    """The layers' names beside the rows, as many as there is room for; the first on top."""
    every = -(-len(names) // LINES)
    shown = [name if len(name) <= 32 else f"…{name[-31:]}" for name in names[::every]]
    ax.set_yticks(np.arange(0, len(names), every) + 0.5, shown, fontsize=7)
    ax.invert_yaxis()


def _column(trial: pd.Series) -> str:
    granularity = "?" if pd.isna(trial["granularity"]) else trial["granularity"][0]
    return f"{rendering.text('sparsity', trial['sparsity'])}\n{granularity}"


def _short(percent: float) -> str:
    return "" if np.isnan(percent) else f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _caption(results: Results, everything: pd.DataFrame, rows: pd.DataFrame) -> str:
    drawn, known = rows["trial_id"].nunique(), everything["trial_id"].nunique()
    unknown = len(selected(results)) - known
    several = sorted(rows["granularity"].dropna().unique(), reverse=True)
    letters = ", ".join(f"{granularity[0]}:\u00a0{granularity}" for granularity in several)
    told = f" {letters}." if letters else ""
    some = f" Drawn are {drawn} of {known}, evenly spaced in the order of sparsity." if drawn < known else ""
    lost = f" Without a layers.csv: {style.counted(unknown)}." if unknown else ""
    return (
        "Each column is a network, each row a layer: the share (%) of its weights that is left and not zero"
        f"{', and of its output channels' if rows['channels_left'].min() < 1 else ''}.{told}{some}{lost}"
    )
