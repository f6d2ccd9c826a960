"""Figures of test accuracy against MACs and latency, and parallel coordinates of the front's recipes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.presentation import rendering, style
from analysis.presentation.looks import baseline, complete, draw_baseline, keys, looks_of, shape
from analysis.presentation.style import INK, QUIET, styled
from analysis.results_folder import RECIPE, Results, axes, ordered
from analysis.statistics import pareto
from analysis.statistics.objectives import unit_of

COST_COLUMNS = ("nonzero_macs", "macs", "latency_ms")
NAMES = {"nonzero_macs": "MACs of non-zero weights", "macs": "MACs executed by dense kernels"}
MAX_RECIPES = 60  # drawn in one figure


def costs_data(results: Results) -> pd.DataFrame:
    """One row per complete network and known cost.

    Columns: trial_id, schedule, scope, granularity, cost (one of COST_COLUMNS), value, test_accuracy, front. `macs` is
    included only if it varies, since without removed channels it is that of the dense network.
    """
    rows = complete(results)
    rows = rows.assign(front=rows.index.isin(pareto.front(rows, results.objectives).index))
    known = [name for name in COST_COLUMNS if name != "macs" or rows["macs"].nunique() > 1]
    same = ["trial_id", "schedule", "scope", "granularity", "test_accuracy", "front"]
    parts = [rows[same].assign(cost=name, value=rows[name].astype("float64")) for name in known]
    return pd.concat(parts).dropna(subset=["value", "test_accuracy"]).reset_index(drop=True)


@styled
def costs(results: Results) -> Figure:
    """Draws test accuracy against MACs and, if measured, latency; the front's networks are highlighted."""
    rows = costs_data(results)
    if rows.empty:
        return style.words("There is no complete network with known MACs or latency.", results.trials)
    names = [name for name in COST_COLUMNS if (rows["cost"] == name).any()]
    colours, markers = looks_of(results)
    figure = Figure(figsize=(2.0 + 2.6 * len(names), 3.5), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        part = rows[rows["cost"] == name]
        label, unit, scale = unit_of("macs" if name in NAMES else name)
        ax.plot(part["value"][~part["front"]] / scale, 100 * part["test_accuracy"][~part["front"]], **QUIET)
        for (schedule, kind), group in part[part["front"]].groupby(["schedule", shape(results)]):
            look: dict[str, Any] = {"color": colours[schedule], "marker": markers[kind], "markeredgecolor": "black"}
            ax.plot(group["value"] / scale, 100 * group["test_accuracy"], linestyle="none", markersize=6, **look)
        dense = draw_baseline(ax, results, "test_accuracy")
        ax.set_xlabel(f"{NAMES.get(name, label)}\n({unit})", fontsize=8)
        baseline_cost = _baseline_cost(results, "macs" if name in NAMES else name)
        if baseline_cost is not None:
            ax.axvline(float(baseline_cost) / scale, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set_xlim(left=0)
    panels[0].set_ylabel("test accuracy (%)")
    others = [style.key("not on the front", **QUIET)] * bool((~rows["front"]).any())
    vertical = [style.key("cost of the baseline", color=INK, linewidth=0.9, linestyle=(0, (1, 2)))]
    style.legend(figure, {**keys(results, rows[rows["front"]]), "network": [*others, *dense, *vertical]})
    caption = (
        "Networks left of the dotted line cost less than the baseline. Latency is measured at batch 1, for saved "
        "networks only."
    )
    style.head(figure, "Test accuracy against cost", caption)
    return figure


def _baseline_cost(results: Results, name: str) -> float | None:
    """The baseline's cost; for latency, preferably as measured alternating with the pruned networks."""
    alternating = results.trials["baseline_latency_ms"].median() if name == "latency_ms" else float("nan")
    return baseline(results, name) if pd.isna(alternating) else float(alternating)


def recipes_data(results: Results) -> pd.DataFrame:
    """The front's recipes: trial_id, every key that varies in the study, requested_sparsity, test_accuracy.

    By ascending sparsity; at most MAX_RECIPES, evenly spaced; empty below two.
    """
    best = pareto.front(complete(results), results.objectives).sort_values(["sparsity", "trial_id"])
    varying = [key for key in RECIPE if key in axes(results.trials)[0]]
    chosen = best.iloc[np.linspace(0, len(best) - 1, min(MAX_RECIPES, len(best))).round().astype(int)]
    columns = ["trial_id", *varying, "requested_sparsity", "test_accuracy"]
    return chosen[columns].dropna(subset=["test_accuracy"]) if len(chosen) > 1 else chosen[columns][:0]


@styled
def recipes(results: Results) -> Figure:
    """Draws parallel coordinates: each recipe on the front is a line through its values, darker if sparser."""
    rows = recipes_data(results)
    if rows.empty:
        return style.words("There are no two recipes on the front to compare.", results.trials)
    names = [name for name in rows.columns if name != "trial_id"]
    scaled, ticks = zip(*(_positions(rows[name]) for name in names), strict=True)
    figure = Figure(figsize=(max(6.0, 1.0 + 1.15 * len(names)), 3.9), layout="constrained")
    ax = figure.subplots()
    shade = (
        _positions(rows["requested_sparsity"])[0] if rows["requested_sparsity"].notna().any() else np.zeros(len(rows))
    )
    random = np.random.default_rng(0)
    # Lines through the same levels would overlap, so each is shifted a little.
    jitter = random.uniform(-0.012, 0.012, (len(rows), 1))
    for line, darkness in zip(np.stack(scaled, axis=1) + jitter, shade, strict=True):
        ax.plot(range(len(names)), line, color=style.shade(darkness), linewidth=1.1, alpha=0.85)
    for place, labels in enumerate(ticks):
        _draw_axis(ax, place, labels)
    ax.set_xticks(range(len(names)), [_axis_title(name) for name in names], fontsize=7.5)
    ax.set(xlim=(-0.25, len(names) - 0.4), ylim=(-0.06, 1.06))
    ax.yaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    ax.tick_params(length=0)
    caption = (
        "Each line is a recipe on the front, darker for higher requested sparsity. Keys that do not vary are left out."
    )
    style.head(figure, f"Recipes of {style.counted(len(rows))} on the front", caption)
    return figure


def _positions(values: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Positions in [0, 1] for the values, logarithmic if they span more than a factor of 30; and labelled ticks."""
    name = str(values.name)
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        words = values.map(lambda value: rendering.text(name, value))
        levels = ordered(words)
        places = {level: (i + 0.5) / len(levels) for i, level in enumerate(levels)}
        return words.map(places).to_numpy(dtype=float), [(place, style.plain(level)) for level, place in places.items()]
    numbers = values.astype("float64").fillna(values.astype("float64").min())
    wide = numbers.min() > 0 and numbers.max() / numbers.min() > 30
    scale = np.log(numbers) if wide else numbers
    low, spread = scale.min(), float(np.ptp(scale)) or 1.0
    ends = np.unique([numbers.min(), numbers.max()])
    ticks = [(float(((np.log(end) if wide else end) - low) / spread), rendering.text(name, float(end))) for end in ends]
    return np.asarray((scale - low) / spread, dtype=float), ticks


def _draw_axis(ax: Axes, place: int, labels: list[tuple[float, str]]) -> None:
    ax.axvline(place, color="#b0b0b0", linewidth=0.8, zorder=0)
    for height, text in labels:
        box = {"facecolor": "white", "alpha": 0.8, "pad": 0.8, "linewidth": 0}
        ax.text(place + 0.04, height, text, fontsize=7, va="center", ha="left", bbox=box, in_layout=False)


def _axis_title(name: str) -> str:
    return rendering.label(name).replace(" (", "\n(").replace("finetune ", "fine-tuning\n")
