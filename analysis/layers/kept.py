"""Figure of the share of weights and channels left in each layer: a function for the data, one for the drawing."""

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
from analysis.presentation.looks import MAX_NETWORKS, counted, selected
from analysis.presentation.style import PALE, styled
from analysis.results_folder import Results, layers_of

MIN_LINES, LINES = 9, 60  # the figure's height is that of at least 9 layers; up to 60 layers are each labelled
COLUMN, LINE = 0.36, 0.16  # width and height of a cell in inches
TITLES = {"weights_left": "weights", "channels_left": "channels"}
TICKS = (0, 1, 5, 10, 25, 50, 100)


def layers_data(results: Results) -> pd.DataFrame:
    """Share of weights and channels left: one row per selected network, by ascending sparsity, and layer, in order.

    Columns: trial_id, granularity, sparsity, layer; weights_left (non-zero weights / dense weights of the layer),
    channels_left (output channels / dense output channels), both in [0, 1]. Networks without a layers.csv have no rows.
    """
    best = results.trials[results.trials["trial_id"].isin(selected(results)["trial_id"])]
    best = best.sort_values(["sparsity", "trial_id"])
    rows = best[["trial_id", "granularity", "sparsity"]].merge(layers_of(results, best), on="trial_id")
    counts = rows[["nonzero_weights", "dense_weights", "out_channels", "dense_out_channels"]].astype("float64")
    return rows[["trial_id", "granularity", "sparsity", "layer"]].assign(
        weights_left=counts["nonzero_weights"] / counts["dense_weights"],
        channels_left=counts["out_channels"] / counts["dense_out_channels"],
    )


def spaced(rows: pd.DataFrame, most: int = MAX_NETWORKS) -> pd.DataFrame:
    """The rows of at most `most` networks, evenly spaced in their order, including the first and the last."""
    names = rows["trial_id"].unique()
    places = np.linspace(0, len(names) - 1, min(most, len(names))).round().astype(int)
    return rows[rows["trial_id"].isin(names[places])]


@styled
def layers(results: Results) -> Figure:
    """Draws heatmaps of the share of weights left in every layer, and of channels for networks with removed ones."""
    everything = layers_data(results)
    if everything.empty:
        return style.words("No selected network has a layers.csv.", results.trials)
    rows = spaced(everything)
    cut = rows[rows.groupby("trial_id")["channels_left"].transform("min") < 1]
    parts = {"weights_left": rows, "channels_left": cut} if len(cut) else {"weights_left": rows}
    widths = [max(2, part["trial_id"].nunique()) for part in parts.values()]
    names = list(rows["layer"].unique())
    inches = (max(5.2, 2.8 + COLUMN * sum(widths)), 1.8 + LINE * min(max(len(names), MIN_LINES), LINES))
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False, width_ratios=widths)[0]
    for ax, (share, part) in zip(axes, parts.items(), strict=True):
        mesh = _heatmap(ax, part, share, names)
    name_layers(axes[0], names)
    bar = figure.colorbar(mesh, ax=axes, ticks=TICKS, format="%g", pad=0.02, aspect=8 * inches[1])
    bar.set_label("left (%)")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    title = f"Share left in each layer: {counted(results, rows['trial_id'].nunique())}"
    style.head(figure, title, _caption(results, everything, rows))
    return figure


def _heatmap(ax: Axes, rows: pd.DataFrame, share: str, names: list[str]) -> QuadMesh:
    """Draws the column `share` in percent: a line for every layer, the first on top, a column for every network."""
    trials = rows.drop_duplicates("trial_id")
    table = rows.pivot(index="layer", columns="trial_id", values=share)
    percents = 100 * table.reindex(index=names, columns=trials["trial_id"]).to_numpy()
    # A square-root scale separates small shares: 2 and 8 % differ more than 92 and 98 %. Darker means more is left.
    mesh = ax.pcolormesh(percents, cmap="Blues", norm=PowerNorm(0.5, 0, 100))
    if len(names) <= LINES:
        mesh.set(edgecolor="white", linewidth=0.4)
        _write_cells(ax, percents)
    ax.set_xticks(np.arange(len(trials)) + 0.5, [_column_label(trial) for _, trial in trials.iterrows()], fontsize=7)
    ax.set(title=TITLES[share], xlabel="sparsity (%)", facecolor=PALE)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return mesh


def _write_cells(ax: Axes, percents: npt.NDArray[np.float64]) -> None:
    """Writes the percentages into their cells."""
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5, "in_layout": False}  # layout is slow
    for (line, column), percent in np.ndenumerate(percents):
        ax.text(column + 0.5, line + 0.5, _cell_text(percent), color="white" if percent > 50 else "black", **look)


def name_layers(ax: Axes, names: list[str]) -> None:
    """Labels the lines with layer names, as many as fit, the first on top."""
    every = -(-len(names) // LINES)
    shown = [name if len(name) <= 32 else f"…{name[-31:]}" for name in names[::every]]
    ax.set_yticks(np.arange(0, len(names), every) + 0.5, shown, fontsize=7)
    ax.invert_yaxis()


def _column_label(trial: pd.Series) -> str:
    granularity = "?" if pd.isna(trial["granularity"]) else trial["granularity"][0]
    return f"{rendering.text('sparsity', trial['sparsity'])}\n{granularity}"


def _cell_text(percent: float) -> str:
    return "" if np.isnan(percent) else f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"


def _caption(results: Results, everything: pd.DataFrame, rows: pd.DataFrame) -> str:
    drawn, known = rows["trial_id"].nunique(), everything["trial_id"].nunique()
    unknown = len(selected(results)) - known
    several = sorted(rows["granularity"].dropna().unique(), reverse=True)
    letters = ", ".join(f"{granularity[0]}:\u00a0{granularity}" for granularity in several)
    abbreviations = f" {letters}." if letters else ""
    subset = f" Shown: {drawn} of {known}, evenly spaced by rank of sparsity." if drawn < known else ""
    missing = f" Without a layers.csv: {style.counted(unknown)}." if unknown else ""
    return (
        "Each column is a network, each row a layer: the share (%) of its weights that are left and non-zero"
        f"{', and of its output channels' if rows['channels_left'].min() < 1 else ''}.{abbreviations}{subset}{missing}"
    )
