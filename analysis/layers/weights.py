"""Per-layer distributions: the baseline's gradient norms and saliencies, and weights before and after pruning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.layers.kept import LINE, LINES, name_layers
from analysis.presentation import style
from analysis.presentation.rendering import percent
from analysis.presentation.style import COLOURS, INK, PALE, styled
from analysis.results_folder import Results, histograms_of, scores_of
from analysis.statistics import pareto
from analysis.statistics.choice import quoted

MAX_LAYERS = 6  # with a histogram
NAMES = {"gradient_norm": "gradient norm, |∂L/∂w|", "saliency": "saliency, |w · ∂L/∂w|"}


@styled
def maps(results: Results) -> Figure:
    """Draws the distribution of gradient norms and saliencies of the weights in each layer of the baseline."""
    rows = scores_of(results)
    if rows.empty:
        return style.words("There is no layer_scores.csv with the baseline's gradients.", results.trials)
    names, kinds = list(rows["layer"].unique()), list(rows["criterion"].unique())
    inches = (2.4 + 2.7 * len(kinds), 1.6 + LINE * min(max(len(names), 9), LINES))
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for i, (ax, kind) in enumerate(zip(axes, kinds, strict=True)):
        part = rows[rows["criterion"] == kind].set_index("layer").reindex(names)
        places = np.arange(len(names)) + 0.5
        # A logarithmic axis has no zero: smaller values are drawn at the lowest positive quantile.
        quantiles = part[["q05", "q25", "q50", "q75", "q95"]]
        floor = quantiles[quantiles > 0].min().min()
        low, first, middle, third, high = quantiles.clip(lower=floor).to_numpy().T
        colour: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)]}
        ax.hlines(places, low, high, linewidth=0.8, **colour)
        ax.hlines(places, first, third, linewidth=3.2, **colour)
        ax.plot(middle, places, marker="o", markersize=2.6, linestyle="none", color="white", zorder=3)
        ax.plot(part["mean"].clip(lower=floor), places, marker="|", markersize=6, linestyle="none", color=INK, zorder=3)
        ax.set(xscale="log", title=style.plain(kind), xlabel=f"{NAMES.get(kind, style.plain(kind))} (log scale)")
        ax.xaxis.set_major_locator(LogLocator(numticks=6))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="y", visible=False)
        ax.tick_params(axis="y", length=0)
    axes[0].set_ylim(0, len(names))
    name_layers(axes[0], names)
    caption = (
        "Scores of the baseline's weights on calibration images, before pruning. Thin lines span the 5 % to 95 % "
        "quantiles, thick lines the 25 % to 75 % quantiles; white dots are medians, strokes means. A global ranking of "
        "the score prunes the layers furthest left first."
    )
    style.head(figure, "Scores of the baseline's weights by layer", caption)
    return figure


def histogram_data(results: Results) -> pd.DataFrame:
    """Weight histograms of one network: trial_id, HISTOGRAM; empty if no network on the front has any.

    The network is the one that the answer quotes or, if it has no histograms, the sparsest on the front that has. At
    most MAX_LAYERS layers, evenly spaced, including the first and the last.
    """
    best = pareto.front(results.trials, results.objectives).sort_values("sparsity", ascending=False)
    first = quoted(results)
    names = [*([first["trial_id"]] if first is not None else []), *best["trial_id"]]
    for name in names:
        if len(rows := histograms_of(results, name)):
            layers = rows["layer"].unique()
            shown = layers[np.linspace(0, len(layers) - 1, min(MAX_LAYERS, len(layers))).round().astype(int)]
            return rows[rows["layer"].isin(shown)].assign(trial_id=name)
    return pd.DataFrame(columns=["trial_id", "layer", "low", "high", "dense", "pruned"])


@styled
def histograms(results: Results) -> Figure:
    """Draws histograms of the non-zero weights of a few layers before and after pruning and fine-tuning."""
    rows = histogram_data(results)
    if rows.empty:
        return style.words("No network on the front has a histograms.csv.", results.trials)
    names = list(rows["layer"].unique())
    columns = min(3, len(names))
    down = -(-len(names) // columns)
    figure = Figure(figsize=(1.9 + 2.2 * columns, 1.5 + 1.6 * down), layout="constrained")
    axes = list(figure.subplots(down, columns, squeeze=False).flat)
    for ax, name in zip(axes, names, strict=False):
        bins = rows[rows["layer"] == name]
        edges = [*bins["low"], bins["high"].iloc[-1]]
        ax.stairs(bins["dense"].astype(float), edges, fill=True, color=PALE)
        ax.stairs(bins["pruned"].astype(float), edges, color=COLOURS[0], linewidth=1.1)
        left = bins["pruned"].sum() / max(1, bins["dense"].sum())
        ax.set_title(f"{name if len(name) <= 24 else f'…{name[-23:]}'}: {percent(left)} % left", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=4)
        ax.set_ylim(bottom=0)
    for place, ax in enumerate(axes):
        ax.set_visible(place < len(names))
        ax.set(
            xlabel="weight" if place + columns >= len(names) else "", ylabel="" if place % columns else "weights in bin"
        )
    entries = [style.key("baseline", marker="s", markersize=9, color=PALE)]
    entries += [style.key("pruned, non-zero", color=COLOURS[0], linestyle="-", linewidth=1.1)]
    style.legend(figure, {"network": entries})
    trial = results.trials.set_index("trial_id").loc[rows["trial_id"].iloc[0]]
    named = (trial[key] for key in ("criterion", "granularity", "scope", "schedule") if pd.notna(trial[key]))
    caption = (
        f"Trial {rows['trial_id'].iloc[0]} ({', '.join(map(style.plain, named))}) at {percent(trial['sparsity'])} % "
        "sparsity: the network that the answer quotes or, if it has no histograms, the sparsest on the front. Axes "
        "differ between layers."
    )
    style.head(figure, "Weights before and after pruning", caption)
    return figure
