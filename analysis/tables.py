"""Tables: what they hold (data frames of raw fractions), and one renderer for csv, md, tex and html."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import inf
from numbers import Number
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.frame import LAYERS, RECIPE, Results, axes, dense_control, layers_of, networks, ordered
from analysis.pareto import front

BINS = (0.0, 0.5, 0.8, 0.95, inf)  # of achieved sparsity, each from its lower edge up to the next
MEASURES = [
    "requested_sparsity", "sparsity", "compression_ratio", "theoretical_speedup", "accuracy", "test_accuracy",
    "accuracy_drop",
]  # fmt: skip
SPEEDS = ["latency_ms", "speedup", "batch_speedup"]
LATENCY = [
    "trial_id", "granularity", "sparsity", "macs_ratio", "theoretical_speedup", "latency_ms", "latency_low_ms",
    "latency_high_ms", "baseline_latency_ms", "speedup", "large_batch", "batch_speedup", "size_bytes",
    "sparse_size_bytes",
]  # fmt: skip
_MEASURED = LATENCY[5:]


class Table(NamedTuple):
    """A data frame of raw values, and the sentences that say what it is."""

    frame: pd.DataFrame
    caption: str


def summary(results: Results) -> Table:
    """The front, below a row for the baseline and one for each dense control. One row per network.

    Columns: trial_id, schedule and those recipe keys that vary in the study, the measures, the speeds that were
    measured of a network on the front, other objectives.
    """
    varying, constant = axes(results.trials)
    keys = [key for key in RECIPE if key in varying or key == "schedule"]
    best = front(results.trials, results.objectives)
    rows = pd.concat([_baseline(results), dense_control(results.trials), best], ignore_index=True)
    measured = [name for name in SPEEDS if best[name].notna().any()]
    extra = dict.fromkeys(name for name in (*measured, *results.objectives) if name not in MEASURES)
    # A control is no recipe of the space: what prunes was at its default there, and did nothing.
    searched = rows["kind"].isin(["search", "confirm"])
    idle = {key: rows[key].where(searched) for key in keys if key not in _TRAINING}
    shared = "; ".join(f"{label(key)} {text(key, value)}" for key, value in constant.items() if key not in keys)
    what = f"{len(best) or 'No'} {'network is' if len(best) < 2 else 'networks are'} on the front"
    return Table(
        rows.assign(**idle)[["trial_id", *keys, *MEASURES, *extra]],
        f"{what}, which is chosen on validation accuracy." + f" The same for all: {shared}." * bool(shared),
    )


def schedules(results: Results) -> Table:
    """For every range of achieved sparsity and every schedule: how many networks, and the best of them.

    Columns: sparsity_range, schedule, networks, trial_id, sparsity, accuracy, test_accuracy: the last four are
    those of the network with the highest validation accuracy. Ranges without a network have no row.
    """
    rows = networks(results.trials).dropna(subset=["accuracy", "sparsity", "schedule"])
    # Binned as they are printed: 0.94999, where 0.95 was asked for and weights come whole, is 95.0 %.
    ranges = pd.cut(rows["sparsity"].round(3), BINS, right=False, labels=[_range(*edges) for edges in pairwise(BINS)])
    names = pd.Categorical(rows["schedule"], ordered(rows["schedule"]))
    grouped = rows.assign(sparsity_range=ranges, schedule=names).groupby(["sparsity_range", "schedule"], observed=True)
    best = rows.loc[grouped["accuracy"].idxmax(), ["trial_id", "sparsity", "accuracy", "test_accuracy"]]
    counts = grouped.size().rename("networks").reset_index().astype({"sparsity_range": "str", "schedule": "str"})
    return Table(
        pd.concat([counts, best.reset_index(drop=True)], axis=1),
        "In each range of sparsity, each schedule's network of the best validation accuracy. The more networks there "
        "are, the higher is their best by luck alone.",
    )


def latency(results: Results) -> Table:
    """How fast the front's networks are and how big, below a row for each dense control. One row per network.

    Columns: trial_id, granularity, sparsity; macs_ratio, dense MACs by those that dense kernels execute, and
    theoretical_speedup, by those of non-zero weights; at batch 1 the median latency, its quartiles, the dense network's
    median beside it, speedup; the large batch, the speedup there; bytes, dense and sparse. Of the measured columns
    those are left out that are empty.
    """
    best, control = front(results.trials, results.objectives), dense_control(results.trials)
    rows = pd.concat([control.assign(granularity="dense"), best], ignore_index=True)
    # Of two products of the same row, so no other record has to be at hand.
    ratio = rows["theoretical_speedup"] * rows["nonzero_macs"].astype("float64") / rows["macs"].astype("float64")
    shown = [name for name in LATENCY if name not in _MEASURED or rows[name].notna().any()]
    how = (
        "Latency: median and quartiles of one forward pass at batch 1; each network was measured beside the dense one, "
        "in turn, after the search. The MACs ratio counts what dense kernels execute, the theoretical speedup skips "
        "zeros. The dense control's speedup shows what is chance."
    )
    known = rows[SPEEDS].notna().any(axis=None)
    return Table(rows.assign(macs_ratio=ratio)[shown], how if known else "No latency was measured.")


def layers(results: Results) -> pd.DataFrame:
    """What the front's networks keep of every layer. One row per network, as the front has them, and layer.

    Columns: trial_id, requested_sparsity, sparsity (of the network), LAYERS. Written as csv only: a front of ResNet-50s
    has hundreds of rows, absurdly long on paper; figures/layers shows them. Empty where no network has a layers.csv.
    """
    best = front(results.trials, results.objectives)
    rows = best[["trial_id", "requested_sparsity", "sparsity"]].merge(layers_of(results, best), on="trial_id")
    return rows[["trial_id", "requested_sparsity", "sparsity", *LAYERS]]


def write_table(frame: pd.DataFrame, stem: Path, caption: str = "") -> list[Path]:
    """Write `frame` as stem.csv (raw values, no caption), stem.md and stem.tex (rounded, percents); the paths."""
    contents = {"csv": as_csv(frame)}
    contents |= {kind: render(frame, caption) for kind, render in _RENDERERS.items()}
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_whole(path, content)
    return paths


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all, its folder too: a temporary one beside it, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def as_csv(frame: pd.DataFrame) -> str:
    """A table's raw values."""
    return frame.to_csv(index=False, lineterminator="\n")


