"""Scores of layers and histograms of weights: read as the engine writes them, and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analysis import read
from analysis import results_folder as frames
from analysis.figures import registry
from analysis.layers.weights import histogram_data, histograms, maps
from analysis.presentation import style
from analysis.statistics import pareto
from analysis.statistics.choice import quoted
from pruning.measure import distributions as engine
from study.results.files import write_rows
from tests.questions import grid, layer_names, write_histograms, write_scores
from tests.results_folder import make


def test_knows_the_columns_the_engine_writes() -> None:
    assert frames.SCORES == engine.SCORES
    assert frames.HISTOGRAM == engine.HISTOGRAM


def test_reads_the_engines_own_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    batch = (torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
    folder = make(tmp_path / "study", 2, 0)
    write_rows(folder / "layer_scores.csv", engine.SCORES, engine.layer_scores(model, [batch]))
    rows = frames.scores_of(read(folder))
    assert rows["layer"].tolist() == ["0", "3"] * 2
    assert rows["weights"].tolist() == [108, 288] * 2
    assert (rows["q05"] <= rows["q50"]).all()
    assert "layer_maps" in registry.applicable(read(folder))


def test_the_map_has_a_line_for_each_layer_and_a_place_for_zero(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 2, 0)
    write_scores(folder, 54)
    rows = frames.scores_of(read(folder))
    assert rows.query("layer == 'layer14.1.conv'")["q05"].eq(0).all()
    figure = maps(read(folder))
    gradients, saliencies = figure.axes
    assert [label.get_text() for label in gradients.get_yticklabels()] == layer_names(54)
    medians = [line for line in gradients.lines if line.get_marker() == "o"][0]
    assert np.asarray(medians.get_xdata()).tolist() == pytest.approx(rows["q50"][:54].tolist())
    lines: Any = gradients.collections[0]
    thin = lines.get_segments()
    assert len(thin) == 54
    assert all(segment[0, 0] > 0 for segment in thin)
    assert thin[0][:, 0].tolist() == pytest.approx(rows.loc[0, ["q05", "q95"]].tolist())
    assert gradients.get_ylim() == (54, 0)
    assert "∂L/∂w" in saliencies.get_xlabel()


def test_histograms_are_of_the_network_that_the_answer_quotes(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 30, 0)
    results = read(folder)
    best = pareto.front(results.trials, results.objectives)
    chosen = quoted(results)
    assert chosen is not None
    write_histograms(folder, best["trial_id"].iloc[-1], 3)
    assert histogram_data(results)["trial_id"].unique().tolist() == [best["trial_id"].iloc[-1]]
    write_histograms(folder, chosen["trial_id"], 20)
    rows = histogram_data(results)
    assert rows["trial_id"].unique().tolist() == [chosen["trial_id"]]
    layers = rows["layer"].unique().tolist()
    assert len(layers) == 6
    assert rows.groupby("layer")["dense"].sum().eq(2000).all()
    figure = histograms(results)
    assert figure.axes[0].get_title("left") == "layer1.0.conv: 20.0 % left"
    assert f"Trial {chosen['trial_id']} (magnitude l1, weight, " in " ".join(figure.get_supxlabel().split())
    patches: Any = figure.axes[0].patches
    before, after = patches
    assert before.get_data().values.sum() == 2000
    assert after.get_data().values.tolist() == rows["pruned"][:60].tolist()


def test_the_layers_that_lost_most_are_shown_in_the_networks_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "study", 30, 0)
    chosen = quoted(read(folder))
    assert chosen is not None
    write_histograms(folder, chosen["trial_id"], 20)
    path = folder / "models" / chosen["trial_id"] / "histograms.csv"
    table = pd.read_csv(path)
    names = layer_names(20)
    spared = table["layer"].isin(names[:14])
    table.loc[spared, "pruned"] = table.loc[spared, "dense"]
    table.to_csv(path, index=False)
    assert histogram_data(read(folder))["layer"].unique().tolist() == names[14:]


def test_weights_and_channels_have_histograms_of_a_network_each(tmp_path: Path) -> None:
    folder = grid(tmp_path / "study", {"granularity": ["weight", "channel"], "requested_sparsity": [0.3, 0.5]})
    results = read(folder)
    of_kind = dict(list(results.trials.groupby("granularity")["trial_id"]))
    for trial_id in results.trials["trial_id"]:
        write_histograms(folder, trial_id, 20)
    rows = histogram_data(results)
    first, second = rows["trial_id"].unique()
    assert {first in set(of_kind["weight"]), second in set(of_kind["weight"])} == {True, False}
    assert rows.groupby("trial_id")["layer"].nunique().tolist() == [3, 3]
    figure = histograms(results)
    assert [ax.get_ylabel()[:4] for ax in figure.axes[::3]] == [first, second]
    caption = " ".join(figure.get_supxlabel().split())
    assert f"Trial {first} (" in caption
    assert f"and trial {second} (" in caption


def test_without_files_words_say_so(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 3, 0))
    assert style.title(maps(results)).startswith("There is no layer_scores.csv")
    assert style.title(histograms(results)).startswith("No network has a histograms.csv")
    assert not {"layer_maps", "weight_histograms"} & set(registry.applicable(results))
