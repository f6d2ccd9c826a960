"""When each trial ran: a time line with as many lanes as trials ran at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.presentation import style
from analysis.presentation.style import COLOURS, DASHED, PALE, styled
from analysis.results_folder import Results

LONGEST_GAP = 0.05  # share of the time in which trials ran; a longer time without any is left out
TALLEST = 4.0  # inches of all lanes
_COLOURS = {
    "complete": COLOURS[0],
    "stopped": COLOURS[4],
    "failed": COLOURS[1],
    "confirmation": COLOURS[2],
    "control": PALE,
}


def timeline_data(results: Results) -> pd.DataFrame:
    """The trials that ran, in the order of their start, without candidates that were only screened.

    Columns: trial_id; what (a state for trials of the search, otherwise the kind); begin and end, in seconds since the
    first trial, without long times in which none ran; after_gap, whether such a time came before; lane, counted from 0:
    the first that was free.
    """
    rows = results.trials[results.trials["state"] != "screened"].dropna(subset=["started", "finished"])
    rows = rows.sort_values(["started", "trial_id"])
    begins, ends = rows["started"].to_numpy(dtype=float), rows["finished"].to_numpy(dtype=float)
    last = np.maximum.accumulate(ends)  # end of all trials so far
    gaps = np.maximum(begins - np.concatenate([begins[:1], last[:-1]]), 0.0)
    busy = (last[-1:] - begins[:1] - gaps.sum()).sum()
    long = gaps > LONGEST_GAP * busy
    shift = begins[:1] + np.cumsum(np.where(long, gaps, 0.0))
    lanes: list[float] = []  # when each is free
    places = []
    for begin, end in zip(begins, ends, strict=True):
        place = next((n for n, free in enumerate(lanes) if free <= begin), len(lanes))
        lanes[place : place + 1] = [end]
        places.append(place)
    frame = pd.DataFrame({"trial_id": rows["trial_id"].to_numpy(), "begin": begins - shift, "end": ends - shift})
    frame = frame.assign(after_gap=long, lane=np.array(places, dtype=int))
    kinds = rows["kind"].map({"confirm": "confirmation", "control": "control"}).fillna(rows["state"])
    return frame.assign(what=kinds.to_numpy())


@styled
def timeline(results: Results) -> Figure:
    """Draws a bar per trial from its start to its end."""
    rows = timeline_data(results)
    if rows.empty:
        return style.words("No trial has a start and an end.", results.trials)
    scale, unit = (60.0, "minutes") if rows["end"].max() > 180 else (1.0, "seconds")
    lanes = int(rows["lane"].max()) + 1
    figure = Figure(figsize=(7.2, 1.5 + min(0.32 * lanes, TALLEST)), layout="constrained")
    ax = figure.subplots()
    for what, part in rows.groupby("what", sort=False):
        width = (part["end"] - part["begin"]) / scale
        ax.barh(part["lane"] + 1, width, left=part["begin"] / scale, height=0.72, color=_COLOURS[str(what)],
                edgecolor="white", linewidth=0.6 if lanes < 20 else 0.0)  # fmt: skip
    for begin in rows.loc[rows["after_gap"], "begin"]:
        ax.axvline(begin / scale, **DASHED)
    ax.set(xlabel=f"{unit} since the first trial", ylabel="at once", ylim=(lanes + 0.6, 0.4), xlim=(0, None))
    ax.yaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    ax.grid(axis="y", visible=False)
    bars = [style.key(what, color=_COLOURS[what], marker="s", markersize=8) for what in dict.fromkeys(rows["what"])]
    style.legend(figure, {"trial": bars})
    worked = (rows["end"] - rows["begin"]).sum() / (lanes * rows["end"].max())
    gaps = int(rows["after_gap"].sum())
    left_out = f" Dashed: a longer time without any trial is left out ({gaps})." if gaps else ""
    caption = (
        f"A bar for each trial, on the first lane that was free: {lanes} ran at once, and lanes were in use for "
        f"{worked:.0%} of the time.{left_out}"
    )
    style.head(figure, "When each trial ran", caption)
    return figure
