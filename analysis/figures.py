"""Figures: for each a function that computes what is drawn, and one that draws it.

Drawn are test accuracies, which select nothing; the front is chosen on validation accuracy. Every figure says in
words what is missing when a study is too small for it.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import pareto
from analysis.frame import Results, dense_control, networks, ordered

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # letters stay text in the PDF
}
INK, PALE = "#404040", "#c8c8c8"
# Okabe and Ito's colours, told apart by the colour-blind; without yellow, too pale for print, and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UNITS = {  # column -> (axis label, what one unit of the axis is)
    "sparsity": ("sparsity (%)", 0.01),
    "accuracy": ("validation accuracy (%)", 0.01),
    "macs": ("MACs (millions)", 1e6),
    "params": ("parameters (millions)", 1e6),
    "size_bytes": ("size (MB)", 1e6),
    "latency_ms": ("latency (ms)", 1.0),
}
_styled = matplotlib.rc_context(STYLE)


def front_data(results: Results) -> pd.DataFrame:
    """A row for every complete network: trial_id, schedule, scope, x, test_accuracy (a fraction), place.

    x is the first objective that is not accuracy, in its own unit (sparsity if there is none); place is "front",
    "dominated", or "infeasible" where a constraint is broken. Sorted by x.
    """
    rows = _complete(results)
    on_front = rows.index.isin(pareto.front(rows, results.objectives).index)
    broken = ~rows["feasible"].fillna(True).astype(bool)
    place = np.where(on_front, "front", np.where(broken, "infeasible", "dominated"))
    drawn = rows.assign(x=rows[abscissa(results)].astype("float64"), place=place)
    drawn = drawn[["trial_id", "schedule", "scope", "x", "test_accuracy", "place"]]
    return drawn.dropna(subset=["x", "test_accuracy"]).sort_values(["x", "trial_id"])


@_styled
def front(results: Results) -> Figure:
    """Test accuracy against sparsity (or what else was an objective): the front among all networks."""
    rows = front_data(results)
    if rows.empty:
        return _words("No network was completed, so there is no front to draw.", results)
    colours, markers = _assign(rows["schedule"], COLOURS), _assign(rows["scope"], MARKERS)
    control = dense_control(results.trials)
    floor = closeup_floor(rows["test_accuracy"], _baseline(results, "test_accuracy"))
    figure, panels = _panels(1 if floor is None else 2, 1, (7.2, 4.0 if floor is None else 6.4))
    for ax in panels:
        shown = rows if floor is None or ax is panels[-1] else rows[rows["test_accuracy"] >= floor]
        _draw_front(ax, shown, rows, results, colours, markers)
        _draw_baseline(ax, results, "test_accuracy")
        ax.plot(_x(control, results), 100 * control["test_accuracy"], "*", **_STAR)
        ax.set_ylabel("test accuracy (%)")
    panels[-1].set_xlabel(UNITS[abscissa(results)][0])
    if floor is not None:
        _close_up(panels[0], floor, pd.concat([rows, control])["test_accuracy"])
        panels[0].set_title("Near the baseline")
        panels[1].set_title("All")
    keys = [*_keys(colours, markers), *_place_keys(rows), *_baseline_keys(results, "test_accuracy")]
    keys += [_key("dense control", marker="*", **_STAR)] if len(control) else []
    figure.legend(handles=keys, loc="outside right upper")
    _title(figure, f"{(rows['place'] == 'front').sum()} of {_count(len(rows), 'network')} on the front")
    names = (UNITS[name][0].split(" (")[0] for name in results.objectives)
    chosen = f"The front is chosen on {_and(names)}, but drawn with test accuracy, so it may bend back."
    _caption(figure, f"{chosen} {_not_drawn(results)}")
    return figure


def _draw_front(
    ax: Axes,
    shown: pd.DataFrame,
    rows: pd.DataFrame,
    results: Results,
    colours: dict[Any, str],
    markers: dict[Any, str],
) -> None:
    best = rows[rows["place"] == "front"]
    if len(results.objectives) == 2:  # with three, what is seen is a shadow of the front: a line would mislead
        ax.plot(_x(best, results), 100 * best["test_accuracy"], color=INK, linewidth=0.9, zorder=2)
    for (schedule, scope, place), group in shown.groupby(["schedule", "scope", "place"]):
        look = _look(place, colours[schedule])
        ax.plot(_x(group, results), 100 * group["test_accuracy"], markers[scope], **look)


def closeup_floor(accuracies: pd.Series, baseline: float | None) -> float | None:
    """The accuracy from which a close-up is worth drawing: 10 points below the baseline.

    None where nothing lies below it, or more than half does: recipes that collapse must not hide how the others differ.
    """
    if baseline is None:
        return None
    below = (accuracies < baseline - 0.1).mean()
    return baseline - 0.1 if 0 < below <= 0.5 else None


def accuracy_by_schedule_data(results: Results) -> dict[str, pd.DataFrame]:
    """For every schedule its complete networks: trial_id, scope, sparsity, test_accuracy (fractions)."""
    rows = _complete(results).dropna(subset=["sparsity", "test_accuracy"]).sort_values("sparsity")
    columns = ["trial_id", "scope", "sparsity", "test_accuracy"]
    return {name: rows.loc[rows["schedule"] == name, columns] for name in ordered(rows["schedule"])}


@_styled
def accuracy_by_schedule(results: Results) -> Figure:
    """Test accuracy against sparsity, a panel for each schedule on the same axes; the others' networks in grey."""
    panels = accuracy_by_schedule_data(results)
    if not panels:
        return _words("No network was completed, so schedules cannot be compared.", results)
    everything = pd.concat(panels.values())
    markers, colours = _assign(everything["scope"], MARKERS), _assign(everything["scope"], COLOURS)
    floor = closeup_floor(everything["test_accuracy"], _baseline(results, "test_accuracy"))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, plots = _panels(lines, columns, (1.8 + 2.3 * columns, 1.4 + 2.3 * lines))
    shown = everything if floor is None else everything[everything["test_accuracy"] >= floor]
    for ax, (schedule, rows) in zip(plots, panels.items(), strict=False):
        own = shown.index.isin(rows.index)
        _dots(ax, shown[~own], marker="o", color=PALE, markersize=3)
        for scope, group in shown[own].groupby("scope"):
            _dots(ax, group, marker=markers[scope], color=colours[scope], **_EDGED)
        _draw_baseline(ax, results, "test_accuracy")
        below = len(rows) - own.sum()
        ax.set_title(f"{_plain(schedule)}: {len(rows)}" + f", {below} below the axis" * bool(below))
        if floor is not None:
            _close_up(ax, floor, everything["test_accuracy"])
    for ax in plots[len(panels) :]:
        ax.set_visible(False)
    for ax in plots[len(panels) - columns : len(panels)]:
        ax.set_xlabel("sparsity (%)")
        ax.tick_params(labelbottom=True)
    for ax in plots[::columns]:
        ax.set_ylabel("test accuracy (%)")
    keys = [_key(_plain(scope), marker=markers[scope], color=colours[scope], **_EDGED) for scope in markers]
    keys += [_key("other schedules", marker="o", color=PALE, markersize=3)] if len(panels) > 1 else []
    keys += _baseline_keys(results, "test_accuracy")
    figure.legend(handles=[_heading("scope"), *keys], loc="outside right upper")
    _title(figure, "Test accuracy by schedule")
    _caption(
        figure, "Every complete network is a point, each of one run; recipes differ in more than schedule and scope."
    )
    return figure


