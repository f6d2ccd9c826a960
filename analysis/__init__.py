"""From a results folder to tables, figures and one page. Never torch or ray: figures can be remade on a laptop.

    python -m analysis.report results/schedules

remakes them all; in a notebook, `analysis.load("results/schedules")` gives the trials as a data frame.
"""

from analysis.frame import Results, load

__all__ = ["Results", "load"]
