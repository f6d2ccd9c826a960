"""Figure of measured against theoretical speedup: a function for the data, one for the drawing."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from analysis.presentation import style
from analysis.presentation.style import COLOURS, DASHED, EDGED, INK, MARKERS, STAR, styled
from analysis.results_folder import Results, dense_control, ordered
from analysis.statistics import pareto

DOTTED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (1, 2)), "zorder": 1}


def latency_data(results: Results) -> pd.DataFrame:
    """Measured speedups of the front's networks and of the dense controls, one row per network and batch size.

    Columns: trial_id, granularity ("dense" for a control), batch, theoretical_speedup (dense MACs / MACs of non-zero
    weights), speedup (dense latency / pruned latency). Sorted by batch and trial; unmeasured networks have no row.
    """
    control = dense_control(results.trials).assign(granularity="dense")
    rows = pd.concat([pareto.front(results.trials, results.objectives), control])
    rows = rows.assign(granularity=rows["granularity"].fillna("none"))
    columns = ["trial_id", "granularity", "batch", "theoretical_speedup", "speedup"]
    one = rows.assign(batch=1)[columns]
    large = rows.assign(batch=rows["large_batch"], speedup=rows["batch_speedup"])[columns]
    both = pd.concat([one, large]).replace(inf, nan).dropna()  # infinite with zero MACs left: cannot be drawn
    return both.astype({"batch": "int64"}).sort_values(["batch", "trial_id"], ignore_index=True)


@styled
def latency(results: Results) -> Figure:
    """Draws measured against theoretical speedup: panels for batch 1 and the large batch, shared log axes."""
    rows = latency_data(results)
    pruned = rows[rows["granularity"] != "dense"]
    if pruned.empty:
        return style.words("No network on the front has a measured latency.", results.trials)
    names = ordered(pruned["granularity"])
    colours, markers = style.assign(names, COLOURS), style.assign(names, MARKERS)
    looks = {name: {"color": colours[name], "marker": markers[name], **EDGED} for name in names} | {"dense": STAR}
    batches = sorted(rows["batch"].unique())
    figure, axes = style.panels(1, len(batches), (2.2 + 2.7 * len(batches), 3.7), sharey=True)
    for ax, batch in zip(axes, batches, strict=True):
        for name, group in rows[rows["batch"] == batch].groupby("granularity"):
            ax.plot(group["theoretical_speedup"], group["speedup"], **looks[name])
        _draw_lines(ax, rows)
        ax.set(title=f"batch {batch}", xlabel="theoretical speedup (×)")
    axes[0].set_ylabel("measured speedup (×)")
    lines = [style.key("measured = theoretical", **DASHED), style.key("as fast as dense", **DOTTED)]
    dense = [style.key("dense control", **STAR)] * bool((rows["granularity"] == "dense").any())
    kinds = [style.key(style.plain(name), **looks[name]) for name in names]
    style.legend(figure, {"granularity": kinds, "network": dense, "line": lines})
    number = pruned["trial_id"].nunique()
    style.head(figure, f"Measured speedup: {style.counted(number)} on the front", _caption(results, number))
    return figure


def zeros(results: Results) -> str:
    """A note that masked weights save no time, if networks on the front have any; otherwise empty."""
    best = pareto.front(results.trials, results.objectives)
    masked = int((best["granularity"].notna() & best["granularity"].ne("channel")).sum())
    if not masked:
        return ""
    return (
        f"On the front {masked} of {style.counted(len(best))} {'has' if masked == 1 else 'have'} single weights "
        "masked: dense kernels multiply by these zeros too, so they save no time; only removed channels do."
    )


def _caption(results: Results, number: int) -> str:
    unmeasured = len(pareto.front(results.trials, results.objectives)) - number
    sentences = [
        "Theoretical speedup: the dense network's MACs divided by the MACs of the remaining non-zero weights.",
        zeros(results),
        "The dense control's speedup is measurement noise." if len(dense_control(results.trials)) else "",
        f"Not measured: {style.counted(unmeasured)}." if unmeasured else "",
    ]
    return " ".join(filter(None, sentences))


def _draw_lines(ax: Axes, rows: pd.DataFrame) -> None:
    """Sets log scales that include all `rows` and a speedup of 2; draws lines of theoretical and of no speedup."""
    (left, right), (low, high) = (
        (min(0.8, rows[name].min() / 1.2), max(2.4, 1.2 * rows[name].max()))
        for name in ("theoretical_speedup", "speedup")
    )
    ax.plot([left, right], [left, right], **DASHED)
    ax.axhline(1, **DOTTED)
    ax.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low, high))
    for axis, span in ((ax.xaxis, right / left), (ax.yaxis, high / low)):
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if span < 8 else (1, 2, 5) if span < 200 else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
