"""Sensitivity scan: accuracy drop when a single layer is pruned, as a heatmap and as curves."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.layers.kept import LINE, LINES, name_layers
from analysis.presentation import style
from analysis.presentation.rendering import percent
from analysis.presentation.style import COLOURS, INK, MARKERS, PALE, styled
from analysis.results_folder import Results, scans, scores_of

PANELS = 4  # of the heatmap: kinds of scan (granularity and criterion) drawn
WIDE, FEW = 6, 12  # curves: 6 panels per row, but 4 for up to 12 layers
UNITS = {"weight": "weights", "channel": "channels"}


def sensitivity_data(results: Results) -> pd.DataFrame:
    """Accuracy drop for every kind of scan, layer and pruning ratio, one row each.

    Columns: criterion, granularity (weight: of a layer; channel: of a dependency group, named by its first layer),
    layer, place (of the layer in the network, from 0), ratio (requested share pruned from that layer or group), drop
    (of validation accuracy, a fraction; mean over runs), n. Sorted: weights before channels, layers in network order,
    ascending ratio.
    """
    rows = scans(results)
    rows = rows.assign(layer=rows["layer"].fillna(rows["group"]), ratio=rows["requested_sparsity"].round(6))
    rows = rows.dropna(subset=["ratio", "accuracy_drop"])
    rows = rows.assign(criterion=rows["criterion"].fillna("none"))
    order = _order(results, rows)
    grouped = rows.groupby(["granularity", "criterion", "layer", "ratio"])["accuracy_drop"]
    found = grouped.agg(drop="mean", n="size").reset_index()
    found = found.assign(kind=found["granularity"].ne("weight"), place=found["layer"].map(order))
    found = found.sort_values(["kind", "granularity", "criterion", "place", "ratio"], ignore_index=True)
    return found[["criterion", "granularity", "layer", "place", "ratio", "drop", "n"]]


def costliest(rows: pd.DataFrame) -> str:
    """A sentence naming the layers with the largest and smallest drop at the ratio nearest 0.5.

    rows: of `sensitivity_data`; only the first kind of scan is used. Ties are not mentioned.
    """
    part = next(iter(_kinds(rows).values()))
    half = part["ratio"].iloc[(part["ratio"] - 0.5).abs().argmin()]
    ranked = part[part["ratio"] == half].sort_values("drop", kind="stable")
    what = "channels" if part["granularity"].iloc[0] == "channel" else "weights"
    pruning = f"Pruning {percent(half)} % of a single layer's {what}"
    least, most = ranked.iloc[0], ranked.iloc[-1]
    if len(ranked) == 1:
        return f"{pruning} costs {percent(most['drop'])} points of validation accuracy in {most['layer']}."
    return (
        f"{pruning} costs most in {most['layer']} ({percent(most['drop'])} points of validation accuracy) and least in "
        f"{least['layer']} ({percent(least['drop'])})."
    )


def _order(results: Results, rows: pd.DataFrame) -> dict[str, int]:
    """Layer -> position in the network: as in layer_scores.csv, otherwise by trial, since scans run in layer order."""
    known = scores_of(results)["layer"].drop_duplicates().tolist()
    scanned = rows.sort_values("trial_id")["layer"].drop_duplicates().tolist()
    return {name: place for place, name in enumerate([*known, *(name for name in scanned if name not in known)])}


@styled
def heatmap(results: Results) -> Figure:
    """Draws a heatmap of layer x ratio: points of validation accuracy lost by pruning that share of that layer."""
    rows = sensitivity_data(results)
    if rows.empty:
        return style.words("No sensitivity scan was run in this study.", results.trials)
    kinds = _kinds(rows)
    tables = {kind: 100 * _table(part) for kind, part in list(kinds.items())[:PANELS]}
    most = max(1.0, 100 * rows["drop"].max())
    widths = [table.shape[1] for table in tables.values()]
    deepest = min(max(9, *(len(table) for table in tables.values())), LINES)
    inches = (max(5.2, 1.6 + sum(1.3 + 0.28 * width for width in widths)), 1.9 + LINE * deepest)
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False, width_ratios=widths)[0]
    for ax, (kind, table) in zip(axes, tables.items(), strict=True):
        mesh = _draw(ax, table, PowerNorm(0.5, 0, most))
        ax.set_title(_title(kind))
    ticks = [tick for tick in (0, 1, 5, 10, 20, 40, 60, 80) if tick <= most]
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=40, ticks=ticks)
    bar.set_label("drop of validation accuracy (points)")
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    style.head(figure, "Accuracy drop from pruning a single layer", _caption(rows, len(kinds)))
    return figure


def _draw(ax: Axes, table: pd.DataFrame, norm: PowerNorm) -> QuadMesh:
    """Draws `table` (layers x ratios, in points) with the first layer on top."""
    points = table.to_numpy()
    mesh = ax.pcolormesh(points, cmap="Oranges", norm=norm)
    if len(table) <= LINES:
        mesh.set(edgecolor="white", linewidth=0.4)
        _write_cells(ax, points, norm)
    name_layers(ax, list(table.index))
    ax.set_xticks(np.arange(table.shape[1]) + 0.5, [f"{100 * ratio:.3g}" for ratio in table.columns], fontsize=7)
    ax.set(xlabel="share of the layer pruned (%)", facecolor=PALE)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    return mesh


@styled
def lines(results: Results) -> Figure:
    """Draws a panel for every layer: drop of validation accuracy against the share of the layer that is pruned."""
    rows = sensitivity_data(results)
    if rows.empty:
        return style.words("No sensitivity scan was run in this study.", results.trials)
    names = list(rows.sort_values("place", kind="stable")["layer"].unique())
    kinds = _kinds(rows)
    looks = {kind: _look(place) for place, kind in enumerate(kinds)}
    columns = min(len(names), WIDE if len(names) > FEW else 4)
    down = ceil(len(names) / columns)
    figure, axes = style.panels(down, columns, (max(5.2, 1.7 + 1.25 * columns), 1.5 + 0.92 * down), sharey=True)
    for ax, name in zip(axes, names, strict=False):
        for kind, part in kinds.items():
            curve = part[part["layer"] == name]
            ax.plot(100 * curve["ratio"], 100 * curve["drop"].clip(lower=0), **looks[kind])
        ax.set_title(name if len(name) <= 22 else f"…{name[-21:]}", fontsize=6.5, pad=2)
        ax.tick_params(labelsize=6.5)
    _scale(axes[0], max(1.0, 100 * rows["drop"].max()))
    for place, ax in enumerate(axes):
        ax.set_visible(place < len(names))
        ax.tick_params(labelbottom=place + columns >= len(names), labelleft=place % columns == 0)
    figure.supylabel("drop of validation accuracy (points)", fontsize=9, color=INK)
    style.legend(figure, {"pruned": [style.key(_title(kind), **{**looks[kind], "linestyle": "-"}) for kind in kinds]})
    axes_caption = (
        "x axis: share of the layer or dependency group that is pruned (%). The y axis is linear up to 1 point, then "
        "logarithmic; gains are drawn as 0. "
    )
    style.head(figure, "Accuracy drop from pruning a single layer", axes_caption + _caption(rows, 0))
    return figure


def _kinds(rows: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Kind of scan (granularity, criterion) -> its rows, in their order."""
    pairs = zip(rows["granularity"], rows["criterion"], strict=True)
    return {
        (granularity, criterion): rows[(rows["granularity"] == granularity) & (rows["criterion"] == criterion)]
        for granularity, criterion in dict.fromkeys(pairs)
    }


