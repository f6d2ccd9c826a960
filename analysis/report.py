"""Command that rebuilds every table, every figure and the report page from a results folder.

    python -m analysis.report results/schedules
    python -m analysis.report results/schedules --watch      # serve on localhost, rebuild while the study runs

Exit codes: 0 done, 2 not a results folder, or not writable.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

from matplotlib.figure import Figure

from analysis import tables
from analysis.figures import registry
from analysis.page.page import page, smaller
from analysis.page.watch import PROGRAM, serve
from analysis.presentation import rendering, style
from analysis.refusal import refused
from analysis.results_folder import Results, read
from analysis.statistics import runs


def report(folder: Path, *, jobs: int = 1, live: str = "") -> list[str]:
    """Write pareto.csv, tables/, figures/ and report.html into a results folder, each file atomically.

    Args:
      folder: the results folder.
      jobs: drawing processes. They are forked, so use more than one only if this process has no other threads.
      live: JavaScript added to a page that is served while the study runs.

    Returns: the names of the figures made.

    Raises:
      ValueError: `folder` is not a results folder.
    """
    results = read(folder)
    made, drawn = tables.applicable(results), _draw(results, registry.applicable(results), jobs)
    shown = {name: (title, image) for name, (title, _, _, image) in drawn.items()}
    files: dict[str, str | bytes] = {
        "pareto.csv": rendering.as_csv(runs.front(results)),
        "tables/layers.csv": rendering.as_csv(tables.layers(results)),
        **{f"figures/{name}.png": png for name, (_, png, _, _) in drawn.items()},
        **{f"figures/{name}.pdf": pdf for name, (_, _, pdf, _) in drawn.items()},
        "report.html": page(results, made, shown, live=live),
    }
    # Nothing is written before every file of the folder has been read: one that is refused leaves the old report.
    for name, table in made.items():
        rendering.write_table(table.frame, folder / "tables" / name, table.caption)
    for name, content in files.items():
        rendering.write_whole(folder / name, content)
    return list(drawn)


Drawn = tuple[str, bytes, bytes, bytes]


def _draw(results: Results, names: list[str], jobs: int) -> dict[str, Drawn]:
    """Figure name -> its title, png, pdf, and the smaller png for the page."""
    if jobs < 2 or len(names) < 2 or "fork" not in get_all_start_methods():
        return {name: _draw_figure(results, name) for name in names}
    with ProcessPoolExecutor(min(jobs, len(names)), get_context("fork"), _init_worker, (results,)) as pool:
        return dict(zip(names, pool.map(_draw_in_worker, names), strict=True))


def _draw_figure(results: Results, name: str) -> Drawn:
    figure: Figure = registry.FIGURES[name](results)
    png = style.render(figure, "png")
    return style.title(figure), png, style.render(figure, "pdf"), smaller(png)


_worker_results: list[Results] = []


def _init_worker(results: Results) -> None:
    _worker_results[:] = [results]


def _draw_in_worker(name: str) -> Drawn:
    return _draw_figure(_worker_results[0], name)


def main(argv: list[str] | None = None, prog: str = "python -m analysis.report") -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog=prog, description="Rebuild the tables, figures and page of a results folder.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="a results folder written by study.run")
    parser.add_argument("--watch", action="store_true", help="serve the page and rebuild it while the study runs")
    parser.add_argument("--port", type=int, default=0, help="port for --watch (default: any free port)")
    given = parser.parse_args(argv)
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    try:
        names = report(given.folder, jobs=jobs, live=PROGRAM if given.watch else "")
        if given.watch:
            serve(given.folder, lambda: report(given.folder, live=PROGRAM), given.port)
            names = report(given.folder, jobs=jobs)
    except (ValueError, OSError) as error:
        return refused(error)
    print(f"{given.folder}: wrote report.html, pareto.csv, tables/ and figures/ ({', '.join(names)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
