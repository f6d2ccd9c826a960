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
from analysis.results_folder import Results, candidates, histograms_of, scores_of
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
    """Weight histograms of a network of each granularity: trial_id, HISTOGRAM; empty if no network has any.

    Of the networks of a granularity that have histograms: the one that the answer quotes, or else the sparsest on the
    front, or else the most accurate. At most MAX_LAYERS layers in all, those that lost the largest shares.
    """
    best = pareto.front(results.trials, results.objectives).sort_values("sparsity", ascending=False)
    others = candidates(results.trials).sort_values("accuracy", ascending=False)
    named = best if (first := quoted(results)) is None else best[best["trial_id"] == first["trial_id"]]
    ordered = pd.concat([named, best, others]).drop_duplicates("trial_id")
    found: dict[Any, pd.DataFrame] = {}
    for name, kind in zip(ordered["trial_id"], ordered["granularity"].fillna(""), strict=True):
        if kind not in found and len(rows := histograms_of(results, name)):
            found[kind] = rows.assign(trial_id=name)
    shown = []
    for rows in found.values():
        weights = rows.groupby("layer", sort=False)[["pruned", "dense"]].sum()
        most = (weights["pruned"] / weights["dense"]).nsmallest(max(2, MAX_LAYERS // len(found))).index
        shown.append(rows[rows["layer"].isin(most)])
    return pd.concat(shown) if shown else pd.DataFrame(columns=["trial_id", "layer", "low", "high", "dense", "pruned"])


@styled
def histograms(results: Results) -> Figure:
    """Draws histograms of the non-zero weights of a few layers before and after pruning and fine-tuning."""
    rows = histogram_data(results)
    if rows.empty:
        return style.words("No network has a histograms.csv.", results.trials)
    panels = [
        (str(trial), str(layer), bins) for (trial, layer), bins in rows.groupby(["trial_id", "layer"], sort=False)
    ]
    networks = rows["trial_id"].unique()
    columns = min(3, len(panels) // len(networks))
    down = -(-len(panels) // columns)
    figure = Figure(figsize=(1.9 + 2.2 * columns, 1.5 + 1.6 * down), layout="constrained")
    axes = list(figure.subplots(down, columns, squeeze=False).flat)
    for place, (ax, (trial_id, name, bins)) in enumerate(zip(axes, panels, strict=False)):
        edges = [*bins["low"], bins["high"].iloc[-1]]
        ax.stairs(bins["dense"].astype(float), edges, fill=True, color=PALE)
        ax.stairs(bins["pruned"].astype(float), edges, color=COLOURS[0], linewidth=1.1)
        left = bins["pruned"].sum() / max(1, bins["dense"].sum())
        ax.set_title(f"{name if len(name) <= 24 else f'…{name[-23:]}'}: {percent(left)} % left", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.locator_params(nbins=4)
        ax.set_ylim(bottom=0)
        counted = f"{trial_id}, weights in bin" if len(networks) > 1 else "weights in bin"
        ax.set(xlabel="weight" if place + columns >= len(panels) else "", ylabel="" if place % columns else counted)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    entries = [style.key("baseline", marker="s", markersize=9, color=PALE)]
    entries += [style.key("pruned, non-zero", color=COLOURS[0], linestyle="-", linewidth=1.1)]
    style.legend(figure, {"network": entries})
    told = []
    for _, trial in results.trials.set_index("trial_id").loc[networks].iterrows():
        named = (trial[key] for key in ("criterion", "granularity", "scope", "schedule") if pd.notna(trial[key]))
        told.append(f"{trial.name} ({', '.join(map(style.plain, named))}) at {percent(trial['sparsity'])} % sparsity")
    caption = (
        f"Trial {' and trial '.join(told)}: of a granularity's saved networks the one that the answer quotes, or "
        "the sparsest on the front, or the most accurate. The layers that lost the largest shares; axes differ."
    )
    style.head(figure, "Weights before and after pruning", caption)
    return figure
