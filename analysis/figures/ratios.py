"""Figure of test accuracy against requested sparsity, a line for each recipe of a grid."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.presentation import style
from analysis.presentation.looks import draw_baseline, not_drawn
from analysis.presentation.style import COLOURS, MARKERS, styled
from analysis.results_folder import RECIPE, Results
from analysis.statistics.runs import runs
from analysis.statistics.tested_images import mean_with_images

MAX_RECIPES = 8  # more lines cannot be told apart
CROWDED = 0.9  # with sparsities beyond it, the axis is that of compression: on their own they would lie in a corner


def ratios_data(results: Results) -> pd.DataFrame:
    """Mean test accuracy of each recipe at each requested sparsity.

    Columns: recipe (its name), requested_sparsity, test_accuracy (mean over runs), low, high (95 % interval), n. No
    rows unless there are two to MAX_RECIPES recipes, all with the same two or more sparsities.
    """
    rows = runs(results.trials).dropna(subset=["requested_sparsity", "test_accuracy"])
    rows = rows.assign(recipe=_names(rows))
    lines = rows.groupby("recipe")["requested_sparsity"]
    few = 1 < lines.ngroups <= MAX_RECIPES  # checked first, because a search has as many recipes as trials
    sparsities = {tuple(sorted(set(line))) for _, line in lines} if few else set()
    if len(sparsities) != 1 or len(sparsities.pop()) < 2:
        rows = rows.iloc[:0]
    found = []
    for (recipe, sparsity), group in rows.groupby(["recipe", "requested_sparsity"], sort=False):
        mean, low, high = mean_with_images(results, group)
        found.append((recipe, sparsity, mean, low, high, len(group)))
    table = pd.DataFrame(found, columns=["recipe", "requested_sparsity", "test_accuracy", "low", "high", "n"])
    return table.sort_values("requested_sparsity", kind="stable")


def _names(rows: pd.DataFrame) -> pd.Series:
    """A name for each row's recipe: the values of the axes needed to distinguish all recipes."""
    distinguishing: list[str] = []
    groups = 1
    for key in RECIPE:
        if (finer := rows.groupby([*distinguishing, key], dropna=False).ngroups) > groups:
            distinguishing, groups = [*distinguishing, key], finer
    parts = [[_part(key, value) for value in rows[key]] for key in distinguishing]
    named = [", ".join(filter(None, row)) for row in zip(*parts, strict=True)] if parts else ["all"] * len(rows)
    return pd.Series(named, index=rows.index, dtype="object")


def _part(key: str, value: Any) -> str:
    if pd.isna(value):
        return ""
    if isinstance(value, str):
        return style.plain(value)
    if pd.api.types.is_bool(value):
        return ("" if value else "no ") + style.plain(key)
    return f"{style.plain(key)} {value:.4g}"


def compression(sparsity: Any) -> Any:
    """Weights before over weights left: 1 / (1 - sparsity)."""
    return 1 / (1 - sparsity)


@styled
def ratios(results: Results) -> Figure:
    """Draws test accuracy against requested sparsity, a line for each recipe of a grid."""
    rows = ratios_data(results)
    if rows.empty:
        return style.words(
            f"There is no grid of two to {MAX_RECIPES} recipes over the same sparsities.", results.trials
        )
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    ax = figure.subplots()
    asked, entries = rows["requested_sparsity"].unique(), []
    far = bool(asked.max() > CROWDED)
    for i, (recipe, line) in enumerate(rows.groupby("recipe", sort=False)):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        look |= {"markersize": 5, "linestyle": "-" if i < len(COLOURS) else "--"}
        mean = 100 * line["test_accuracy"]
        reach = [(mean - 100 * line["low"]).fillna(0), (100 * line["high"] - mean).fillna(0)]
        place = compression(line["requested_sparsity"]) if far else 100 * line["requested_sparsity"]
        ax.errorbar(place, mean, yerr=reach, elinewidth=1, capsize=2, **look)
        entries.append(style.key(str(recipe), **look))
    dense = draw_baseline(ax, results, "test_accuracy")
    ax.set(xlabel="requested sparsity (%)", ylabel="test accuracy (%)")
    if far:
        ax.set_xscale("log", base=2)
        ax.set_xticks(compression(asked), [f"{100 * one:.3g} %\n{compression(one):.3g} ×" for one in asked])
        ax.set_xlabel("requested sparsity, and 1 / (1 - sparsity)")
    style.legend(figure, {"recipe": entries, "network": dense})
    most = int(rows["n"].max())
    caption = (
        f"Bars: 95 % interval over {most} seeds and, where each network's answers are kept, the test images."
        if most > 1
        else "Each point is one run."
    )
    style.head(figure, "Test accuracy at each requested sparsity", f"{caption} {not_drawn(results)}".strip())
    return figure
