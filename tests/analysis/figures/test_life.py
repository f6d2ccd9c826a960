"""A trial's life, what was pruned when, and the accuracy after each cut; costs and recipes of the front."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import Results, read, tables
from analysis.figures.costs import costs, costs_data, recipes, recipes_data
from analysis.figures.life import iterations_data, life, pruned, pruned_data
from analysis.presentation import style
from analysis.statistics import pareto
from tests.results_folder import BASELINE, make


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("results") / "study"
    return read(make(folder, 60, 0, granularities=("weight", "channel"), measured=True))


def test_a_life_has_accuracy_loss_and_sparsity(results: Results) -> None:
    figure = life(results)
    assert [ax.get_ylabel() for ax in figure.axes] == ["validation accuracy (%)", "train loss (nats)", "sparsity (%)"]
    front = pareto.front(results.trials, results.objectives)
    assert len(figure.axes[1].lines) == len(front)
    assert np.asarray(figure.axes[1].lines[0].get_ydata()).tolist() == pytest.approx([0.44, 0.38, 0.32, 0.26, 0.2])


def test_few_networks_are_all_drawn(tmp_path: Path) -> None:
    figure = life(read(make(tmp_path / "few", 12, 0)))
    assert len(figure.axes[1].lines) == 12
    assert style.title(figure) == "Fine-tuning of 12 networks"
    assert "on the front" in style.title(life(read(make(tmp_path / "more", 13, 0))))


def test_all_parameters_are_gone_at_the_end(results: Results) -> None:
    rows = pruned_data(results)
    last = rows.groupby("trial_id").last()
    row = results.trials.set_index("trial_id").loc[last.index]
    assert last["gone"].to_numpy() == pytest.approx((BASELINE["params"] - row["nonzero_params"]).to_numpy(dtype=float))
    assert last["time"].tolist() == pytest.approx([5 * 5.05] * len(last))
    assert "thousands" in pruned(results).axes[0].get_ylabel()


def test_iterations_are_the_last_epochs_before_a_cut(results: Results) -> None:
    rows = iterations_data(results)
    assert set(rows["schedule"]) <= {"iterative", "gradual"}  # a single cut is no iteration
    one = rows[rows["schedule"] == "iterative"].groupby("trial_id")
    assert one["iteration"].apply(list).tolist() == [[1, 2, 3]] * one.ngroups
    assert one["epoch"].apply(list).tolist() == [[1, 2, 5]] * one.ngroups  # cuts at epochs 1, 2 and 3 of 5
    history = results.history.set_index(["trial_id", "epoch"])
    line = rows.iloc[0]
    assert line["accuracy"] == history.loc[(line["trial_id"], line["epoch"]), "accuracy"]


def test_sizes_average_what_is_of_one_sparsity(results: Results) -> None:
    frame = tables.sizes(results).frame
    trials = results.trials[results.trials["kind"] == "search"]
    here = trials[(trials["granularity"] == "channel") & trials["sparsity"].between(0.6, 0.7, inclusive="left")]
    line = frame.query("granularity == 'channel' and sparsity_range == '60 to 70 %'").iloc[0]
    assert line["networks"] == len(here)
    assert line["mean"] == pytest.approx(here["test_accuracy"].mean())
    assert line["size_bytes"] == pytest.approx(here["size_bytes"].mean())
    assert line["trial_id"] == here.sort_values("accuracy")["trial_id"].iloc[-1]
    assert frame["networks"].sum() == len(trials)


def test_costs_have_a_row_for_each_network_and_cost(results: Results) -> None:
    rows = costs_data(results)
    assert rows["cost"].value_counts().to_dict() == {"nonzero_macs": 60, "macs": 60, "latency_ms": 60}
    figure = costs(results)
    assert [ax.get_xlabel().split("\n")[-1] for ax in figure.axes] == ["(millions)", "(millions)", "(ms)"]
    upright = [line for ax in figure.axes for line in ax.lines if list(line.get_ydata()) == [0, 1]]
    dotted = [line.get_xdata()[0] for line in upright]
    assert sorted(set(np.round(dotted, 4))) == [3.2, 40.8132]


def test_weights_alone_have_no_macs_of_their_own(tmp_path: Path) -> None:
    rows = costs_data(read(make(tmp_path / "study", 6, 0)))
    assert set(rows["cost"]) == {"nonzero_macs"}  # dense kernels run them all the same, and nothing was timed


def test_recipes_of_the_front_side_by_side(results: Results) -> None:
    rows = recipes_data(results)
    front = pareto.front(results.trials, results.objectives)
    assert rows["trial_id"].tolist() == front.sort_values("sparsity")["trial_id"].tolist()
    assert rows.columns[1:4].tolist() == ["granularity", "scope", "schedule"]
    figure = recipes(results)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == len(rows.columns) - 1]
    assert len(lines) == len(front)
    ends = [float(line.get_ydata()[-1]) for line in lines]
    assert ends.index(max(ends)) == int(np.argmax(rows["test_accuracy"]))


def test_one_recipe_is_beside_nothing(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 1, 0))
    assert recipes_data(results).empty
    assert style.title(recipes(results)).startswith("There are no two recipes")


def test_without_a_baseline_nothing_is_known_to_be_gone(results: Results) -> None:
    record = {key: value for key, value in results.record.items() if key != "baseline"}
    assert pruned_data(results._replace(record=record)).empty
    assert isinstance(costs_data(results._replace(record=record)), pd.DataFrame)
