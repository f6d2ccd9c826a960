"""Figures: for each a function that computes what is drawn, and one that draws it.

Drawn are test accuracies, which select nothing; the front is chosen on validation accuracy. Every figure says in
words what is missing when a study is too small for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import pareto, style
from analysis.frame import Results, dense_control, networks, ordered, tally
from analysis.layers import layers
from analysis.speedup import latency
from analysis.style import COLOURS, DASHED, EDGED, INK, MARKERS, QUIET, STAR, styled

UNITS = {  # column -> (name, unit, what one unit of the axis is)
    "sparsity": ("sparsity", "%", 0.01),
    "accuracy": ("validation accuracy", "%", 0.01),
    "macs": ("MACs", "millions", 1e6),
    "params": ("parameters", "millions", 1e6),
    "size_bytes": ("size", "MB", 1e6),
    "latency_ms": ("latency", "ms", 1.0),
}
NEAR, COLLAPSED = 0.1, 0.3  # of accuracy below the baseline's: how far a close-up reaches; what calls for one
_LOOKS: dict[str, dict[str, Any]] = {
    "front": {"markersize": 7, "markeredgewidth": 0.9, "markeredgecolor": "black", "zorder": 3},
    "dominated": {"markersize": 4.5, "markeredgewidth": 0, "alpha": 0.35},
    "infeasible": {"markersize": 4.5, "markeredgewidth": 0.8, "alpha": 0.5, "markerfacecolor": "none"},
}


def front_data(results: Results) -> pd.DataFrame:
    """A row for every complete network: trial_id, schedule, scope, granularity, x, test_accuracy, place.

    x is the first objective that is not accuracy, in its own unit (sparsity if there is none); accuracy is a fraction;
    place is "front", "dominated", or "infeasible" where a constraint is broken. Sorted by x.
    """
    rows = _complete(results)
    on_front = rows.index.isin(pareto.front(rows, results.objectives).index)
    broken = ~rows["feasible"].fillna(True).astype(bool)
    place = np.where(on_front, "front", np.where(broken, "infeasible", "dominated"))
    drawn = rows.assign(x=rows[abscissa(results)].astype("float64"), place=place)
    drawn = drawn[["trial_id", "schedule", "scope", "granularity", "x", "test_accuracy", "place"]]
    return drawn.dropna(subset=["x", "test_accuracy"]).sort_values(["x", "trial_id"])


@styled
def front(results: Results) -> Figure:
    """Test accuracy against sparsity (or what else was an objective): the front among all networks."""
    rows, control = front_data(results), dense_control(results.trials)
    if rows.empty:
        return style.words("There is no complete network to draw a front of.", results.trials)
    name, unit, one = unit_of(abscissa(results))
    colours, markers = _looks_of(results)
    floor = closeup_floor(rows["test_accuracy"], _dense(results, "test_accuracy"))
    figure, axes = style.panels(1 if floor is None else 2, 1, (7.2, 4.0 if floor is None else 6.4), sharey=False)
    for ax in axes:
        shown = rows if floor is None or ax is axes[-1] else rows[rows["test_accuracy"] >= floor]
        if len(results.objectives) == 2:  # of three, what is seen is a shadow of the front: a line would mislead
            best = rows[rows["place"] == "front"]
            ax.plot(best["x"] / one, 100 * best["test_accuracy"], color=INK, linewidth=0.9, zorder=2)
        for (schedule, kind, place), group in shown.groupby(["schedule", shape(results), "place"]):
            look = _look(place, colours[schedule], markers[kind])
            ax.plot(group["x"] / one, 100 * group["test_accuracy"], **look)
        ax.plot(control[abscissa(results)].astype("float64") / one, 100 * control["test_accuracy"], **STAR)
        baseline = _draw_baseline(ax, results, "test_accuracy")
        ax.set_ylabel("test accuracy (%)")
    axes[-1].set_xlabel(f"{name} ({unit})")
    if floor is not None:
        _close_up(axes[0], floor, pd.concat([rows, control])["test_accuracy"])
        axes[0].set_title("Near the baseline")
        axes[1].set_title("All")
    places = [style.key(p, **_look(p, INK, "o")) for p in _LOOKS if (rows["place"] == p).any()]
    dense = baseline + [style.key("dense control", **STAR)] * bool(len(control))
    style.legend(figure, {**_keys(results, rows), "network": places + dense})
    chosen = f"The front is chosen on {_and(unit_of(objective)[0] for objective in results.objectives)}"
    style.head(
        figure,
        f"{(rows['place'] == 'front').sum()} of {style.counted(len(rows))} on the front",
        f"{chosen}, but drawn with test accuracy, so it may bend back. {_not_drawn(results)}",
    )
    return figure


def accuracy_by_schedule_data(results: Results) -> dict[str, pd.DataFrame]:
    """For every schedule its complete networks: trial_id, scope, granularity, sparsity, test_accuracy (fractions)."""
    rows = _complete(results).dropna(subset=["sparsity", "test_accuracy"]).sort_values("sparsity")
    columns = ["trial_id", "scope", "granularity", "sparsity", "test_accuracy"]
    return {name: rows.loc[rows["schedule"] == name, columns] for name in ordered(rows["schedule"])}


@styled
def accuracy_by_schedule(results: Results) -> Figure:
    """Test accuracy against sparsity, a panel for each schedule on the same axes; the others' networks in grey."""
    by_schedule = accuracy_by_schedule_data(results)
    if not by_schedule:
        return style.words("There is no complete network to compare schedules by.", results.trials)
    everything = pd.concat(by_schedule.values())
    floor = closeup_floor(everything["test_accuracy"], _dense(results, "test_accuracy"))
    shown = everything if floor is None else everything[everything["test_accuracy"] >= floor]
    form, markers = shape(results), _looks_of(results)[1]
    tint = "scope" if everything["scope"].nunique() > 1 else form
    colours = style.assign(everything[tint], COLOURS)
    columns = min(3, len(by_schedule))
    lines = -(-len(by_schedule) // columns)
    figure, axes = style.panels(lines, columns, (1.8 + 2.3 * columns, 1.4 + 2.3 * lines), sharey=True)
    for ax, (schedule, rows) in zip(axes, by_schedule.items(), strict=False):
        own = shown.index.isin(rows.index)
        ax.plot(100 * shown["sparsity"][~own], 100 * shown["test_accuracy"][~own], **QUIET)
        for row in shown[own].to_dict("records"):
            look = {"color": colours[row[tint]], "marker": markers[row[form]], **EDGED}
            ax.plot(100 * row["sparsity"], 100 * row["test_accuracy"], **look)
        baseline = _draw_baseline(ax, results, "test_accuracy")
        below = len(rows) - int(own.sum())
        ax.set_title(f"{style.plain(schedule)}: {len(rows)}" + f", {below} below the axis" * bool(below))
        ax.set(xlabel="sparsity (%)", ylabel="test accuracy (%)")
    if floor is not None:
        _close_up(axes[0], floor, everything["test_accuracy"])
    _tidy(axes, len(by_schedule), columns)
    others = [style.key("other schedules", **QUIET)] * (len(by_schedule) > 1)
    hues = _coloured(everything[tint], colours, markers if tint == form else {})
    forms = {form: _shaped(everything[form], markers)} if tint != form else {}
    style.legend(figure, {tint: hues, **forms, "network": others + baseline})
    caption = "Every complete network is a point, each of one run; recipes differ in more than is told apart here."
    style.head(figure, "Test accuracy by schedule", caption)
    return figure


def life_data(results: Results) -> pd.DataFrame:
    """The history of the front's networks: history's columns, schedule, scope and granularity; by trial and epoch."""
    best = pareto.front(_complete(results), results.objectives)[["trial_id", "schedule", "scope", "granularity"]]
    return results.history.merge(best, on="trial_id").sort_values(["trial_id", "epoch"])


@styled
def life(results: Results) -> Figure:
    """Validation accuracy and sparsity after each fine-tuning epoch, for the networks on the front."""
    rows = life_data(results)
    if rows.empty:
        return style.words("No network on the front has a history of fine-tuning.", results.trials)
    colours, markers = _looks_of(results)
    figure, (upper, lower) = style.panels(2, 1, (7.2, 5.2), sharey=False)
    for (schedule, kind, _), trial in rows.groupby(["schedule", shape(results), "trial_id"]):
        look: dict[str, Any] = {"color": colours[schedule], "marker": markers[kind], "alpha": 0.75, "markersize": 4}
        epochs = trial["epoch"].astype("float64")
        upper.plot(epochs, 100 * trial["accuracy"], **look)
        lower.plot(epochs, 100 * trial["sparsity"], **look)
    baseline = _draw_baseline(upper, results, "accuracy")
    upper.set_ylabel("validation accuracy (%)")
    lower.set(ylabel="sparsity (%)", xlabel="fine-tuning epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = rows.groupby("trial_id")["accuracy"].last()
    floor = closeup_floor(last, _dense(results, "accuracy"))
    if floor is not None:
        _close_up(upper, floor, rows["accuracy"])
        upper.set_title(f"{(last < floor).sum()} of {len(last)} end below the axis")
    style.legend(figure, {**_keys(results, rows), "network": baseline})
    caption = "Measured after each epoch, so a fall at a cut is seen once that epoch has mended part of it."
    style.head(figure, f"The fine-tuning of {style.counted(len(last))} on the front", caption)
    return figure


def abscissa(results: Results) -> str:
    """The objective that the front is drawn against: the first that is not accuracy, else sparsity."""
    return next((name for name in results.objectives if name != "accuracy"), "sparsity")


def shape(results: Results) -> str:
    """What a marker's shape tells: granularity where the study's networks have several, else scope."""
    return "granularity" if _complete(results)["granularity"].nunique() > 1 else "scope"


def unit_of(column: str) -> tuple[str, str, float]:
    """What an axis calls a column, its unit there, and how much of the column makes one such unit."""
    return UNITS.get(column, (style.plain(column), "1", 1.0))


def closeup_floor(accuracies: pd.Series, baseline: float | None) -> float | None:
    """The accuracy (a fraction) from which a close-up is worth drawing: 10 points below the baseline.

    Recipes that collapse must not hide how the others differ. None where none loses 30 points, or most lose 10.
    """
    if baseline is None or not accuracies.min() < baseline - COLLAPSED:
        return None
    return baseline - NEAR if (accuracies < baseline - NEAR).mean() <= 0.5 else None


def _complete(results: Results) -> pd.DataFrame:
    """The complete networks, each with a schedule, a scope and a granularity to be drawn by."""
    rows = networks(results.trials)
    return rows.assign(**{key: rows[key].fillna("none") for key in ("schedule", "scope", "granularity")})


def _dense(results: Results, measure: str) -> float | None:
    return (results.record.get("baseline") or {}).get(measure)


def _draw_baseline(ax: Axes, results: Results, measure: str) -> list[Line2D]:
    """A dashed line at the baseline; its entry for the legend, none where the baseline is not known."""
    if (value := _dense(results, measure)) is None:
        return []
    ax.axhline(100 * value, **DASHED)
    return [style.key(f"baseline, {100 * value:.1f} %", **DASHED)]


def _close_up(ax: Axes, floor: float, values: pd.Series) -> None:
    """The y axis from `floor` to the highest value or the baseline, in percent, with room for the markers."""
    top = max(values.max(), floor + NEAR)
    room = 0.04 * (top - floor)
    ax.set_ylim(100 * (floor - room), 100 * (top + room))


def _look(place: Any, colour: str, marker: str) -> dict[str, Any]:
    return {"color": colour, "marker": marker, "linestyle": "none", **_LOOKS[place]}


def _looks_of(results: Results) -> tuple[dict[Any, str], dict[Any, str]]:
    """A colour for each schedule and a marker for each granularity or scope: the same in all of a study's figures."""
    rows = _complete(results)
    return style.assign(rows["schedule"], COLOURS), style.assign(rows[shape(results)], MARKERS)


def _keys(results: Results, shown: pd.DataFrame) -> dict[str, list[Line2D]]:
    """Groups of legend entries for what is shown: the schedules, and what shapes tell where that is several things."""
    (colours, markers), form = _looks_of(results), shape(results)
    return {"schedule": _coloured(shown["schedule"], colours, {}), form: _shaped(shown[form], markers)}


def _coloured(names: Iterable[Any], colours: dict[Any, str], markers: dict[Any, str]) -> list[Line2D]:
    return [style.key(style.plain(n), marker=markers.get(n, "o"), color=colours[n]) for n in ordered(names)]


def _shaped(names: Iterable[Any], markers: dict[Any, str]) -> list[Line2D]:
    hollow: dict[str, Any] = {"color": INK, "markerfacecolor": "none"}
    shown = ordered(names) if len(markers) > 1 else []
    return [style.key(style.plain(n), marker=markers[n], **hollow) for n in shown]


def _tidy(axes: list[Axes], used: int, columns: int) -> None:
    """Of a grid of axes on the same scales: hide those not used, and label only the outer ones."""
    for place, ax in enumerate(axes):
        ax.set_visible(place < used)
        if place % columns:
            ax.set_ylabel("")
        if place + columns < used:
            ax.set_xlabel("")
        else:
            ax.tick_params(labelbottom=True)


def _not_drawn(results: Results) -> str:
    absent = results.trials[results.trials["state"] != "complete"]
    return f"Not drawn: {tally(absent)}." if len(absent) else ""


def _and(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "front": front,
    "accuracy_by_schedule": accuracy_by_schedule,
    "life": life,
    "layers": layers,
    "latency": latency,
}
