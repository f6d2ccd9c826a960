"""The command: every table, figure and the page of a study, remade from its results folder.

    python -m analysis.report results/schedules

Exit codes: 0 done, 2 the folder is no results folder, or cannot be written to.
"""

from __future__ import annotations

import argparse
import base64
import html
import shlex
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib.figure import Figure

from analysis import figures, style, tables
from analysis.frame import RECIPE, Results, dense_control, load, networks, tally
from analysis.pareto import front
from analysis.speedup import zeros

_NAMED = ("criterion", "granularity", "scope", "schedule")  # of a recipe, in a sentence
WITHIN = 0.01  # of the baseline's validation accuracy: what the answer asks of a network


def report(folder: Path) -> None:
    """Write pareto.csv, tables/, figures/ and report.html into a results folder, each file whole or not at all.

    Raises ValueError where `folder` is no results folder.
    """
    results = load(folder)
    best = front(results.trials, results.objectives)
    tables.write_whole(folder / "pareto.csv", tables.as_csv(best))
    tables.write_whole(folder / "tables" / "layers.csv", tables.as_csv(tables.layers(results)))
    made = {name: make(results) for name, make in tables.TABLES.items()}
    for name, table in made.items():
        tables.write_table(table.frame, folder / "tables" / name, table.caption)
    drawn = {name: draw(results) for name, draw in figures.FIGURES.items()}
    images = {name: style.render(figure, "png") for name, figure in drawn.items()}
    for name, figure in drawn.items():
        tables.write_whole(folder / "figures" / f"{name}.png", images[name])
        tables.write_whole(folder / "figures" / f"{name}.pdf", style.render(figure, "pdf"))
    tables.write_whole(folder / "report.html", page(results, made, drawn, images))


def answer(results: Results) -> tuple[str, str]:
    """The study's answer in a sentence, and in another what its trials and seeds do not allow to be said.

    The network is chosen on validation accuracy and quoted with test accuracy.
    """
    complete, best = networks(results.trials), front(results.trials, results.objectives)
    if complete.empty:
        return "No network was completed, so there is no answer yet.", f"Trials: {tally(results.trials)}."
    if best.empty:
        which = "The only complete network" if len(complete) == 1 else f"None of the {len(complete)} complete networks"
        return (
            f"{which} {'does not meet' if len(complete) == 1 else 'meets'} the constraints.",
            f"Trials: {tally(results.trials)}.",
        )
    chosen, why = _choose(best, results)
    runs = complete[_same_recipe(complete, chosen)].drop_duplicates("seed")
    return f"{_finding(chosen, why, runs, len(complete))}{_against(results)}.", _limits(runs, len(complete))


def _choose(best: pd.DataFrame, results: Results) -> tuple[pd.Series, str]:
    """The row of the front to be quoted, and by what it was chosen."""
    name = figures.abscissa(results)
    near = best[best["accuracy_drop"] <= WITHIN]
    if near.empty or name not in results.objectives:
        return best.iloc[int(best["accuracy"].argmax())], "the most accurate on validation data"
    highest = results.objectives[name] == "max"
    values = near[name].astype("float64")
    most = f"{'highest' if highest else 'lowest'} {figures.unit_of(name)[0]}"
    chosen = near.iloc[int(values.argmax() if highest else values.argmin())]
    return chosen, f"the one of {most} within {100 * WITHIN:.0f} point of the baseline on validation data"


def _finding(row: pd.Series, why: str, runs: pd.DataFrame, count: int) -> str:
    recipe = ", ".join(str(row[key]).replace("_", " ") for key in _NAMED if pd.notna(row[key]))
    tested = runs["test_accuracy"].dropna()
    measured = f"{tables.percent(tested.mean())} %" if len(tested) else "unknown"
    if len(tested) > 1:
        low, high = tables.percent(tested.min()), tables.percent(tested.max())
        measured += f" (mean of {len(tested)} seeds, {low} to {high} %)"
    which = f"Of {count} complete networks, {why} is" if count > 1 else "The only complete network is"
    return (
        f"{which} trial {row['trial_id']} ({recipe}): without {tables.percent(row['sparsity'])} % of the prunable "
        f"weights its test accuracy is {measured}"
    )


def _against(results: Results) -> str:
    known = {
        "the baseline's": (results.record.get("baseline") or {}).get("test_accuracy"),
        "the dense control's": dense_control(results.trials)["test_accuracy"].mean(),
    }
    told = [f"{whose} {tables.percent(value)} %" for whose, value in known.items() if not pd.isna(value)]
    return f", {' and '.join(told)}" if told else ""


def _limits(runs: pd.DataFrame, count: int) -> str:
    if count == 1:
        return "One run shows that it can be done, and compares nothing."
    if runs["seed"].nunique() > 1:
        return (
            f"Its recipe ran with {len(runs)} seeds and was picked for the best one, so the mean is what to expect, "
            "and recipes whose ranges overlap are not told apart."
        )
    return (
        "Its recipe ran with one seed and was picked from many, so small differences may be chance, and no recipe is "
        "shown to be better than another."
    )


