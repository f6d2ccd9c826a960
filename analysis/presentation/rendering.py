"""Renders tables to csv, md, tex and html, and formats the cells of each column."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd


class Table(NamedTuple):
    """A data frame of unrounded values, and its caption."""

    frame: pd.DataFrame
    caption: str


def write_table(frame: pd.DataFrame, stem: Path, caption: str = "") -> list[Path]:
    """Write stem.csv (unrounded, no caption), stem.md and stem.tex (rounded, in percent); returns the paths."""
    contents = {"csv": as_csv(frame)}
    contents |= {kind: render(frame, caption) for kind, render in _RENDERERS.items()}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_whole(path, content)
    return paths


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically: to a temporary file beside it, then a rename. Creates its folder."""
    # As models.files, which is not for `analysis`: importing it imports torch, and tables are remade on a laptop.
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def as_csv(frame: pd.DataFrame) -> str:
    """A table of unrounded values as CSV."""
    return frame.to_csv(index=False, lineterminator="\n")


def as_markdown(frame: pd.DataFrame, caption: str = "") -> str:
    """A GitHub Markdown table with the caption below."""
    # Escape underscores only at the edge of a word, where they would mean emphasis; magnitude_l1 stays readable.
    escape = partial(re.sub, r"([\\|<&*~`\[\]]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1")
    head, *body = _cells(frame, escape)
    rule = ["---:" if number else "---" for number in _numeric(frame)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    return "\n".join([*lines, *(["", escape(caption)] if caption else [])]) + "\n"


def as_latex(frame: pd.DataFrame, caption: str = "") -> str:
    """A LaTeX table that needs no package. Header words are stacked to keep columns narrow.

    A summary with speeds has about 17 columns and needs landscape A4.
    """
    head, *body = _cells(frame, _escape_latex)
    sides = ["r" if number else "l" for number in _numeric(frame)]
    words = (r" \\ ".join(name.split()) for name in head)
    stacked = [
        rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{name}\end{{tabular}}"
        for side, name in zip(sides, words, strict=True)
    ]
    rows = [" & ".join(row) + r" \\" for row in (stacked, *body)]
    lines = [rf"\begin{{tabular}}{{{''.join(sides)}}}", r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"]
    title = [rf"\caption{{{_escape_latex(caption)}}}"] if caption else []
    setting = [r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"]
    return "\n".join([*setting, *title, *lines, r"\end{tabular}", r"\end{table}"]) + "\n"


def as_html(frame: pd.DataFrame, caption: str = "") -> str:
    """An HTML table with escaped text."""
    numeric = [' class="number"' if number else "" for number in _numeric(frame)]
    head, *body = _cells(frame, html.escape)
    rows = ("".join(f"<td{side}>{cell}</td>" for side, cell in zip(numeric, row, strict=True)) for row in body)
    heads = "".join(f'<th scope="col"{side}>{cell}</th>' for side, cell in zip(numeric, head, strict=True))
    title = f"<caption><span>{html.escape(caption)}</span></caption>" if caption else ""
    body_rows = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{title}\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body_rows}\n</tbody></table>"


def label(column: str) -> str:
    """A column's heading, with its unit."""
    return _FORMATS[column][0] if column in _FORMATS else column.replace("_", " ")


def text(column: str, value: Any) -> str:
    """A cell as rounded text; a dash for a missing value."""
    if pd.isna(value):
        return "–"
    if column in _FORMATS:
        return _FORMATS[column][1](value)
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else " ".join(str(value).split())


def percent(fraction: float) -> str:
    """0.9342 -> '93.4'; with a typographic minus sign, and never minus zero."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}".replace("-", "−")


def points(fraction: float) -> str:
    """A difference of accuracies in points, with its sign: 0.0123 -> '+1.2'; zero has no sign."""
    number = percent(fraction)
    return f"+{number}" if number[0] != "−" and number != "0.0" else number


def _numeric(frame: pd.DataFrame) -> list[bool]:
    return [all(isinstance(v, Number) and not isinstance(v, bool) for v in frame[c].dropna()) for c in frame.columns]


def _cells(frame: pd.DataFrame, escape: Callable[[str], str]) -> list[list[str]]:
    """The header and the rows, as escaped text."""
    head = [escape(label(column)) for column in frame.columns]
    columns = [[escape(text(name, value)) for value in frame[name]] for name in frame.columns]
    return [head, *map(list, zip(*columns, strict=True))]


def _escape_latex(plain: str) -> str:
    return re.sub(r"[\\&%$#_{}~^<>|\[*−]", lambda found: _LATEX[found[0]], plain)


_LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "−": "$-$"},
    **{"[": "{[}", "*": "{*}"},  # after the \\ of the previous row these would be read as its argument
}


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def _milliseconds(time: float) -> str:
    return f"{time:.2f}" if time < 100 else f"{time:.0f}"


_FORMATS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "trial_id": ("trial", str),
    "sparsity_range": ("sparsity range", str),
    "size_range": ("size, of the dense network's", str),
    "requested_sparsity": ("requested sparsity (%)", percent),
    "sparsity": ("sparsity (%)", percent),
    "compression_ratio": ("compression (×)", _times),
    "theoretical_speedup": ("theoretical speedup (×)", _times),
    "accuracy": ("validation accuracy (%)", percent),
    "test_accuracy": ("test accuracy (%)", percent),
    "mean_params": ("mean non-zero parameters", lambda number: f"{number:.0f}"),
    "best_test_accuracy": ("test accuracy of best (%)", percent),
    "train_loss": ("train loss (nats)", "{:.3f}".format),
    "train_seconds": ("training (s)", lambda time: f"{time:.0f}"),
    "first_accuracy": ("first study's test accuracy (%)", percent),
    "second_accuracy": ("second study's test accuracy (%)", percent),
    "mean_rank": ("mean rank", "{:.2f}".format),
    "behind": ("behind best (ranks)", "{:.2f}".format),
    "share": ("compute (%)", lambda share: f"{100 * share:.0f}"),
    "seconds": ("compute (s)", lambda time: f"{time:.0f}"),
    "near": ("hypervolume, near", "{:.4f}".format),
    "within_1": ("sparsity within 1 point (%)", percent),
    "within_2": ("sparsity within 2 points (%)", percent),
    "within_5": ("sparsity within 5 points (%)", percent),
    "p": ("p", "{:.2g}".format),
    "test_accuracy_mean": ("mean test accuracy over runs (%)", percent),
    "test_accuracy_std": ("standard deviation over runs (points)", lambda std: f"{100 * std:.2f}"),
    "scratch": ("retrained from scratch (%)", percent),
    "front": ("near the front (%)", percent),
    "n": ("runs", str),
    "mean": ("mean test accuracy (%)", percent),
    "std": ("standard deviation (points)", lambda std: f"{100 * std:.2f}"),
    "difference": ("difference (points)", points),
    "low": ("from (points)", points),
    "high": ("to (points)", points),
    "accuracy_drop": ("validation drop (points)", percent),
    "size_bytes": ("size (kB)", lambda size: f"{size / 1000:.1f}"),
    "sparse_size_bytes": ("sparse size (kB)", lambda size: f"{size / 1000:.1f}"),
    "macs_ratio": ("MACs ratio (×)", _times),
    "latency_ms": ("latency (ms)", _milliseconds),
    "latency_low_ms": ("lower quartile (ms)", _milliseconds),
    "latency_high_ms": ("upper quartile (ms)", _milliseconds),
    "baseline_latency_ms": ("dense latency (ms)", _milliseconds),
    "speedup": ("speedup at batch 1 (×)", "{:.2f}".format),
    "batch_speedup": ("speedup at large batch (×)", "{:.2f}".format),
}
_RENDERERS: dict[str, Callable[[pd.DataFrame, str], str]] = {"md": as_markdown, "tex": as_latex}
