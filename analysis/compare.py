"""The command: two studies side by side, by what their best networks keep at the same sparsity.

    python -m analysis.compare results/a results/b               # a table on the terminal
    python -m analysis.compare results/a results/b --out both    # and tables and figures in a folder

Exit codes: 0 done, 2 one is no results folder, or the folder cannot be written to.
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
from analysis.results_folder import Results, candidates, read, tally
from analysis.statistics import pareto, runs
from analysis.statistics.intervals import difference_interval, verdict

EDGES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.01)


def name_of(results: Results) -> str:
    """What a study calls itself, else its folder's name."""
    return str(results.study["study"].get("name") or results.folder.name)


def facts(one: Results, other: Results) -> Table:
    """What the two studies are: a row for each fact, a column for each study, named `first` and `second`."""
    both = zip(_FACTS, _facts(one), _facts(other), strict=True)
    rows = [{"fact": fact, "first": a, "second": b} for fact, a, b in both]
    same = _facts(one)[1:3] == _facts(other)[1:3]
    warning = "" if same else " They differ in network or data: accuracies are not comparable."
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
    """At each range of achieved sparsity both studies' best network on validation, by what its recipe keeps.

    Columns: sparsity_range, first_trial, first_accuracy, second_trial, second_accuracy (means of test accuracy over
    the recipe's runs), runs, difference (first less second), low, high (Welch's 95 % interval over runs), clear. Rows
    where either has a network.
    """
    parts = [_best(results) for results in (one, other)]
    lines = []
    for label in dict.fromkeys(label for label in _labels() if any(label in part for part in parts)):
        found = [part.get(label, ("–", pd.Series(dtype="float64"))) for part in parts]
        gap = difference_interval(found[0][1], found[1][1])
        line = {"sparsity_range": label, "first_trial": found[0][0], "first_accuracy": found[0][1].mean()}
        line |= {"second_trial": found[1][0], "second_accuracy": found[1][1].mean()}
        line |= {"runs": f"{len(found[0][1])} and {len(found[1][1])}", "difference": gap.value, "low": gap.low}
        lines.append(line | {"high": gap.high, "clear": verdict(*gap)})
    return Table(
        pd.DataFrame(lines, columns=_COLUMNS),
        f"First: {name_of(one)}, second: {name_of(other)}. In each range of sparsity the network of the best "
        "validation accuracy; test accuracy is the mean over its recipe's runs, the difference that of the first less "
        "the second. The best of more networks is better by luck alone, which the interval over runs does not hold.",
    )


_COLUMNS = [
    "sparsity_range", "first_trial", "first_accuracy", "second_trial", "second_accuracy", "runs", "difference", "low",
    "high", "clear",
]  # fmt: skip


def _labels() -> list[str]:
    return [f"{100 * low:.0f} to {100 * min(high, 1):.0f} %" for low, high in pairwise(EDGES)]


def _best(results: Results) -> dict[str, tuple[str, pd.Series]]:
    """For each range of sparsity the best trial on validation, and the test accuracies of its recipe's runs."""
    rows = candidates(results.trials).dropna(subset=["accuracy", "sparsity", "test_accuracy"])
    binned = pd.cut(rows["sparsity"].round(3), EDGES, right=False, labels=_labels())
    chosen = rows.groupby(binned, observed=True)["accuracy"].idxmax()
    return {
        str(label): (rows.loc[place, "trial_id"], runs.runs_of(results, rows.loc[place])["test_accuracy"])
        for label, place in chosen.items()
    }


@styled
def fronts(one: Results, other: Results) -> Figure:
    """Both studies' fronts of sparsity and validation accuracy, drawn with test accuracy, each below its baseline."""
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
    said = "Fronts are chosen on sparsity and validation accuracy, and drawn with test accuracy, so they may bend back."
    style.head(figure, "Two studies: what is on their fronts", said)
    return figure


def hypervolumes(one: Results, other: Results) -> pd.DataFrame:
    """Hypervolume after each trial of both, as `progress.hypervolume_data`, with a column `study`."""
    parts = [progress.hypervolume_data(results).assign(study=name_of(results)) for results in (one, other)]
    return pd.concat(parts, ignore_index=True)


def main(argv: list[str] | None = None, prog: str = "python -m analysis.compare") -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Two studies side by side.")
    parser.add_argument("first", metavar="A", type=Path, help="a results folder")
    parser.add_argument("second", metavar="B", type=Path, help="another")
    parser.add_argument("--out", metavar="DIR", type=Path, help="a folder for tables and figures")
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
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(rendering.as_markdown(*table) for table in made.values()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
