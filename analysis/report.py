"""The command: every table, figure and the page of a study, remade from its results folder.

    python -m analysis.report results/schedules
    python -m analysis.report results/schedules --watch      # served on this machine alone, remade as the study runs

Exit codes: 0 done, 2 the folder is no results folder, or cannot be written to.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from matplotlib.figure import Figure

from analysis import tables
from analysis.figures import registry
from analysis.page.page import page, smaller
from analysis.page.watch import PROGRAM, serve
from analysis.presentation import rendering, style
from analysis.results_folder import Results, read
from analysis.statistics import runs


def report(folder: Path, *, jobs: int = 1, live: str = "") -> list[str]:
    """Write pareto.csv, tables/, figures/ and report.html into a results folder, each file whole or not at all.

    The names of the figures made. jobs: processes that draw; more than one only where nothing else runs in this
    process, since they are forks of it. Raises ValueError where `folder` is no results folder.
    """
    results = read(folder)
    rendering.write_whole(folder / "pareto.csv", rendering.as_csv(runs.front(results)))
    rendering.write_whole(folder / "tables" / "layers.csv", rendering.as_csv(tables.layers(results)))
    made = tables.applicable(results)
    for name, table in made.items():
        rendering.write_table(table.frame, folder / "tables" / name, table.caption)
    drawn = _draw(results, registry.applicable(results), jobs)
    for name, (_, png, pdf, _) in drawn.items():
        rendering.write_whole(folder / "figures" / f"{name}.png", png)
        rendering.write_whole(folder / "figures" / f"{name}.pdf", pdf)
    shown = {name: (title, image) for name, (title, _, _, image) in drawn.items()}
    rendering.write_whole(folder / "report.html", page(results, made, shown, live=live))
    return list(drawn)


Drawn = tuple[str, bytes, bytes, bytes]


def _draw(results: Results, names: list[str], jobs: int) -> dict[str, Drawn]:
    """Of each figure its title, png, pdf, and the image that the page shows."""
    if jobs < 2 or len(names) < 2:
        return {name: _one(results, name) for name in names}
    with ProcessPoolExecutor(min(jobs, len(names)), get_context("fork"), _remember, (results,)) as pool:
        return dict(zip(names, pool.map(_remembered, names), strict=True))


def _one(results: Results, name: str) -> Drawn:
    figure: Figure = registry.FIGURES[name](results)
    png = style.render(figure, "png")
    return style.title(figure), png, style.render(figure, "pdf"), smaller(png)


_kept: list[Results] = []


def _remember(results: Results) -> None:
    _kept[:] = [results]


def _remembered(name: str) -> Drawn:
    return _one(_kept[0], name)


def main(argv: list[str] | None = None, prog: str = "python -m analysis.report") -> int:
    """Run the command; the exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Remake the tables, figures and page of a results folder.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder, as study.run writes it")
    parser.add_argument("--watch", action="store_true", help="serve the page, and remake it while the study runs")
    parser.add_argument("--port", type=int, default=0, help="of --watch; by default one that is free")
    given = parser.parse_args(argv)
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    try:
        names = report(given.folder, jobs=jobs, live=PROGRAM if given.watch else "")
        if given.watch:
            serve(given.folder, lambda: report(given.folder, live=PROGRAM), given.port)
            names = report(given.folder, jobs=jobs)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{given.folder}: wrote report.html, pareto.csv, tables/ and figures/ ({', '.join(names)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
