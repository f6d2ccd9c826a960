"""What a study's figures share: its colours and markers, its baseline, close-ups, grids of panels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.presentation import style
from analysis.presentation.style import COLOURS, DASHED, INK, MARKERS
from analysis.results_folder import Results, candidates, ordered, tally
from analysis.statistics import pareto

MOST = 12  # networks that can be told apart in one figure
NEAR, COLLAPSED = 0.1, 0.3  # of accuracy below the baseline's: how far a close-up reaches; what calls for one


def shape(results: Results) -> str:
    """What a marker's shape tells: granularity where the study's networks have several, else scope."""
    return "granularity" if complete(results)["granularity"].nunique() > 1 else "scope"


def closeup_floor(accuracies: pd.Series, baseline: float | None) -> float | None:
    """The accuracy (a fraction) from which a close-up is worth drawing: 10 points below the baseline.

    Recipes that collapse must not hide how the others differ. None where none loses 30 points, or most lose 10.
    """
    if baseline is None or not accuracies.min() < baseline - COLLAPSED:
        return None
    return baseline - NEAR if (accuracies < baseline - NEAR).mean() <= 0.5 else None


def complete(results: Results) -> pd.DataFrame:
    """The complete networks, each with a criterion, schedule, scope and granularity to be drawn by."""
    rows = candidates(results.trials)
    return rows.assign(**{key: rows[key].fillna("none") for key in ("criterion", "schedule", "scope", "granularity")})


def selected(results: Results) -> pd.DataFrame:
    """The complete networks where there are at most MOST, else those on the front."""
    rows = complete(results)
    return rows if len(rows) <= MOST else pareto.front(rows, results.objectives)


def counted(results: Results, number: int) -> str:
    """So many networks of `selected`, in words."""
    return style.counted(number) + " on the front" * (len(complete(results)) > MOST)


def baseline(results: Results, measure: str) -> float | None:
    """A measure of the baseline's, None where the record has none."""
    return (results.record.get("baseline") or {}).get(measure)


def draw_baseline(ax: Axes, results: Results, measure: str) -> list[Line2D]:
    """A dashed line at the baseline; its entry for the legend, none where the baseline is not known."""
    if (value := baseline(results, measure)) is None:
        return []
    ax.axhline(100 * value, **DASHED)
    return [style.key(f"baseline, {100 * value:.1f} %", **DASHED)]


def close_up(ax: Axes, floor: float, values: pd.Series) -> None:
    """The y axis from `floor` to the highest value or the baseline, in percent, with room for the markers."""
    top = max(values.max(), floor + NEAR)
    room = 0.04 * (top - floor)
    ax.set_ylim(100 * (floor - room), 100 * (top + room))


def looks_of(results: Results) -> tuple[dict[Any, str], dict[Any, str]]:
    """A colour for each schedule and a marker for each granularity or scope: the same in all of a study's figures."""
    rows = complete(results)
    return style.assign(rows["schedule"], COLOURS), style.assign(rows[shape(results)], MARKERS)


def keys(results: Results, shown: pd.DataFrame) -> dict[str, list[Line2D]]:
    """Groups of legend entries for what is shown: the schedules, and what shapes tell where that is several things."""
    (colours, markers), form = looks_of(results), shape(results)
    return {"schedule": coloured(shown["schedule"], colours, {}), form: shaped(shown[form], markers)}


def coloured(names: Iterable[Any], colours: dict[Any, str], markers: dict[Any, str]) -> list[Line2D]:
    return [style.key(style.plain(n), marker=markers.get(n, "o"), color=colours[n]) for n in ordered(names)]


def shaped(names: Iterable[Any], markers: dict[Any, str]) -> list[Line2D]:
    hollow: dict[str, Any] = {"color": INK, "markerfacecolor": "none"}
    shown = ordered(names) if len(markers) > 1 else []
    return [style.key(style.plain(n), marker=markers[n], **hollow) for n in shown]


def tidy(axes: list[Axes], used: int, columns: int) -> None:
    """Of a grid of axes on the same scales: hide those not used, and label only the outer ones."""
    for place, ax in enumerate(axes):
        ax.set_visible(place < used)
        if place % columns:
            ax.set_ylabel("")
        if place + columns < used:
            ax.set_xlabel("")
        else:
            ax.tick_params(labelbottom=True)


def not_drawn(results: Results) -> str:
    absent = results.trials[results.trials["state"] != "complete"]
    return f"Not drawn: {tally(absent)}." if len(absent) else ""


def and_(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
