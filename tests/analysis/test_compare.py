"""Two studies side by side."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from analysis import Results, read
from analysis.compare import facts, fronts, hypervolumes, main, ranges
from analysis.statistics import pareto
from tests.results_folder import make


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    folder = tmp_path_factory.mktemp("results")
    return read(make(folder / "one", 40, 0, seeds=2)), read(make(folder / "other", 25, 0, seeds=3, schedule="gradual"))


def test_each_range_has_the_best_on_validation_of_both(pair: tuple[Results, Results]) -> None:
    frame = ranges(*pair).frame.set_index("sparsity_range")
    line = frame.loc["50 to 70 %"]
    found = []
    for results, column in zip(pair, ("first_trial", "second_trial"), strict=True):
        rows = results.trials[results.trials["kind"] == "search"]
        here = rows[(rows["sparsity"].round(3) >= 0.5) & (rows["sparsity"].round(3) < 0.7)]
        best = here.sort_values("accuracy").iloc[-1]
        assert line[column] == best["trial_id"]
        found.append(rows.loc[rows["requested_sparsity"] == best["requested_sparsity"], "test_accuracy"])
    assert line["runs"] == "2 and 3"
    assert line["difference"] == pytest.approx(found[0].mean() - found[1].mean())
    expected = stats.ttest_ind(*found, equal_var=False).confidence_interval(0.95)
    assert (line["low"], line["high"]) == pytest.approx((expected.low, expected.high))


def test_what_only_one_study_has_is_no_difference(pair: tuple[Results, Results]) -> None:
    sparse = pair[1]._replace(trials=pair[1].trials[pair[1].trials["sparsity"] > 0.7])
    frame = ranges(pair[0], sparse).frame.set_index("sparsity_range")
    assert frame.loc["50 to 70 %", "second_trial"] == "–"
    assert pd.isna(frame.loc["50 to 70 %", ["second_accuracy", "difference", "clear"]]).all()


def test_facts_say_when_studies_are_not_comparable(pair: tuple[Results, Results]) -> None:
    frame, caption = facts(*pair)
    assert "not comparable" not in caption
    other = pair[1]._replace(study={**pair[1].study, "baseline": {"model": "vgg11_bn", "dataset": "cifar10"}})
    assert "not comparable" in facts(pair[0], other).caption
    volume = frame.set_index("fact").filter(like="hypervolume", axis=0)["first"].iloc[0]
    points = pair[0].trials.query("kind == 'search'")[["sparsity", "accuracy"]]
    assert float(volume) == pytest.approx(pareto.hypervolume(points, ["max", "max"], [0, 0]), abs=1e-4)
    assert hypervolumes(*pair)["study"].nunique() == 1  # both are named synthetic
    assert len(fronts(*pair).axes[0].lines) == 4


def test_the_command(pair: tuple[Results, Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(results.folder) for results in pair]
    assert main([*folders, "--out", str(tmp_path / "both")]) == 0
    assert "| sparsity range |" in capsys.readouterr().out
    written = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert written == sorted(
        [f"{name}.{kind}" for name in ("facts", "ranges") for kind in ("csv", "md", "tex")]
        + ["fronts.pdf", "fronts.png", "hypervolume.csv"]
    )
    assert main([folders[0], str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