def _title(kind: tuple[str, str]) -> str:
    return f"{UNITS.get(kind[0], kind[0])}, {style.plain(kind[1])}"


def _look(place: int) -> dict[str, Any]:
    marker, colour = MARKERS[place % len(MARKERS)], COLOURS[place % len(COLOURS)]
    return {"color": colour, "marker": marker, "markersize": 2.4, "linewidth": 1}


def _scale(ax: Axes, top: float) -> None:
    """Sets the scales: a symmetric log y axis that resolves both drops below a point and drops of tens of points."""
    ax.set_yscale("symlog", linthresh=1, linscale=0.6)
    ticks = [tick for tick in (0, 1, 10, 100) if tick <= 1.5 * top]
    ax.set(xlim=(0, 100), xticks=[0, 50, 100], ylim=(-0.1, 1.5 * top))
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """The drop (a fraction) as a table of layers, in order, by ratios."""
    return rows.pivot(index="layer", columns="ratio", values="drop").reindex(rows["layer"].drop_duplicates())


def _write_cells(ax: Axes, points: npt.NDArray[np.float64], norm: PowerNorm) -> None:
    small: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 5.5, "in_layout": False}
    for (line, column), drop in np.ndenumerate(points):
        if not np.isnan(drop):
            text = f"{drop:.0f}" if abs(drop) >= 9.95 else f"{drop + 0.0:.1f}".replace("-0.0", "0.0").replace("-", "−")
            ax.text(column + 0.5, line + 0.5, text, color="white" if norm(max(drop, 0)) > 0.6 else "black", **small)


def _caption(rows: pd.DataFrame, kinds: int) -> str:
    runs = int(rows["n"].max())
    omitted = f" Not shown: {kinds - PANELS} further kinds of scan." if kinds > PANELS else ""
    return (
        "Only one layer's weights, or one dependency group's channels, were pruned at a time, without fine-tuning; "
        f"{'one run each' if runs == 1 else f'means of up to {runs} runs'}.{omitted}"
    )
