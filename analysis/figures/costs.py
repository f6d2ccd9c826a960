"""What accuracy costs: test accuracy against MACs and measured latency; and the front's recipes side by side."""

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

COSTS = ("nonzero_macs", "macs", "latency_ms")
NAMES = {"nonzero_macs": "MACs of non-zero weights", "macs": "MACs that dense kernels execute"}
MOST = 60  # recipes drawn side by side


def costs_data(results: Results) -> pd.DataFrame:
    """A row for every complete network and cost that is known: trial_id, schedule, scope, granularity, cost, value,
    test_accuracy, front. cost is one of COSTS; `macs` only where channels were cut, else it is the dense network's.
    """
    rows = complete(results)
    rows = rows.assign(front=rows.index.isin(pareto.front(rows, results.objectives).index))
    known = [name for name in COSTS if name != "macs" or rows["macs"].nunique() > 1]
    same = ["trial_id", "schedule", "scope", "granularity", "test_accuracy", "front"]
    parts = [rows[same].assign(cost=name, value=rows[name].astype("float64")) for name in known]
    return pd.concat(parts).dropna(subset=["value", "test_accuracy"]).reset_index(drop=True)


@styled
def costs(results: Results) -> Figure:
    """Test accuracy against MACs and, where it was measured, against latency; the front's networks stand out."""
    rows = costs_data(results)
    if rows.empty:
        return style.words("There is no complete network whose costs are known.", results.trials)
    names = [name for name in COSTS if (rows["cost"] == name).any()]
    colours, markers = looks_of(results)
    figure = Figure(figsize=(2.0 + 2.6 * len(names), 3.5), layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        part = rows[rows["cost"] == name]
        label, unit, one = unit_of("macs" if name in NAMES else name)
        ax.plot(part["value"][~part["front"]] / one, 100 * part["test_accuracy"][~part["front"]], **QUIET)
        for (schedule, kind), group in part[part["front"]].groupby(["schedule", shape(results)]):
            look: dict[str, Any] = {"color": colours[schedule], "marker": markers[kind], "markeredgecolor": "black"}
            ax.plot(group["value"] / one, 100 * group["test_accuracy"], linestyle="none", markersize=6, **look)
        dense = draw_baseline(ax, results, "test_accuracy")
        ax.set_xlabel(f"{NAMES.get(name, label)}\n({unit})", fontsize=8)
        whole = _whole(results, "macs" if name in NAMES else name)
        if whole is not None:
            ax.axvline(float(whole) / one, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
        ax.set_xlim(left=0)
    panels[0].set_ylabel("test accuracy (%)")
    others = [style.key("not on the front", **QUIET)] * bool((~rows["front"]).any())
    vertical = [style.key("cost of the baseline", color=INK, linewidth=0.9, linestyle=(0, (1, 2)))]
    style.legend(figure, {**keys(results, rows[rows["front"]]), "network": [*others, *dense, *vertical]})
    said = "Left of the dotted line is cheaper than dense. Latency is measured for networks that were kept, at batch 1."
    style.head(figure, "What accuracy costs", said)
    return figure


def _whole(results: Results, name: str) -> float | None:
    """The baseline's cost; its latency as measured in turn with the networks, where that was done."""
    in_turn = results.trials["baseline_latency_ms"].median() if name == "latency_ms" else float("nan")
    return baseline(results, name) if pd.isna(in_turn) else float(in_turn)


def recipes_data(results: Results) -> pd.DataFrame:
    """The front's recipes: trial_id, every key that varies in the study, requested_sparsity, test_accuracy.

    By rising sparsity, at most MOST of them, evenly spaced; empty below two.
    """
    best = pareto.front(complete(results), results.objectives).sort_values(["sparsity", "trial_id"])
    varying = [key for key in RECIPE if key in axes(results.trials)[0]]
    chosen = best.iloc[np.linspace(0, len(best) - 1, min(MOST, len(best))).round().astype(int)]
    columns = ["trial_id", *varying, "requested_sparsity", "test_accuracy"]
    return chosen[columns].dropna(subset=["test_accuracy"]) if len(chosen) > 1 else chosen[columns][:0]


@styled
def recipes(results: Results) -> Figure:
    """Parallel coordinates: every recipe of the front is a line through its values, darker the sparser it is."""
    rows = recipes_data(results)
    if rows.empty:
        return style.words("There are no two recipes on the front to set side by side.", results.trials)
    names = [name for name in rows.columns if name != "trial_id"]
    scaled, ticks = zip(*(_axis(rows[name]) for name in names), strict=True)
    figure = Figure(figsize=(max(6.0, 1.0 + 1.15 * len(names)), 3.9), layout="constrained")
    ax = figure.subplots()
    shade = _axis(rows["requested_sparsity"])[0] if rows["requested_sparsity"].notna().any() else np.zeros(len(rows))
    random = np.random.default_rng(0)
    # Lines that go through the same names would lie on each other: each goes a little beside.
    aside = random.uniform(-0.012, 0.012, (len(rows), 1))
    for line, dark in zip(np.stack(scaled, axis=1) + aside, shade, strict=True):
        ax.plot(range(len(names)), line, color=style.shade(dark), linewidth=1.1, alpha=0.85)
    for place, labels in enumerate(ticks):
        _rule(ax, place, labels)
    ax.set_xticks(range(len(names)), [_heading(name) for name in names], fontsize=7.5)
    ax.set(xlim=(-0.25, len(names) - 0.4), ylim=(-0.06, 1.06))
    ax.yaxis.set_visible(False)
    ax.spines[:].set_visible(False)
    ax.grid(False)
    ax.tick_params(length=0)
    said = (
        "Every line is a recipe on the front, darker the higher its requested sparsity. What does not vary is left out."
    )
    style.head(figure, f"The recipes of {style.counted(len(rows))} on the front", said)
    return figure


def _axis(values: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places in [0, 1] for the values, logarithmic where they span more than a factor of 30; and labelled ticks."""
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


def _rule(ax: Axes, place: int, labels: list[tuple[float, str]]) -> None:
    ax.axvline(place, color="#b0b0b0", linewidth=0.8, zorder=0)
    for height, text in labels:
        box = {"facecolor": "white", "alpha": 0.8, "pad": 0.8, "linewidth": 0}
        ax.text(place + 0.04, height, text, fontsize=7, va="center", ha="left", bbox=box, in_layout=False)


def _heading(name: str) -> str:
    return rendering.label(name).replace(" (", "\n(").replace("finetune ", "fine-tuning\n")
