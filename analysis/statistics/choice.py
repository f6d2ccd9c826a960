"""Which network of the front the report quotes."""

from __future__ import annotations

import pandas as pd

from analysis.results_folder import Results
from analysis.statistics import runs
from analysis.statistics.objectives import abscissa, unit_of

WITHIN = 0.01  # of the baseline's validation accuracy: what the answer asks of a network


def quoted(results: Results) -> pd.Series | None:
    """The row of the front that the answer quotes, with its runs' means; None where nothing is on the front."""
    best = runs.front(results)
    return None if best.empty else _choose(best, results)[0]


def _choose(best: pd.DataFrame, results: Results) -> tuple[pd.Series, str]:
    """The row of the front to be quoted, and by what it was chosen."""
    name = abscissa(results)
    dense = best["accuracy"] + best["accuracy_drop"]  # the baseline's, of the row itself
    near = best[dense - best["accuracy_mean"] <= WITHIN]
    if near.empty or name not in results.objectives:
        return best.iloc[int(best["accuracy_mean"].argmax())], "the most accurate"
    highest = results.objectives[name] == "max"
    values = near[name].astype("float64")
    most = f"{'highest' if highest else 'lowest'} {unit_of(name)[0]}"
    chosen = near.iloc[int(values.argmax() if highest else values.argmin())]
    return chosen, f"the one of {most} within {100 * WITHIN:.0f} point of the baseline"