def as_markdown(frame: pd.DataFrame, caption: str = "") -> str:
    """A table in GitHub's Markdown, the caption below it."""
    # An underscore within a word is one, and magnitude_l1 stays legible; at a word's edge it would be emphasis.
    escape = partial(re.sub, r"([\\|<&*~`\[\]]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1")
    head, *body = _cells(frame, escape)
    rule = ["---:" if number else "---" for number in _numeric(frame)]
    lines = [f"| {' | '.join(row)} |" for row in (head, rule, *body)]
    return "\n".join([*lines, *(["", escape(caption)] if caption else [])]) + "\n"


def as_latex(frame: pd.DataFrame, caption: str = "") -> str:
    """A LaTeX table that needs no package. The header's words stand one below the other, to keep columns narrow.

    A summary with speeds has some 17 columns: that needs a landscape A4.
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
    """An HTML table, everything in it escaped."""
    numeric = [' class="number"' if number else "" for number in _numeric(frame)]
    head, *body = _cells(frame, html.escape)
    rows = ("".join(f"<td{side}>{cell}</td>" for side, cell in zip(numeric, row, strict=True)) for row in body)
    heads = "".join(f'<th scope="col"{side}>{cell}</th>' for side, cell in zip(numeric, head, strict=True))
    title = f"<caption><span>{html.escape(caption)}</span></caption>" if caption else ""
    body_rows = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table>{title}\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body_rows}\n</tbody></table>"


def label(column: str) -> str:
    """A column's name as people read it, with its unit."""
    return _FORMATS[column][0] if column in _FORMATS else column.replace("_", " ")


def text(column: str, value: Any) -> str:
    """A cell as people read it, rounded; a dash where nothing is known."""
    if pd.isna(value):
        return "–"
    if column in _FORMATS:
        return _FORMATS[column][1](value)
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else " ".join(str(value).split())


def percent(fraction: float) -> str:
    """0.9342 -> '93.4'; a minus is a minus sign, and nothing is ever minus zero."""
    return f"{round(100 * fraction, 1) + 0.0:.1f}".replace("-", "−")


def _baseline(results: Results) -> pd.DataFrame:
    dense = results.record.get("baseline") or {}
    known = {key: dense.get(key) for key in (*MEASURES, *results.objectives)}
    # In turn with the pruned networks is how theirs were measured; what the record has was measured alone.
    if not pd.isna(in_turn := results.trials["baseline_latency_ms"].median()):
        known["latency_ms"] = in_turn
    ratios = dict.fromkeys(("compression_ratio", "theoretical_speedup", "speedup", "batch_speedup"), 1.0)
    fixed = {**ratios, "sparsity": 0.0, "accuracy_drop": 0.0}
    row = pd.DataFrame([{**known, **fixed, "trial_id": "baseline", "kind": "baseline"}])
    return row.reindex(columns=results.trials.columns).astype(results.trials.dtypes.to_dict())


def _range(low: float, high: float) -> str:
    if low == 0:
        return f"below {100 * high:.0f} %"
    return f"{100 * low:.0f} % and above" if high == inf else f"{100 * low:.0f} to {100 * high:.0f} %"


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
    **{"[": "{[}", "*": "{*}"},  # which the end of the row before would take for its own argument
}
_TRAINING = {  # the keys that a dense control has in earnest
    "schedule", "finetune_epochs", "epochs_per_step", "finetune_lr", "lr_schedule", "optimizer", "weight_decay",
}  # fmt: skip


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def _milliseconds(time: float) -> str:
    return f"{time:.2f}" if time < 100 else f"{time:.0f}"


_FORMATS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "trial_id": ("trial", str),
    "sparsity_range": ("range of sparsity", str),
    "requested_sparsity": ("asked for (%)", percent),
    "sparsity": ("sparsity (%)", percent),
    "compression_ratio": ("compression (×)", _times),
    "theoretical_speedup": ("theoretical speedup (×)", _times),
    "accuracy": ("validation accuracy (%)", percent),
    "test_accuracy": ("test accuracy (%)", percent),
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
TABLES: dict[str, Callable[[Results], Table]] = {"summary": summary, "schedules": schedules, "latency": latency}
