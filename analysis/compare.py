"""Command that compares two studies: test accuracy of their best networks in each sparsity range.

    python -m analysis.compare results/a results/b               # prints tables
    python -m analysis.compare results/a results/b --out both    # also writes tables and figures to a folder

Exit codes: 0 done, 2 not a results folder, or DIR is not writable.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import progress
from analysis.presentation import rendering, style
from analysis.presentation.rendering import Table
from analysis.presentation.style import COLOURS, MARKERS, styled
from analysis.refusal import refused
from analysis.results_folder import Results, candidates, read, tally
from analysis.statistics import pareto, runs
from analysis.statistics.intervals import difference_interval, verdict

EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.01)  # of the ranges of achieved sparsity


def name_of(results: Results) -> str:
    """The study's name, or its folder's name if it has none."""
    return str(results.study["study"].get("name") or results.folder.name)


def facts(one: Results, other: Results) -> Table:
    """Summary of both studies: one row per fact (network, data, trials, ...), columns `fact`, `first` and `second`."""
    both = zip(_FACTS, _facts(one), _facts(other), strict=True)
    rows = [{"fact": fact, "first": a, "second": b} for fact, a, b in both]
    same = _facts(one)[1:3] == _facts(other)[1:3]
    warning = "" if same else " Their networks or data differ, so accuracies are not comparable."
    return Table(pd.DataFrame(rows, dtype=object), f"Two studies side by side.{warning}")


_FACTS = (
    "study", "network", "data", "trials", "objectives", "baseline, test accuracy (%)", "baseline, parameters",
    "compute (s)", "hypervolume of sparsity and validation accuracy, from (0, 0)",
)  # fmt: skip


def _facts(results: Results) -> list[Any]:
    section, dense = results.study.get("baseline") or {}, results.record.get("baseline") or {}
    points = candidates(results.trials)[["sparsity", "accuracy"]].to_numpy(dtype=float)
    tested = dense.get("test_accuracy")
    return [
        name_of(results),
        section.get("model"),
        section.get("dataset"),
        tally(results.trials),
        ", ".join(results.objectives),
        None if tested is None else rendering.percent(tested),
        dense.get("params"),
        round(float(results.trials["wall_seconds"].sum())),
        f"{pareto.hypervolume(points, ['max', 'max'], [0, 0]):.4f}",
    ]


def ranges(one: Results, other: Results) -> Table:
    """Compares both studies' best network on validation in each range of achieved sparsity.

    Columns: sparsity_range, first_trial, first_accuracy, second_trial, second_accuracy (mean test accuracy over the
    recipe's runs), runs, difference (first minus second), low, high (Welch's 95 % interval over runs), clear. A range
    has a row if either study has a network in it.
    """
    parts = [_best_by_range(results) for results in (one, other)]
    lines = []
    for label in dict.fromkeys(label for label in _range_labels() if any(label in part for part in parts)):
        found = [part.get(label, ("–", pd.Series(dtype="float64"))) for part in parts]
        gap = difference_interval(found[0][1], found[1][1])
        line = {"sparsity_range": label, "first_trial": found[0][0], "first_accuracy": found[0][1].mean()}
        line |= {"second_trial": found[1][0], "second_accuracy": found[1][1].mean()}
        line |= {"runs": f"{len(found[0][1])} and {len(found[1][1])}", "difference": gap.value, "low": gap.low}
        lines.append(line | {"high": gap.high, "clear": verdict(*gap)})
    return Table(
        pd.DataFrame(lines, columns=_COLUMNS),
        f"First: {name_of(one)}, second: {name_of(other)}. Each row compares the networks with the best validation "
        "accuracy in a sparsity range. Test accuracy is the mean over the recipe's runs; the difference is first minus "
        "second. Choosing from more networks raises the best by chance; the interval does not account for that.",
    )


_COLUMNS = [
    "sparsity_range", "first_trial", "first_accuracy", "second_trial", "second_accuracy", "runs", "difference", "low",
    "high", "clear",
]  # fmt: skip


def _range_labels() -> list[str]:
    return [f"{100 * low:.0f} to {100 * min(high, 1):.0f} %" for low, high in pairwise(EDGES)]


def _best_by_range(results: Results) -> dict[str, tuple[str, pd.Series]]:
    """Sparsity range -> id of the best trial on validation, and the test accuracies of its recipe's runs."""
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparsity", "test_accuracy"])
    binned = pd.cut(rows["sparsity"].round(3), EDGES, right=False, labels=_range_labels())
    chosen = rows.groupby(binned, observed=True)["accuracy"].idxmax()
    return {
        str(label): (rows.loc[place, "trial_id"], runs.runs_of(results, rows.loc[place])["test_accuracy"])
        for label, place in chosen.items()
    }


@styled
def fronts(one: Results, other: Results) -> Figure:
    """Draws both fronts (sparsity against validation accuracy) with test accuracy, and both baselines as lines."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    ax = figure.subplots()
    entries = []
    for i, results in enumerate((one, other)):
        best = pareto.front(results.trials, {"sparsity": "max", "accuracy": "max"}).dropna(subset=["test_accuracy"])
        look: dict[str, Any] = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 5, "linewidth": 1.1}
        ax.plot(100 * best["sparsity"].astype(float), 100 * best["test_accuracy"].astype(float), **look)
        entries.append(style.key(f"{name_of(results)} ({len(best)})", **{**look, "linestyle": "-"}))
        if (dense := (results.record.get("baseline") or {}).get("test_accuracy")) is not None:
            ax.axhline(100 * dense, color=COLOURS[i], linewidth=0.8, linestyle=(0, (5, 3)))
    ax.set(xlabel="sparsity (%)", ylabel="test accuracy (%)")
    style.legend(figure, {"front": entries, "dashed": [style.key("baseline", color="#404040", linestyle="--")]})
    caption = (
        "Fronts are selected by sparsity and validation accuracy but drawn with test accuracy, so the curves need not "
        "be monotonic."
    )
    style.head(figure, "Pareto fronts of two studies", caption)
    return figure


def hypervolumes(one: Results, other: Results) -> pd.DataFrame:
    """`progress.hypervolume_data` of both studies, with a column `study`."""
    parts = [progress.hypervolume_data(results).assign(study=name_of(results)) for results in (one, other)]
    return pd.concat(parts, ignore_index=True)


def main(argv: list[str] | None = None, prog: str = "python -m analysis.compare") -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Compare two studies.")
    parser.add_argument("first", metavar="A", type=Path, help="results folder of the first study")
    parser.add_argument("second", metavar="B", type=Path, help="results folder of the second study")
    parser.add_argument("--out", metavar="DIR", type=Path, help="also write tables and figures to this folder")
    given = parser.parse_args(argv)
    try:
        pair = read(given.first), read(given.second)
        made = {"facts": facts(*pair), "ranges": ranges(*pair)}
        if given.out:
            for name, table in made.items():
                rendering.write_table(table.frame, given.out / name, table.caption)
            rendering.write_whole(given.out / "hypervolume.csv", rendering.as_csv(hypervolumes(*pair)))
            figure = fronts(*pair)
            for kind in ("png", "pdf"):
                rendering.write_whole(given.out / f"fronts.{kind}", style.render(figure, kind))
    except (ValueError, OSError) as error:
        return refused(error)
    print("\n".join(rendering.as_markdown(*table) for table in made.values()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