def _same_recipe(rows: pd.DataFrame, row: pd.Series) -> pd.Series:
    same = pd.Series(True, index=rows.index)
    for key in [*RECIPE, "requested_sparsity"]:
        same &= rows[key].isna() if pd.isna(row[key]) else (rows[key] == row[key]).fillna(False).astype(bool)
    return same


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """A row for every reason trials failed or stopped for: reason, state, number, trials (some ids). Most first."""
    ended = trials[trials["state"] != "complete"].assign(reason=lambda rows: rows["error"].fillna("not said"))
    grouped = ended.groupby(["reason", "state"])["trial_id"]
    frame = grouped.agg(number="size", trials=_some).reset_index()
    return frame.sort_values(["number", "reason"], ascending=[False, True], ignore_index=True)


def _some(names: pd.Series, most: int = 8) -> str:
    return ", ".join(names.iloc[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def page(results: Results, made: dict[str, tables.Table], drawn: dict[str, Figure], images: dict[str, bytes]) -> str:
    """report.html: one file that asks nothing of the network, in the light or the dark as the reader has it."""
    name = html.escape(str(results.study["study"].get("name", results.folder.name)))
    sentence, limits = (html.escape(part) for part in answer(results))
    shown = "\n".join(_image(style.title(drawn[key]), images[key]) for key in drawn)
    wide = {key: f'<div class="wide">{tables.as_html(*table)}</div>' for key, table in made.items()}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{name}: a pruning study</title>
<style>{CSS}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p class="quiet">{html.escape(_subject(results))}</p>
<p class="answer">{sentence}</p>
<p>{limits}</p>
{shown}
<h2>The front</h2>
{wide["summary"]}
<h2>By schedule</h2>
{wide["schedules"]}
<h2>Speed and size</h2>
{_speed(results)}
{wide["latency"]}
<h2>Failed and stopped trials</h2>
{_failed(results.trials)}
<h2>How to run it again</h2>
{_again(results)}
</main>
</body>
</html>
"""


def _subject(results: Results) -> str:
    dense = results.study.get("baseline") or {}
    return (
        f"{dense.get('model', 'a network')} on {dense.get('dataset', 'unknown data')}. Trials: {tally(results.trials)}."
    )


def _image(name: str, png: bytes) -> str:
    source = base64.b64encode(png).decode("ascii")
    return f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{source}"></figure>'


def _speed(results: Results) -> str:
    told = zeros(results)
    return f"<p>{html.escape(told)}</p>" if told else ""


def _failed(trials: pd.DataFrame) -> str:
    reasons = failures(trials)
    if reasons.empty:
        return "<p>Nothing: every trial ran to its end.</p>"
    return f'<div class="wide">{tables.as_html(reasons)}</div>'


def _again(results: Results) -> str:
    record = results.record
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    facts = {
        "Started": record.get("started"),
        "Command": record.get("command"),
        "Commit": record.get("git_commit"),
        "Versions": versions,
        "Hardware": _hardware(record.get("hardware") or {}),
    }
    lines = "\n".join(f"<dt>{key}</dt><dd>{html.escape(str(value))}</dd>" for key, value in facts.items() if value)
    data = f" --data-dir {shlex.quote(str(record['data_dir']))}" if record.get("data_dir") else ""
    study = yaml.safe_dump(results.study, sort_keys=False, allow_unicode=True)
    return f"""<p>Save the study file below as <code>again.yaml</code> and run</p>
<pre>python -m study.run --out again --space again.yaml{html.escape(data)}</pre>
<p>A recipe with a given seed gives the same row on the same machine. Which recipes are tried depends on the order in
which results come in, so only a study with <code>concurrency: 1</code> that was not interrupted repeats as a whole.</p>
<dl>{lines}</dl>
<details><summary>The study file, every key written out</summary>
<pre>{html.escape(study)}</pre></details>"""


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    return f"{hardware.get('cpu') or hardware.get('machine', 'unknown')}, {hardware.get('cores', '?')} cores, {gpus}"


CSS = """
:root { --paper: #fff; --ink: #1d1d1f; --quiet: #5c5c62; --line: #d9d9de; --box: #f4f4f6; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181a; --ink: #e8e8ea; --quiet: #a2a2a9; --line: #3a3b40; --box: #222327; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0 0 .5rem; font-size: 1.7rem; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.2rem; }
p { max-width: 46rem; }
.answer { font-size: 1.15rem; }
.quiet { margin: 0; color: var(--quiet); }
figure { max-width: 58rem; margin: 1.5rem 0; padding: .75rem; background: #fff; border-radius: 6px; }
figure { border: 1px solid var(--line); }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.wide { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; color: var(--quiet); padding-top: .5rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(46rem, calc(100vw - 2.5rem)); }
th, td { padding: .3rem .5rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-size: .72rem; font-weight: 600; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
pre { overflow-x: auto; padding: .75rem; background: var(--box); border-radius: 6px; font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; }
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Remake the tables, figures and page of a results folder."
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder, as study.run writes it")
    folder = parser.parse_args(argv).folder
    try:
        report(folder)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: wrote report.html, pareto.csv, tables/ ({', '.join([*tables.TABLES, 'layers'])}) ", end="")
    print(f"and figures/ ({', '.join(figures.FIGURES)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
