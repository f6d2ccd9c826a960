"""Runs of the same recipe: what a row of the front is worth over all seeds that it was run with."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from analysis.results_folder import RECIPE, Results, networks
from analysis.statistics import pareto
from analysis.statistics.intervals import Interval, mean_interval

MEASURED = ("accuracy", "test_accuracy")
MEANS = [f"{name}_{what}" for name in MEASURED for what in ("mean", "std")]


class Loss(NamedTuple):
    """What a recipe loses of the baseline's test accuracy, a fraction, and over how many runs."""

    loss: Interval
    runs: int


def recipes(trials: pd.DataFrame) -> pd.Series:
    """A number for every row's recipe: equal for runs that differ in nothing but the seed, and for confirmations."""
    numbers = trials.groupby([*RECIPE, "requested_sparsity"], dropna=False, sort=False).ngroup()
    of_trial = pd.Series(numbers.to_numpy(), index=trials["trial_id"])
    confirmed = trials["confirms"].map(of_trial)
    return confirmed.fillna(numbers).astype("int64")


def runs(trials: pd.DataFrame) -> pd.DataFrame:
    """The networks of `trials` with a column `recipe`; a run that was stored twice stands once."""
    rows = networks(trials)
    rows = rows.assign(recipe=recipes(trials).loc[rows.index])
    return rows[~rows.duplicated(["recipe", "seed"]) | rows["seed"].isna()]


def with_runs(best: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Rows of the front with MEANS and n: mean and standard deviation over all runs of the row's recipe, itself too.

    The standard deviation (n - 1) of a single run is missing. Columns are added at the end; index kept.
    """
    ran = runs(trials)
    grouped = ran.groupby("recipe")
    numbers = recipes(trials).loc[best.index]
    added = {f"{name}_mean": numbers.map(grouped[name].mean()) for name in MEASURED}
    added |= {f"{name}_std": numbers.map(grouped[name].std()) for name in MEASURED}
    return best.assign(**{name: added[name] for name in MEANS}, n=numbers.map(grouped.size()).astype("Int64"))


def front(results: Results) -> pd.DataFrame:
    """The study's front with what its recipes are worth over all their runs: `pareto.front` and `with_runs`."""
    return with_runs(pareto.front(results.trials, results.objectives), results.trials)


def runs_of(results: Results, row: pd.Series) -> pd.DataFrame:
    """All runs of a row's recipe."""
    rows = runs(results.trials)
    own = recipes(results.trials)[results.trials["trial_id"] == row["trial_id"]]
    return rows[rows["recipe"].isin(own)]


def loss(results: Results, row: pd.Series) -> Loss:
    """What the recipe of `row` loses against the baseline (whose own seed is not varied): mean and 95 % t interval."""
    dense = (results.record.get("baseline") or {}).get("test_accuracy")
    tested = runs_of(results, row)["test_accuracy"].dropna().astype("float64")
    return Loss(mean_interval((float("nan") if dense is None else dense) - tested), len(tested))
