"""Makes tables, figures and a report page from a results folder. Imports neither torch nor ray, so it runs on a laptop.

    python -m analysis.report results/schedules
    python -m analysis.compare results/schedules results/criteria

In a notebook, `analysis.load(DIR)` returns the trials as a data frame and `analysis.read(DIR)` the whole results
folder as a `Results`. Every function of `analysis.figures.FIGURES` takes a `Results` and returns a matplotlib figure.
"""

from analysis.comparisons import effects
from analysis.results_folder import Results, load, read
from analysis.statistics import pareto, runs

__all__ = ["Results", "effects", "load", "pareto", "read", "runs"]
