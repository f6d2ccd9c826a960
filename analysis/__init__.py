"""From a results folder to tables, figures and one page. Never torch or ray: figures can be remade on a laptop.

    python -m analysis.report results/schedules
    python -m analysis.compare results/schedules results/criteria

In a notebook, `analysis.load(DIR)` gives the trials as a data frame, `analysis.read(DIR)` all that a results folder
holds, and every function of `analysis.figures.FIGURES`, given the latter, a matplotlib figure.
"""

from analysis.comparisons import effects
from analysis.results_folder import Results, load, read
from analysis.statistics import pareto, runs

__all__ = ["Results", "effects", "load", "pareto", "read", "runs"]
