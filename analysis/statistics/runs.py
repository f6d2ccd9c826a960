"""Groups runs of the same recipe with different seeds, and averages front rows over them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from analysis.results_folder import RECIPE, Results, dense_control, networks
from analysis.statistics import pareto, tested_images
from analysis.statistics.intervals import Interval, mean_interval
from analysis.statistics.tested_images import shares

MEASURED = ("accuracy", "test_accuracy")
MEANS = [f"{name}_{what}" for name in MEASURED for what in ("mean", "std")]


class Loss(NamedTuple):
    """A recipe's drop of test accuracy (a fraction) below the better of baseline and dense control.

    runs: of the recipe. control: whether the control was the better one: a baseline that was not trained to its end
    gains by any further training, pruned or not. images: whether the interval is over the test images too.
    """

    loss: Interval
    runs: int
    control: bool
    images: bool


def recipes(trials: pd.DataFrame) -> pd.Series:
    """An integer per row that identifies its recipe: equal for runs that differ only in the seed.

    A confirmation run has the number of the trial that it confirms.
    """
    numbers = trials.groupby([*RECIPE, "requested_sparsity"], dropna=False, sort=False).ngroup()
    of_trial = pd.Series(numbers.to_numpy(), index=trials["trial_id"])
    confirmed = trials["confirms"].map(of_trial)
    return confirmed.fillna(numbers).astype("int64")


def runs(trials: pd.DataFrame) -> pd.DataFrame:
    """The networks of `trials` with a column `recipe`; rows with the same recipe and seed are kept once."""
    rows = networks(trials)
    rows = rows.assign(recipe=recipes(trials).loc[rows.index])
    return rows[~rows.duplicated(["recipe", "seed"]) | rows["seed"].isna()]


def with_runs(best: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """Adds MEANS (mean and standard deviation over all runs of the row's recipe) and n to rows of the front.

    The standard deviation (n - 1) of a single run is missing. Columns are appended; the index is kept.
    """
    ran = runs(trials)
    grouped = ran.groupby("recipe")
    numbers = recipes(trials).loc[best.index]
    added = {f"{name}_mean": numbers.map(grouped[name].mean()) for name in MEASURED}
    added |= {f"{name}_std": numbers.map(grouped[name].std()) for name in MEASURED}
    return best.assign(**{name: added[name] for name in MEANS}, n=numbers.map(grouped.size()).astype("Int64"))


def front(results: Results) -> pd.DataFrame:
    """The study's front with averages over the runs of each recipe: `pareto.front`, then `with_runs`."""
    return with_runs(pareto.front(results.trials, results.objectives), results.trials)


def runs_of(results: Results, row: pd.Series) -> pd.DataFrame:
    """All runs of a row's recipe."""
    rows = runs(results.trials)
    own = recipes(results.trials)[results.trials["trial_id"] == row["trial_id"]]
    return rows[rows["recipe"].isin(own)]


def loss(results: Results, row: pd.Series) -> Loss:
    """Drop of test accuracy of `row`'s recipe below the dense network (a single seed): mean and 95 % interval."""
    dense, control = dense_accuracies(results)
    ran = runs_of(results, row).dropna(subset=["test_accuracy"])
    better = bool(control > dense)
    reference = dense_control(results.trials)["trial_id"] if better else [tested_images.BASELINE]
    gap = tested_images.difference(shares(results, reference), shares(results, ran["trial_id"]))
    losses = (control if better else dense) - ran["test_accuracy"].astype("float64")
    return Loss(mean_interval(losses, tested_images.variance(gap)), len(ran), better, gap is not None)


def dense_accuracies(results: Results) -> tuple[float, float]:
    """Test accuracy of the baseline, and the mean of the dense controls; NaN where unknown."""
    dense = (results.record.get("baseline") or {}).get("test_accuracy")
    control = dense_control(results.trials)["test_accuracy"].astype("float64").mean()
    return float("nan") if dense is None else float(dense), float(control)
