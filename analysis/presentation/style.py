"""Style of all figures (colours, fonts, legends, captions) and rendering to png and pdf."""

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
    "text.parse_math": False,  # names may contain a dollar sign
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # keeps text as text in the PDF
}
styled = matplotlib.rc_context(STYLE)  # a decorator: applies the style while the function runs
INK, PALE = "#404040", "#c8c8c8"
# The colour-blind-safe palette of Okabe and Ito, without yellow (too pale for print) and black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
EDGED: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4, "markersize": 5.5, "linestyle": "none"}
QUIET: dict[str, Any] = {"color": PALE, "markersize": 3, "marker": "o", "linestyle": "none"}
DASHED: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": (0, (5, 3)), "zorder": 1}
STAR: dict[str, Any] = {"color": INK, "markersize": 10, "marker": "*", "linestyle": "none", "zorder": 4}


def assign(names: Iterable[Any], looks: Sequence[str]) -> dict[Any, str]:
    """A colour or marker for each distinct name; they repeat if there are more names than looks."""
    return {name: looks[i % len(looks)] for i, name in enumerate(ordered(names))}


def panels(rows: int, columns: int, inches: tuple[float, float], *, sharey: bool) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes that share the x scale.

    Args:
      rows: of the grid.
      columns: of the grid.
      inches: width and height of the figure.
      sharey: whether all axes share the y scale too.

    Returns: the figure and its axes, row by row.
    """
    figure = Figure(figsize=inches, layout="constrained")
    return figure, list(figure.subplots(rows, columns, sharex=True, sharey=sharey, squeeze=False).flat)


def words(sentence: str, trials: pd.DataFrame) -> Figure:
    """A figure with a sentence instead of a plot, for a study without the data; also counts its trials by state."""
    figure = Figure(figsize=(7.2, 1.4))
    lines = f"{sentence}\nTrials: {tally(trials)}."
    figure.text(0.5, 0.5, lines, ha="center", va="center", color=INK, linespacing=1.8)
    return figure


def plain(name: Any) -> str:
    """A name from the study file with spaces instead of underscores."""
    return str(name).replace("_", " ")


def counted(number: int) -> str:
    """3 -> "3 networks"."""
    return "1 network" if number == 1 else f"{number} networks"


def key(name: str, **look: Any) -> Line2D:
    """A legend entry; without line properties, a heading."""
    return Line2D([], [], label=name, **{"linestyle": "none", **look})


def legend(figure: Figure, groups: dict[str, list[Line2D]]) -> None:
    """Adds a legend right of the axes, where it covers no point. groups: heading -> entries; empty ones are omitted."""
    groups = {heading: entries for heading, entries in groups.items() if entries}
    handles = [entry for heading, entries in groups.items() for entry in (key(heading), *entries)]
    for text in figure.legend(handles=handles, loc="outside right upper").get_texts():
        if text.get_text() in groups:
            text.set_fontweight("bold")


def head(figure: Figure, title: str, caption: str) -> None:
    """Adds a title above, and below a caption in small type, wrapped to the figure's width."""
    figure.suptitle(title, x=0.01, ha="left")
    # The caption is a supxlabel because the constrained layout reserves space for that.
    lines = textwrap.fill(caption, round(figure.get_figwidth() * 16))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color=INK)


def shade(value: float) -> tuple[float, ...]:
    """A colour for a value in [0, 1]: higher is darker, in greyscale too."""
    return tuple(colormaps["viridis_r"](0.15 + 0.85 * min(max(value, 0.0), 1.0)))


def title(figure: Figure) -> str:
    """The figure's title, or its text if it has no plot; used as alt text."""
    return figure.get_suptitle() or " ".join(figure.texts[0].get_text().split())


@styled
def render(figure: Figure, kind: str) -> bytes:
    """The figure as bytes of a "png" (200 dpi) or "pdf"; reproducible to the byte."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata={"CreationDate": None} if kind == "pdf" else None)
    figure.set_layout_engine("none")  # a second layout would change nothing and take as long as drawing
    return file.getvalue()
