"""Shared by the figures of a study: colours and markers, the baseline, close-ups, grids of panels."""

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

MAX_NETWORKS = 12  # that can be told apart in one figure
# Drops of accuracy below the baseline: the range of a close-up, and the drop from which one is drawn.
NEAR, COLLAPSED = 0.1, 0.3


def shape(results: Results) -> str:
    """The recipe key encoded by marker shape: granularity if the study's networks have several, otherwise scope."""
    return "granularity" if complete(results)["granularity"].nunique() > 1 else "scope"


def closeup_floor(accuracies: pd.Series, baseline: float | None) -> float | None:
    """Lower limit (an accuracy, a fraction) of a close-up: 10 points below the baseline. None if none is needed.

    A close-up keeps collapsed recipes from hiding the differences between the others. None is needed if no network
    loses 30 points, or if more than half lose 10.
    """
    if baseline is None or not accuracies.min() < baseline - COLLAPSED:
        return None
    return baseline - NEAR if (accuracies < baseline - NEAR).mean() <= 0.5 else None


def complete(results: Results) -> pd.DataFrame:
    """The complete networks, with missing criteria, schedules, scopes and granularities replaced by "none"."""
    rows = candidates(results.trials)
    return rows.assign(**{key: rows[key].fillna("none") for key in ("criterion", "schedule", "scope", "granularity")})


def selected(results: Results) -> pd.DataFrame:
    """The complete networks if there are at most MAX_NETWORKS, otherwise those on the front."""
    rows = complete(results)
    return rows if len(rows) <= MAX_NETWORKS else pareto.front(rows, results.objectives)


def counted(results: Results, number: int) -> str:
    """`number` networks of `selected`, in words: "3 networks", or "3 networks on the front"."""
    return style.counted(number) + " on the front" * (len(complete(results)) > MAX_NETWORKS)


def baseline(results: Results, measure: str) -> float | None:
    """A measure of the baseline, or None if the record lacks it."""
    return (results.record.get("baseline") or {}).get(measure)


def draw_baseline(ax: Axes, results: Results, measure: str) -> list[Line2D]:
    """Draws a dashed line at the baseline; returns its legend entry, or nothing if the baseline is unknown."""
    if (value := baseline(results, measure)) is None:
        return []
    ax.axhline(100 * value, **DASHED)
    return [style.key(f"baseline, {100 * value:.1f} %", **DASHED)]


def close_up(ax: Axes, floor: float, values: pd.Series) -> None:
    """Limits the y axis (in percent) to `floor` up to the highest value or the baseline, with room for the markers."""
    top = max(values.max(), floor + NEAR)
    room = 0.04 * (top - floor)
    ax.set_ylim(100 * (floor - room), 100 * (top + room))


def looks_of(results: Results) -> tuple[dict[Any, str], dict[Any, str]]:
    """A colour for each schedule and a marker for each granularity or scope, the same in all figures of a study."""
    rows = complete(results)
    return style.assign(rows["schedule"], COLOURS), style.assign(rows[shape(results)], MARKERS)


def keys(results: Results, shown: pd.DataFrame) -> dict[str, list[Line2D]]:
    """Legend entries by heading: schedules by colour; granularities or scopes by marker if there are several."""
    (colours, markers), form = looks_of(results), shape(results)
    return {"schedule": coloured(shown["schedule"], colours, {}), form: shaped(shown[form], markers)}


def coloured(names: Iterable[Any], colours: dict[Any, str], markers: dict[Any, str]) -> list[Line2D]:
    """Legend entries that show the colour of each name."""
    return [style.key(style.plain(n), marker=markers.get(n, "o"), color=colours[n]) for n in ordered(names)]


def shaped(names: Iterable[Any], markers: dict[Any, str]) -> list[Line2D]:
    """Legend entries that show the marker of each name; none if there is only one marker."""
    hollow: dict[str, Any] = {"color": INK, "markerfacecolor": "none"}
    shown = ordered(names) if len(markers) > 1 else []
    return [style.key(style.plain(n), marker=markers[n], **hollow) for n in shown]


def tidy(axes: list[Axes], used: int, columns: int) -> None:
    """In a grid of axes with shared scales, hides those after the first `used` and labels only the outer ones."""
    for place, ax in enumerate(axes):
        ax.set_visible(place < used)
        if place % columns:
            ax.set_ylabel("")
        if place + columns < used:
            ax.set_xlabel("")
        else:
            ax.tick_params(labelbottom=True)


def not_drawn(results: Results) -> str:
    """A sentence with the number of trials that are not complete; empty if all are."""
    absent = results.trials[results.trials["state"] != "complete"]
    return f"Not drawn: {tally(absent)}." if len(absent) else ""


def and_(names: Iterable[str]) -> str:
    """The names as an enumeration: "a, b and c"."""
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last
