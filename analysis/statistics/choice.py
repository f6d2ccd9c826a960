"""Selects the front network that the report's answer quotes."""

from __future__ import annotations

import pandas as pd

from analysis.results_folder import Results
from analysis.statistics import runs
from analysis.statistics.objectives import abscissa, unit_of

WITHIN = 0.01  # largest drop of validation accuracy below the baseline that the answer accepts


def quoted(results: Results) -> pd.Series | None:
    """The front row that the answer quotes, with means over its runs; None if the front is empty."""
    best = runs.front(results)
    return None if best.empty else _choose(best, results)[0]


def _choose(best: pd.DataFrame, results: Results) -> tuple[pd.Series, str]:
    """The front row to quote, and the reason in words."""
    name = abscissa(results)
    dense = best["accuracy"] + best["accuracy_drop"]  # the baseline's accuracy
    near = best[dense - best["accuracy_mean"] <= WITHIN]
    if near.empty or name not in results.objectives:
        return best.iloc[int(best["accuracy_mean"].argmax())], "the most accurate"
    highest = results.objectives[name] == "max"
    values = near[name].astype("float64")
    most = f"{'highest' if highest else 'lowest'} {unit_of(name)[0]}"
    chosen = near.iloc[int(values.argmax() if highest else values.argmin())]
    return chosen, f"the one with the {most} within {100 * WITHIN:.0f} point of the baseline"
