"""Builds report.html: a single self-contained file without network requests, in light or dark mode."""

from __future__ import annotations

import base64
import html
import io
import shlex
from importlib import resources
from typing import Any

import pandas as pd
import yaml
from PIL import Image

from analysis.figures.speedup import zeros
from analysis.page import interactive
from analysis.page.answer import answer
from analysis.presentation import rendering
from analysis.presentation.rendering import Table
from analysis.results_folder import Results, tally

HEADINGS = {
    "summary": "Pareto front",
    "search": "What the search had found, and when",
    "criteria": "By criterion",
    "scopes": "By scope",
    "ranks": "Mean ranks of the criteria",
    "effects": "Best level of each axis",
    "importance": "What the best trials have in common",
    "schedules": "Schedules against the baseline",
    "sizes": "Share pruned, size and accuracy",
    "ways": "Pruned, quantized, taught: at equal size",
    "iterations": "Accuracy after each pruning step",
    "latency": "Speed and size",
}
POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(results: Results, made: dict[str, Table], drawn: dict[str, tuple[str, bytes]], *, live: str = "") -> str:
    """The report page as HTML.

    Args:
      results: the study.
      made: table name (a key of HEADINGS) -> table.
      drawn: figure name -> its title and png.
      live: JavaScript that reloads the page while the study runs; empty for a static page.
    """
    name = html.escape(str(results.study["study"].get("name", results.folder.name)))
    sentence, limits = (html.escape(part) for part in answer(results))
    content = interactive.data(results)
    notes = {"latency": _speed_note(results)}
    sections = "\n".join(
        f'<h2 id="{key}">{HEADINGS[key]}</h2>\n{notes.get(key, "")}\n'
        f'<div class="wide">{rendering.as_html(*table)}</div>'
        for key, table in made.items()
    )
    shown = "\n".join(_image(*figure) for figure in drawn.values())
    policy = POLICY + "; connect-src 'self'" * bool(live)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{name}: a pruning study</title>
<style>{_resource("page.css")}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p class="quiet">{html.escape(_subtitle(results))}</p>
<p class="answer">{sentence}</p>
<p>{limits}</p>
{_contents(made, bool(content["ids"]))}
{_explore_section(content)}
{sections}
<h2 id="figures">Figures</h2>
{shown}
<h2 id="failures">Failed and stopped trials</h2>
{_failures_section(results.trials)}
<h2 id="rerun">How to run it again</h2>
{_rerun_section(results)}
</main>
{interactive.scripts(content)}
{f"<script>{live}</script>" if live else ""}
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("analysis.page").joinpath(name).read_text(encoding="utf-8")


def _contents(made: dict[str, Table], explored: bool) -> str:
    """Links to the headings."""
    parts = {"explore": "Explore"} if explored else {}
    parts |= {key: HEADINGS[key] for key in made}
    parts |= {"figures": "Figures", "failures": "Failed and stopped trials", "rerun": "How to run it again"}
    links = "".join(f'<li><a href="#{key}">{words}</a></li>' for key, words in parts.items())
    return f'<nav class="screen" aria-label="Contents"><ul>{links}</ul></nav>'


def _explore_section(content: dict[str, Any]) -> str:
    """Placeholders for the plot, the selected trial and the list of trials; empty without a network."""
    if not content["ids"]:
        return ""
    heads = "".join(f'<th scope="col">{html.escape(rendering.label(name))}</th>' for name in content["listed"])
    return f"""<section class="screen">
<h2 id="explore">Explore</h2>
<p class="quiet">Hover over a point for its recipe; click it, or a row below, to open the trial; with Shift, beside
those that are open. <span id="counted"></span></p>
<div id="controls"><label>x axis <select id="abscissa"></select></label>
<label>y axis <select id="ordinate"></select></label>
<label>colour <select id="colour"></select></label></div>
<div id="plot" role="img" aria-label="A point for every network, as also in the figures below"></div>
<section id="trial" hidden></section>
<div id="trials" class="wide"><table><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>
</section>"""


def _subtitle(results: Results) -> str:
    dense = results.study.get("baseline") or {}
    return (
        f"{dense.get('model', 'a network')} on {dense.get('dataset', 'unknown data')}. Trials: {tally(results.trials)}."
    )


def _image(name: str, png: bytes) -> str:
    source = base64.b64encode(png).decode("ascii")
    return f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{source}"></figure>'


def smaller(png: bytes) -> bytes:
    """The png with a palette of 256 colours (a third of the size, no visible loss), or unchanged if that is smaller."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(file, "png")
    return min(file.getvalue(), png, key=len)


def _speed_note(results: Results) -> str:
    note = zeros(results)
    return f"<p>{html.escape(note)}</p>" if note else ""


def failures(trials: pd.DataFrame) -> pd.DataFrame:
    """Reasons why trials failed or were stopped: reason, state, number, trials (some ids). Most frequent first."""
    ended = trials[trials["state"] != "complete"]
    early = ended["state"].map(
        {
            "stopped": "others were better after the same number of epochs",
            "screened": "another candidate was more promising before training",
        }
    )
    ended = ended.assign(reason=ended["error"].fillna(early).fillna("unknown"))
    grouped = ended.groupby(["reason", "state"])["trial_id"]
    frame = grouped.agg(number="size", trials=_first_ids).reset_index()
    return frame.sort_values(["number", "reason"], ascending=[False, True], ignore_index=True)


def _first_ids(names: pd.Series, most: int = 8) -> str:
    return ", ".join(names.iloc[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _failures_section(trials: pd.DataFrame) -> str:
    reasons = failures(trials)
    if reasons.empty:
        return "<p>None: every trial completed.</p>"
    return f'<div class="wide">{rendering.as_html(reasons)}</div>'


def _rerun_section(results: Results) -> str:
    record = results.record
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    facts = {
        "Started": record.get("started"),
        "Command": record.get("command"),
        "Commit": record.get("git_commit"),
        "Versions": versions,
        "Hardware": _hardware(record.get("hardware") or {}),
        "Study seed": results.study["study"].get("seed"),
        "Trial seeds": _seeds(results.trials),
    }
    lines = "\n".join(
        f"<dt>{key}</dt><dd>{html.escape(str(value))}</dd>" for key, value in facts.items() if value not in (None, "")
    )
    data = f" --data-dir {shlex.quote(str(record['data_dir']))}" if record.get("data_dir") else ""
    study = yaml.safe_dump(results.study, sort_keys=False, allow_unicode=True)
    return f"""<p>Save the study file below as <code>again.yaml</code> and run</p>
<pre>python -m study.run --out again --space again.yaml{html.escape(data)}</pre>
<p>A recipe with a given seed gives the same row on the same machine. Which recipes are tried depends on the order in
which results arrive, so a whole study is repeatable only with <code>concurrency: 1</code> and without interruption.</p>
<dl>{lines}</dl>
<details><summary>The study file with every key</summary>
<pre>{html.escape(study)}</pre></details>"""


def _seeds(trials: pd.DataFrame) -> str:
    """The number of different trial seeds."""
    known = trials["seed"].dropna()
    return f"{known.nunique()} different; see the seed column of trials.csv" if len(known) else ""


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = ", ".join(hardware.get("gpus") or []) or "no GPU"
    return f"{hardware.get('cpu') or hardware.get('machine', 'unknown')}, {hardware.get('cores', '?')} cores, {gpus}"
