"""Mean ranks of the criteria over all cells of a study, with Friedman's and Nemenyi's tests."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.presentation import style
from analysis.presentation.rendering import Table
from analysis.presentation.style import COLOURS, INK, styled
from analysis.results_folder import RECIPE, Results, networks, ordered
from analysis.statistics.intervals import CONFIDENCE, MATCHED

MIN_TO_RANK = 3  # criteria, and cells, needed for ranks
_FREE_KEYS = {"criterion", "reduce"}  # keys that may differ between the networks of a cell


class Ranks(NamedTuple):
    """Ranks of one granularity's criteria.

    mean: criterion -> mean rank, 1 is best. cells: how many were ranked. p: of Friedman's test that all criteria rank
    alike. critical: Nemenyi's critical difference of two mean ranks.
    """

    mean: pd.Series
    cells: int
    p: float
    critical: float


def rank(scores: pd.DataFrame, confidence: float = CONFIDENCE) -> Ranks:
    """Mean ranks of the columns of `scores` (cells x criteria, higher is better, no missing values); ties are averaged.

    The tests treat cells as independent. Source: Demsar, 2006, JMLR 7.
    Raises ValueError below MIN_TO_RANK cells or criteria.
    """
    cells, count = scores.shape
    if cells < MIN_TO_RANK or count < MIN_TO_RANK:
        raise ValueError(f"ranks of {count} criteria in {cells} cells: at least {MIN_TO_RANK} of each are needed")
    mean = scores.rank(axis=1, ascending=False).mean().sort_values()
    p = float(stats.friedmanchisquare(*scores.to_numpy().T).pvalue)
    q = float(stats.studentized_range.ppf(confidence, count, np.inf)) / sqrt(2)
    return Ranks(mean, cells, 1.0 if np.isnan(p) else p, q * sqrt(count * (count + 1) / (6 * cells)))


def ranks(results: Results) -> dict[str, Ranks]:
    """Granularity -> ranks of its criteria, over the cells in which all of them have a network.

    A cell is a recipe without its criterion; seeds are averaged. Criteria missing from half of the cells or more are
    dropped, to keep the cells. Granularities with too few criteria or cells are left out.
    """
    rows = networks(results.trials).dropna(subset=["test_accuracy", "criterion"])
    keys = [key for key in [*RECIPE, "requested_sparsity"] if key not in _FREE_KEYS]
    rows = rows.assign(requested_sparsity=rows["requested_sparsity"].round(MATCHED))
    found = {}
    for kind in ordered(rows["granularity"].dropna()):
        part = rows[rows["granularity"] == kind]
        cell = part.groupby(keys, dropna=False).ngroup()
        scores = part.groupby([cell, part["criterion"]])["test_accuracy"].mean().unstack()
        scores = scores[scores.notna().sum(axis=1) > 1]
        scores = scores.loc[:, scores.notna().mean() > 0.5].dropna()
        if min(scores.shape) >= MIN_TO_RANK:
            found[str(kind)] = rank(scores)
    return found


def table(results: Results) -> Table:
    """The mean rank of every criterion: granularity, criterion, mean_rank, cells, behind, clear.

    behind: difference to the best mean rank. clear: "worse" if that exceeds Nemenyi's critical difference.
    """
    found = ranks(results)
    parts = [
        pd.DataFrame({"granularity": kind, "criterion": each.mean.index, "mean_rank": each.mean.to_numpy()}).assign(
            cells=each.cells,
            behind=each.mean.to_numpy() - each.mean.iloc[0],
            clear=np.where(each.mean - each.mean.iloc[0] > each.critical, "worse", "not clear"),
        )
        for kind, each in found.items()
    ]
    columns = ["granularity", "criterion", "mean_rank", "cells", "behind", "clear"]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    frame.loc[frame["behind"] == 0, "clear"] = None
    caption = "Criteria ranked by test accuracy (1 is best) within cells of recipes that differ only in the criterion."
    return Table(frame, f"{caption} {_test_results(found)}")


def ranks_data(results: Results) -> pd.DataFrame:
    """The data of the figure: the frame of `table`."""
    return table(results).frame


@styled
def figure(results: Results) -> Figure:
    """Draws a critical-difference diagram: mean ranks, and bars that join criteria without a significant difference."""
    found = ranks(results)
    if not found:
        text = f"There are not {MIN_TO_RANK} criteria with networks in {MIN_TO_RANK} common cells."
        return style.words(text, results.trials)
    most = max(len(each.mean) for each in found.values())
    drawn = Figure(figsize=(1.2 + 3.4 * len(found), 1.5 + 0.27 * most), layout="constrained")
    panels = drawn.subplots(1, len(found), squeeze=False)[0]
    for ax, (kind, each) in zip(panels, found.items(), strict=True):
        _draw(ax, each, most)
        ax.set_title(f"{style.plain(kind)}: {each.cells} cells")
    caption = (
        "Bars at the right join criteria without a significant difference: their mean ranks are within Nemenyi's "
        "critical difference. The open dot is the control (random)."
    )
    style.head(drawn, "Criteria by mean rank of test accuracy", f"{caption} {_test_results(found)}")
    return drawn


def _draw(ax: Axes, each: Ranks, lines: int) -> None:
    values = each.mean.to_numpy()
    control = each.mean.index == "random"
    look: dict[str, Any] = {"markersize": 6, "linestyle": "none", "marker": "o"}
    places = np.arange(len(values))
    ax.hlines(places, 1, values, color="#e4e4e4", linewidth=1)
    ax.plot(values[~control], places[~control], color=COLOURS[0], **look)
    ax.plot(values[control], places[control], color=INK, markerfacecolor="white", **look)
    width = len(values) - 1
    for number, (first, last) in enumerate(cliques(values, each.critical)):
        x = len(values) + 0.04 * width + 0.07 * width * (number % 4)
        ax.plot([x, x], [first - 0.2, last + 0.2], color=INK, linewidth=2.2, solid_capstyle="butt")
    ax.set_yticks(places, [style.plain(name) for name in each.mean.index], fontsize=8)
    ax.set(xlabel="mean rank (1 is best)", ylim=(lines - 0.5, -0.5), xlim=(0.8, len(values) + 0.35 * width))
    ax.set_xticks([tick for tick in ax.get_xticks() if 1 <= tick <= len(values)])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def cliques(values: np.ndarray, critical: float) -> list[tuple[int, int]]:
    """Maximal index ranges (first, last) of ascending `values` that span at most `critical`; of two or more values."""
    ends = [int(np.searchsorted(values, value + critical, side="right")) - 1 for value in values]
    spans = [(first, last) for first, last in enumerate(ends) if last > first]
    return [span for i, span in enumerate(spans) if i == 0 or span[1] > spans[i - 1][1]]


def _test_results(found: dict[str, Ranks]) -> str:
    return " ".join(
        f"{style.plain(kind).capitalize()}: Friedman's p = {each.p:.2g}, critical difference {each.critical:.2f} ranks "
        f"over {each.cells} cells."
        for kind, each in found.items()
    )