def life_data(results: Results) -> pd.DataFrame:
    """The history of the networks on the front: history's columns, with schedule and scope, by trial and epoch."""
    best = pareto.front(_complete(results), results.objectives)[["trial_id", "schedule", "scope"]]
    return results.history.merge(best, on="trial_id").sort_values(["trial_id", "epoch"])


@_styled
def life(results: Results) -> Figure:
    """Validation accuracy and sparsity after each fine-tuning epoch, for the networks on the front."""
    rows = life_data(results)
    if rows.empty:
        return _words("No network on the front has a history of fine-tuning.", results)
    figure, (upper, lower) = _panels(2, 1, (7.2, 5.2), sharey=False)
    colours, markers = _assign(rows["schedule"], COLOURS), _assign(rows["scope"], MARKERS)
    for _, trial in rows.groupby("trial_id"):
        schedule, scope = trial[["schedule", "scope"]].iloc[0]
        look = {"color": colours[schedule], "marker": markers[scope], "alpha": 0.75, "markersize": 4}
        epochs = trial["epoch"].astype("float64")
        upper.plot(epochs, 100 * trial["accuracy"], **look)
        lower.plot(epochs, 100 * trial["sparsity"], **look)
    _draw_baseline(upper, results, "accuracy")
    upper.set_ylabel("validation accuracy (%)")
    lower.set(ylabel="sparsity (%)", xlabel="fine-tuning epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    last = rows.groupby("trial_id")["accuracy"].last()
    floor = closeup_floor(last, _baseline(results, "accuracy"))
    if floor is not None:
        _close_up(upper, floor, rows["accuracy"])
        upper.set_title(f"{(last < floor).sum()} of {len(last)} end below the axis")
    figure.legend(handles=[*_keys(colours, markers), *_baseline_keys(results, "accuracy")], loc="outside right upper")
    _title(figure, f"The fine-tuning of {_count(len(last), 'network')} on the front")
    _caption(figure, "Measured after each epoch, so a fall at a cut is seen once that epoch has mended part of it.")
    return figure


def abscissa(results: Results) -> str:
    """The objective that the front is drawn against: the first that is not accuracy, else sparsity."""
    return next((name for name in results.objectives if name != "accuracy"), "sparsity")


@_styled
def render(figure: Figure, kind: str) -> bytes:
    """The figure as a file's content, kind "png" (200 dpi) or "pdf". The same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    return file.getvalue()


def title(figure: Figure) -> str:
    """What the figure is headed with, for those who cannot see it."""
    return figure.get_suptitle()


_EDGED = {"markeredgecolor": "white", "markeredgewidth": 0.4, "markersize": 5.5}
_DASHED = {"color": INK, "linewidth": 0.9, "linestyle": (0, (5, 3)), "zorder": 1}
_STAR = {"color": INK, "markersize": 10, "linestyle": "none", "zorder": 4}
_LOOKS: dict[str, dict[str, Any]] = {
    "front": {"markersize": 7, "markeredgewidth": 0.9, "zorder": 3},
    "dominated": {"markersize": 4.5, "markeredgewidth": 0, "alpha": 0.35},
    "infeasible": {"markersize": 4.5, "markeredgewidth": 0.8, "alpha": 0.5, "markerfacecolor": "none"},
}


def _complete(results: Results) -> pd.DataFrame:
    """The complete networks, each with a schedule and a scope to be drawn by."""
    rows = networks(results.trials)
    return rows.assign(**{key: rows[key].fillna("none") for key in ("schedule", "scope")})


def _look(place: str, colour: str) -> dict[str, Any]:
    edge = {"front": "black", "dominated": "none", "infeasible": colour}[place]
    return {"color": colour, "markeredgecolor": edge, "linestyle": "none", **_LOOKS[place]}


def _panels(rows: int, columns: int, inches: tuple[float, float], sharey: bool = True) -> tuple[Figure, list[Axes]]:
    """Axes in reading order; those of one row, or of one column, that are to be compared share their scale."""
    figure = Figure(figsize=inches, layout="constrained")
    shared = sharey and columns > 1
    return figure, list(figure.subplots(rows, columns, sharex=True, sharey=shared, squeeze=False).flat)


def _words(sentence: str, results: Results) -> Figure:
    """A figure for a study that has nothing to draw yet."""
    figure = Figure(figsize=(7.2, 2.0))
    states = results.trials["state"].value_counts()
    counts = ", ".join(f"{states[state]} {state}" for state in states.index) or "none yet"
    figure.text(0.5, 0.5, f"{sentence}\nTrials: {counts}.", ha="center", va="center", color=INK, linespacing=1.8)
    return figure


def _dots(ax: Axes, rows: pd.DataFrame, **look: Any) -> None:
    ax.plot(100 * rows["sparsity"], 100 * rows["test_accuracy"], linestyle="none", **look)


def _x(rows: pd.DataFrame, results: Results) -> pd.Series:
    name = abscissa(results)
    return rows["x" if "x" in rows else name].astype("float64") / UNITS[name][1]


def _baseline(results: Results, measure: str) -> float | None:
    return (results.record.get("baseline") or {}).get(measure)


def _draw_baseline(ax: Axes, results: Results, measure: str) -> None:
    if (value := _baseline(results, measure)) is not None:
        ax.axhline(100 * value, **_DASHED)


def _baseline_keys(results: Results, measure: str) -> list[Line2D]:
    value = _baseline(results, measure)
    return [] if value is None else [_key(f"baseline, {100 * value:.1f} %", **_DASHED)]


def _close_up(ax: Axes, floor: float, values: pd.Series) -> None:
    """The y axis from `floor` to the highest value, with room for the markers."""
    top = max(values.max(), floor + 0.1)
    room = 0.04 * (top - floor)
    ax.set_ylim(100 * (floor - room), 100 * (top + room))


def _title(figure: Figure, words: str) -> None:
    figure.suptitle(words, x=0.01, ha="left")


def _caption(figure: Figure, sentence: str) -> None:
    # supxlabel, because the constrained layout keeps room for it.
    width = round(figure.get_figwidth() * 16)
    figure.supxlabel(textwrap.fill(sentence, width), x=0.01, ha="left", fontsize=7.5, color=INK)


def _not_drawn(results: Results) -> str:
    states = results.trials["state"].value_counts()
    absent = [f"{states[state]} {state}" for state in ("failed", "stopped") if state in states]
    return f"Not drawn: {_and(absent)}." if absent else ""


def _assign(names: Iterable[Any], looks: tuple[str, ...]) -> dict[Any, str]:
    return {name: looks[i % len(looks)] for i, name in enumerate(ordered(names))}


def _keys(colours: dict[Any, str], markers: dict[Any, str]) -> list[Line2D]:
    """Legend entries: a colour per schedule, and a marker per scope where there are several."""
    scopes = [_key(_plain(name), marker=mark, color=INK, markerfacecolor="none") for name, mark in markers.items()]
    return [
        _heading("schedule"),
        *(_key(_plain(name), marker="o", color=colour) for name, colour in colours.items()),
        *([_heading("scope"), *scopes] if len(scopes) > 1 else []),
        _heading(""),
    ]


def _place_keys(rows: pd.DataFrame) -> list[Line2D]:
    return [_key(place, marker="o", **_look(place, INK)) for place in _LOOKS if (rows["place"] == place).any()]


def _heading(words: str) -> Line2D:
    return _key(rf"$\bf{{{words}}}$" if words else "")


def _key(name: str, **look: Any) -> Line2D:
    return Line2D([], [], label=name, **{"linestyle": "none", **look})


def _plain(name: Any) -> str:
    return str(name).replace("_", " ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _and(names: Iterable[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


FIGURES: dict[str, Callable[[Results], Figure]] = {
    "front": front,
    "accuracy_by_schedule": accuracy_by_schedule,
    "life": life,
}
