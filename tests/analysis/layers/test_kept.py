"""The figure of layers: shares worked by hand, the networks chosen, and that its letters have room."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis import Results, read
from analysis.layers.kept import layers, layers_data, spaced
from analysis.statistics import pareto
from study.results.files import write_layers
from tests.results_folder import make

BOTH = ("weight", "channel")
NAMES = ["layer", "type", "in_channels", "out_channels", "params", "weights", "nonzero_weights", "macs", "nonzero_macs"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A front of more networks than are drawn, of a network as deep as ResNet-50."""
    objectives = {"accuracy": "max", "sparsity": "max", "macs": "min"}
    folder = tmp_path_factory.mktemp("results") / "study"
    return read(make(folder, 200, 0, granularities=BOTH, layers=54, objectives=objectives))


def test_shares_are_of_the_dense_network(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 1, 0, granularity="channel"))
    (tmp_path / "study" / "models" / "0000").mkdir(parents=True)
    dense = [["first", "Conv2d", 3, 8, 224, 216, 210, 900, 900], ["fc", "Linear", 8, 10, 90, 80, 80, 80, 80]]
    cut = [["first", "Conv2d", 3, 6, 168, 162, 54, 675, 225], ["fc", "Linear", 6, 10, 70, 60, 60, 60, 60]]
    rows = [[dict(zip(NAMES, line, strict=True)) for line in lines] for lines in (dense, cut)]
    write_layers(tmp_path / "study" / "models" / "0000" / "layers.csv", *rows)
    found = layers_data(results)
    assert found.columns.tolist() == ["trial_id", "granularity", "sparsity", "layer", "weights_left", "channels_left"]
    assert found["layer"].tolist() == ["first", "fc"]
    assert found["weights_left"].tolist() == [0.25, 0.75]  # 54 of 216, 60 of 80
    assert found["channels_left"].tolist() == [0.75, 1.0]


def test_rows_are_the_fronts_by_rising_sparsity(results: Results) -> None:
    rows = layers_data(results)
    front = pareto.front(results.trials, results.objectives)
    assert len(front) == 21
    assert rows["trial_id"].unique().tolist() == front.sort_values("sparsity")["trial_id"].tolist()
    assert rows.groupby("trial_id", sort=False)["layer"].apply(list).map(len).tolist() == [54] * 21
    assert rows.loc[rows["granularity"] == "weight", "channels_left"].eq(1).all()


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(2, 12), st.integers(1, 3))
def test_networks_are_chosen_evenly(count: int, most: int, lines: int) -> None:
    rows = pd.DataFrame({"trial_id": [f"{n:02d}" for n in range(count) for _ in range(lines)]})
    chosen = spaced(rows, most)["trial_id"]
    names = [int(name) for name in chosen.unique()]
    assert len(names) == min(count, most)
    assert chosen.value_counts().eq(lines).all()
    assert names == sorted(names)
    gaps = [after - before for before, after in pairwise(names)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert not names or names[-1] == count - 1
    assert not names or names[0] == 0 or count == 1


def test_a_cell_for_every_layer_and_network(results: Results) -> None:
    figure = layers(results)
    weights, channels, bar = figure.axes
    rows = spaced(layers_data(results))
    assert [ax.get_title("left") for ax in (weights, channels)] == ["weights", "channels"]
    drawn = np.asarray(weights.collections[0].get_array())
    assert drawn.shape == (54, 12)
    assert drawn[:, 0].tolist() == pytest.approx((100 * rows["weights_left"][:54]).tolist())
    assert [text.get_text() for text in weights.texts[:2]] == [f"{percent:.0f}" for percent in drawn[0, :2]]
    cut = rows[rows["granularity"] == "channel"]
    first = np.asarray(channels.collections[0].get_array())[0].tolist()
    assert first == pytest.approx((100 * cut["channels_left"][::54]).tolist())
    labels = [label.get_text() for label in weights.get_xticklabels()]
    sparsities = rows["sparsity"].iloc[::54]
    expected = zip(sparsities, rows["granularity"].iloc[::54], strict=True)
    assert labels == [f"{100 * sparsity:.1f}\n{granularity[0]}" for sparsity, granularity in expected]
    assert {label.get_text()[-1] for label in channels.get_xticklabels()} == {"c"}
    assert weights.get_ylim() == (54, 0)  # the first layer on top
    assert bar.get_ylabel() == "left (%)"
    assert "Shown: 12 of 21, evenly spaced by rank of sparsity." in caption(figure)
    assert "c:\u00a0channel" in caption(figure)


def test_more_is_left_where_it_is_darker(results: Results) -> None:
    mesh = layers(results).axes[0].collections[0]
    lightness = mesh.cmap(mesh.norm(np.linspace(0, 100, 50)))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()


@pytest.mark.parametrize(("study", "panels"), [({}, 1), ({"granularity": "channel", "granularities": ("channel",)}, 2)])
def test_channels_have_a_panel_where_some_were_cut(tmp_path: Path, study: dict, panels: int) -> None:
    figure = layers(read(make(tmp_path / "study", 6, 0, layers=9, **study)))
    assert len(figure.axes) == panels + 1
    assert ("output channels" in caption(figure)) == (panels == 2)


def test_without_a_granularity_there_is_none_to_spell_out(tmp_path: Path) -> None:
    figure = layers(read(make(tmp_path / "study", 2, 0, layers=2, granularity=None)))
    assert caption(figure).endswith("left and non-zero.")
    assert {label.get_text()[-2:] for label in figure.axes[0].get_xticklabels()} == {"\n?"}


def test_what_has_no_file_is_counted(tmp_path: Path) -> None:
    for count, where in ((12, ""), (13, " on the front")):
        results = read(make(tmp_path / f"{count}", count, 0, layers=9))
        front = pareto.front(results.trials, results.objectives)
        (results.folder / "models" / front["trial_id"].iloc[0] / "layers.csv").unlink()
        figure = layers(results)
        assert "Without a layers.csv: 1 network." in caption(figure)
        left = (len(front) if where else count) - 1
        assert figure.get_suptitle() == f"Share left in each layer: {left} networks{where}"


def test_a_layer_that_one_network_lacks_is_an_empty_cell(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 12, 0, layers=9))
    last = pareto.front(results.trials, results.objectives)["trial_id"].iloc[-1]
    path = results.folder / "models" / last / "layers.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    drawn = layers(results).axes[0].collections[0].get_array()
    assert np.ma.getmaskarray(drawn).sum() == 1
    assert np.ma.getmaskarray(drawn)[-1, -1]


def test_of_very_many_layers_some_are_named(tmp_path: Path) -> None:
    figure = layers(read(make(tmp_path / "study", 4, 0, layers=170)))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[:2] == ["layer1.0.conv", "layer1.3.conv"]
    assert len(names) == 57
    assert not figure.axes[0].texts
    assert figure.get_figheight() < 12


@pytest.mark.parametrize("count", [1, 10, 54, 170])
def test_nothing_overlaps_or_is_clipped(results: Results, tmp_path: Path, count: int) -> None:
    figure = layers(results if count == 54 else read(make(tmp_path / "study", 12, 0, layers=count, granularities=BOTH)))
    figure.draw_without_rendering()
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            assert not any(one.overlaps(other) for one, other in pairwise(boxes))
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
        width = ax.transData.transform([(0, 0), (1, 0)])[:, 0]
        assert all(text.get_window_extent().width < width[1] - width[0] for text in ax.texts)


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")
