"""From a results folder to tables, figures and one page. Never torch or ray: figures can be remade on a laptop.

    python -m analysis.report results/schedules
    python -m analysis.compare results/schedules results/criteria

In a notebook, `analysis.load(DIR)` gives the trials as a data frame, `analysis.read(DIR)` all that a results folder
holds, and every function of `analysis.figures.FIGURES`, given the latter, a matplotlib figure.
"""

from analysis.frame import Results, load, read

__all__ = ["Results", "load", "read"]
