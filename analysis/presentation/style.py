"""How figures look, in one place: colours, type, legends, captions; and how they become files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.results_folder import ordered, tally

STYLE: Any = {
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
    "text.parse_math": False,  # a name may hold a dollar
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # letters stay text in the PDF
}
styled = matplotlib.rc_context(STYLE)  # a decorator: the style holds while the function runs
INK, PALE = "#404040", "#c8c8c8"
# Okabe and Ito's colours, told apart by the colour-blind; without yellow, too pale for print, and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
EDGED: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4, "markersize": 5.5, "linestyle": "none"}
QUIET: dict[str, Any] = {"color": PALE, "markersize": 3, "marker": "o", "linestyle": "none"}
DASHED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (5, 3)), "zorder": 1}
STAR: dict[str, Any] = {"color": INK, "markersize": 10, "marker": "*", "linestyle": "none", "zorder": 4}


def assign(names: Iterable[Any], looks: Sequence[str]) -> dict[Any, str]:
    """A colour or marker for each distinct name; beyond the last they begin anew."""
    return {name: looks[i % len(looks)] for i, name in enumerate(ordered(names))}


def panels(rows: int, columns: int, inches: tuple[float, float], *, sharey: bool) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns axes, given in reading order, on one x scale."""
    figure = Figure(figsize=inches, layout="constrained")
    return figure, list(figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).flat)


def words(sentence: str, trials: pd.DataFrame) -> Figure:
    """A figure for a study that has nothing to draw yet: it says so, and how its trials ended."""
    figure = Figure(figsize=(7.2, 1.4))
    lines = f"{sentence}\nTrials: {tally(trials)}."
    figure.text(0.5, 0.5, lines, ha="center", va="center", color=INK, linespacing=1.8)
    return figure


def plain(name: Any) -> str:
    """A name of the study file as people write it."""
    return str(name).replace("_", " ")


def counted(number: int) -> str:
    """3 -> "3 networks"."""
    return "1 network" if number == 1 else f"{number} networks"


def key(name: str, **look: Any) -> Line2D:
    """A legend's entry; without a look, a heading."""
    return Line2D([], [], label=name, **{"linestyle": "none", **look})


def legend(figure: Figure, groups: dict[str, list[Line2D]]) -> None:
    """A legend right of the axes, where it covers no point: heading -> entries. An empty group is left out."""
    groups = {heading: entries for heading, entries in groups.items() if entries}
    handles = [entry for heading, entries in groups.items() for entry in (key(heading), *entries)]
    for text in figure.legend(handles=handles, loc="outside right upper").get_texts():
        if text.get_text() in groups:
            text.set_fontweight("bold")


def head(figure: Figure, title: str, caption: str) -> None:
    """A title above, and a caption below in small type."""
    figure.suptitle(title, x=0.01, ha="left")
    # supxlabel, because the constrained layout keeps room for it.
    lines = textwrap.fill(caption, round(figure.get_figwidth() * 16))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color=INK)


def shade(place: float) -> tuple[float, ...]:
    """A colour for a place in [0, 1], the darker the higher; in grey too."""
    return tuple(colormaps["viridis_r"](0.15 + 0.85 * min(max(place, 0.0), 1.0)))


def title(figure: Figure) -> str:
    """What the figure is headed with, or says, for those who cannot see it."""
    return figure.get_suptitle() or " ".join(figure.texts[0].get_text().split())


@styled
def render(figure: Figure, kind: str) -> bytes:
    """The figure as a file's content, kind "png" (200 dpi) or "pdf". The same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    figure.set_layout_engine("none")  # laid out once: a second time takes as long as drawing, and changes nothing
    return file.getvalue()
