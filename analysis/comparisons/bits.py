"""Networks in 8 bits beside the same in 32: accuracy against bytes and latency; what each way leaves at one size."""

from __future__ import annotations

from math import inf
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.presentation import style
from analysis.presentation.looks import baseline, draw_baseline
from analysis.presentation.rendering import Table
from analysis.presentation.style import COLOURS, EDGED, INK, MARKERS, styled
from analysis.results_folder import Results, candidates, ordered
from analysis.statistics.objectives import unit_of

COSTS = ("size_bytes", "latency_ms")
COLOUR = {32: COLOURS[0], 8: COLOURS[1]}
# Ranges of size, as shares of the dense network's: from which share on, and what the range is called.
RANGES = {0: "below 1/32", 1 / 32: "1/32 to 1/16", 1 / 16: "1/16 to 1/8", 1 / 8: "1/8 to 1/4", 1 / 4: "1/4 to 1/2"}
RANGES |= {1 / 2: "1/2 and above"}
WAYS = ("neither", "pruned", "quantized", "pruned and quantized")
LEAST_SPARSITY = 1e-3  # of a network that counts as pruned


def quantization_data(results: Results) -> pd.DataFrame:
    """Test accuracy and costs of every complete network, in 32 bits and, if its recipe quantizes, in 8.

    Columns: trial_id, granularity, cost (one of COSTS), bits, value, test_accuracy. A quantized network has two rows
    for each known cost. Latencies are scaled as if the dense network, which was timed in turn with each, had taken its
    median every time: the machine's own speed changes while many networks are measured. Empty if no recipe quantizes.
    """
    rows = candidates(results.trials)
    rows = rows.assign(granularity=rows["granularity"].fillna("none"))
    dense = rows["baseline_latency_ms"].astype("float64")
    scale = (dense.median() / dense).fillna(1.0)
    rows = rows.assign(**{name: rows[name] * scale for name in ("latency_ms", "float_latency_ms")})
    quantized = rows[rows["bits"] == 8]
    parts = []
    for cost in COSTS if len(quantized) else ():
        for bits, part, prefix in ((32, rows[rows["bits"] != 8], ""), (32, quantized, "float_"), (8, quantized, "")):
            values = {"value": part[prefix + cost].astype("float64"), "test_accuracy": part[f"{prefix}test_accuracy"]}
            parts.append(part[["trial_id", "granularity"]].assign(cost=cost, bits=bits, **values))
    if not parts:
        return pd.DataFrame(columns=["trial_id", "granularity", "cost", "bits", "value", "test_accuracy"])
    return pd.concat(parts).dropna(subset=["value", "test_accuracy"]).reset_index(drop=True)


@styled
def quantization(results: Results) -> Figure:
    """Draws test accuracy against bytes and, if measured, latency; a line joins a network in 32 bits and in 8."""
    rows = quantization_data(results)
    if rows.empty:
        return style.words("No recipe quantizes.", results.trials)
    costs = [cost for cost in COSTS if (rows["cost"] == cost).any()]
    markers = style.assign(rows["granularity"], MARKERS)
    figure = Figure(figsize=(2.2 + 3.0 * len(costs), 3.6), layout="constrained")
    for ax, cost in zip(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0], costs, strict=True):
        part = rows[rows["cost"] == cost]
        label, unit, scale = unit_of(cost)
        for _, both in part.groupby("trial_id"):
            ax.plot(both["value"] / scale, 100 * both["test_accuracy"], color=INK, linewidth=0.5, zorder=1)
        for bits, colour in COLOUR.items():
            for kind, group in part[part["bits"] == bits].groupby("granularity"):
                look: dict[str, Any] = {"color": colour, "marker": markers[kind], **EDGED}
                ax.plot(group["value"] / scale, 100 * group["test_accuracy"], **look)
        dense = draw_baseline(ax, results, "test_accuracy")
        ax.set(xlabel=f"{label} ({unit})")
        ax.set_xlim(left=0)
    figure.axes[0].set_ylabel("test accuracy (%)")
    series = [style.key(f"{bits} bits", marker="o", color=colour) for bits, colour in COLOUR.items()]
    kinds = [style.key(style.plain(name), marker=markers[name], color=INK) for name in ordered(markers)]
    style.legend(figure, {"network": [*series, *dense], "granularity": kinds})
    caption = (
        "A line joins the same network before and after quantization. Bytes are those of the file, in which masked "
        "weights take as much room as others. Latency: batch 1, one thread, in one runtime, for saved networks; "
        "the ratio to the dense network's, timed in turn with each, times the median of the dense network's."
    )
    style.head(figure, f"{style.counted(rows['trial_id'].nunique())} in 32 and 8 bits", caption)
    return figure


def ways(results: Results) -> Table:
    """What pruning, quantization, both, and each with a teacher leave at equal size. One row per size and way.

    Columns: size_range (share of the dense network's bytes; networks by their bytes with zeros left out), way,
    networks (count), mean (test accuracy over these); trial_id, sparse_size_bytes and best_test_accuracy of the best on
    validation. Empty if no recipe quantizes or distils, or the baseline's size is not known.
    """
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparse_size_bytes"])
    dense, taught = baseline(results, "size_bytes"), rows["distil"].fillna(0) > 0
    quantized = rows["bits"] == 8
    columns = ["size_range", "way", "networks", "mean", "trial_id", "sparse_size_bytes", "best_test_accuracy"]
    if not dense or not (taught.any() or quantized.any()):
        return Table(pd.DataFrame(columns=columns), "")
    number = (rows["sparsity"] >= LEAST_SPARSITY).astype(int) + 2 * quantized.astype(int)
    way = number.map(dict(enumerate(WAYS))) + taught.map({True: ", with teacher", False: ""})
    order = [one + teacher for one in WAYS for teacher in ("", ", with teacher")]
    ranges = pd.cut(
        rows["sparse_size_bytes"].astype("float64") / dense, [*RANGES, inf], right=False, labels=list(RANGES.values())
    )
    grouped = rows.assign(size_range=ranges, way=pd.Categorical(way, order)).groupby(
        ["size_range", "way"], observed=True
    )
    frame = grouped.agg(networks=("trial_id", "size"), mean=("test_accuracy", "mean")).reset_index()
    best = rows.loc[grouped["accuracy"].idxmax(), ["trial_id", "sparse_size_bytes", "test_accuracy"]]
    best = best.rename(columns={"test_accuracy": "best_test_accuracy"}).reset_index(drop=True)
    return Table(
        pd.concat([frame, best], axis=1)[columns].astype({"size_range": "str", "way": "str"}),
        "Networks of the search by their size with zeros left out, as a share of the dense network's file: mean test "
        "accuracy of each way, and the network with the best validation accuracy.",
    )
