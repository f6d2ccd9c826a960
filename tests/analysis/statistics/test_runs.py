"""Several runs of a recipe: found, averaged, quoted; and confirmations that are no candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import Results, read
from analysis.figures import fronts, registry
from analysis.figures.progress import attainment, attainment_data, hypervolume, hypervolume_data, reference
from analysis.page.answer import answer
from analysis.statistics import pareto, runs
from analysis.statistics.choice import quoted
from analysis.tables import summary
from tests.results_folder import make


def confirmed(folder: Path, count: int = 2, **study: Any) -> Results:
    """A study of which every row of the front was run `count` times more, each run half a point worse."""
    results = read(make(folder, 30, 3, **study))
    best = pareto.front(results.trials, results.objectives)
    more = []
    for i in range(count):
        rows = best.assign(kind="confirm", confirms=best["trial_id"], seed=best["seed"] + 5000 * (i + 1))
        measures = {name: best[name] - 0.005 * (i + 1) for name in ("accuracy", "test_accuracy")}
        more.append(rows.assign(trial_id=best["trial_id"].map(f"f{i}{{}}".format), **measures))
    trials = pd.concat([results.trials, *more], ignore_index=True)
    return results._replace(trials=trials.astype(results.trials.dtypes.to_dict()))


def test_a_fronts_row_has_the_mean_of_its_runs(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    alone = pareto.front(results.trials, results.objectives)
    best = runs.front(results)
    assert best["trial_id"].tolist() == alone["trial_id"].tolist()
    assert not best["trial_id"].str.startswith("f").any()
    assert best["n"].eq(3).all()
    assert best["test_accuracy_mean"].to_numpy() == pytest.approx((best["test_accuracy"] - 0.005).to_numpy())
    assert best["accuracy_std"].to_numpy() == pytest.approx(np.full(len(best), 0.005))


def test_confirmations_are_found_by_the_row_they_name(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study", 1)
    own = results.trials["kind"] == "confirm"
    results.trials.loc[own, "steps"] = 77  # as an engine that wrote another recipe would have it
    assert runs.front(results)["n"].eq(2).all()


def test_without_confirmations_every_row_is_one_run(tmp_path: Path) -> None:
    best = runs.front(read(make(tmp_path / "study", 12, 0)))
    assert best["n"].eq(1).all()
    assert best["accuracy_std"].isna().all()
    assert best["accuracy_mean"].tolist() == best["accuracy"].tolist()


def test_the_summary_has_what_further_runs_and_scratch_showed(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    best = runs.front(results)
    anew = best[:2].assign(kind="control", schedule="scratch", confirms=best["trial_id"], test_accuracy=[0.8, 0.7])
    anew = anew.assign(trial_id=["s1", "s2"])[results.trials.columns].astype(results.trials.dtypes.to_dict())
    results = results._replace(trials=pd.concat([results.trials, anew], ignore_index=True))
    frame = summary(results).frame.set_index("trial_id")
    assert frame.columns[-4:].tolist() == ["test_accuracy_mean", "test_accuracy_std", "n", "scratch"]
    assert frame.loc[best["trial_id"][:2], "scratch"].tolist() == [0.8, 0.7]
    assert frame.loc[best["trial_id"], "n"].eq(3).all()
    assert frame.loc[["baseline", "c0000"], "n"].isna().all()
    assert "s1" not in frame.index  # a control, and no candidate
    assert len(runs.front(results)) == len(best)


def test_a_run_that_was_stored_twice_counts_once(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 4, 0))
    again = results.trials[:4].assign(trial_id=["a", "b", "c", "d"])
    twice = results._replace(trials=pd.concat([results.trials, again], ignore_index=True))
    assert runs.runs(twice.trials)["trial_id"].tolist() == [f"{i:04d}" for i in range(4)]
    assert len(runs.runs_of(twice, twice.trials.iloc[2])) == 1


def test_the_answer_has_the_interval_over_all_runs(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    row = quoted(results)
    assert row is not None
    values = 0.929 - np.array([row["test_accuracy"] - 0.005 * i for i in range(3)])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = runs.loss(results, row)
    assert found.loss == pytest.approx((values.mean(), low, high))
    assert (found.runs, found.control) == (3, True)
    sentence, limits = answer(results)
    assert f"± {50 * (high - low):.1f} points of test accuracy against the dense control (mean and" in sentence
    assert "slightly optimistic" in limits


def test_a_loss_is_against_the_better_of_baseline_and_control(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    row = quoted(results)
    assert row is not None
    tested = runs.runs_of(results, row)["test_accuracy"].mean()
    for control, dense in ((0.95, 0.95), (0.90, 0.924), (np.nan, 0.924)):
        is_control = results.trials["kind"] == "control"
        trials = results.trials.assign(test_accuracy=results.trials["test_accuracy"].mask(is_control, control))
        changed = results._replace(trials=trials)
        assert runs.loss(changed, row).loss.value == pytest.approx(dense - tested)
        assert ("this fine-tuning harms by itself" in answer(changed)[1]) == (control < 0.924)


def test_the_answer_chooses_by_the_mean_of_runs(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    once = quoted(results._replace(trials=results.trials[results.trials["kind"] != "confirm"]))
    row = quoted(results)
    assert once is not None
    assert row is not None
    assert 0.931 - row["accuracy_mean"] <= 0.01
    assert row["sparsity"] <= once["sparsity"]


def test_the_front_figure_has_intervals_and_a_knee(tmp_path: Path) -> None:
    results = confirmed(tmp_path / "study")
    rows = fronts.front_data(results)
    best = rows[rows["place"] == "front"]
    assert best["n"].eq(3).all()
    assert best["mean"].to_numpy() == pytest.approx((best["test_accuracy"] - 0.005).to_numpy())
    half = stats.t.ppf(0.975, 2) * 0.005 / 3**0.5
    assert (best["high"] - best["mean"]).to_numpy() == pytest.approx(np.full(len(best), half))
    assert rows["knee"].sum() == 1
    assert rows.loc[rows["place"] != "front", ["mean", "low", "n"]].isna().all(axis=None)
    words = [text.get_text() for text in fronts.front(results).legends[0].get_texts()]
    assert {"knee", "mean, 95 % interval"} <= set(words)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 1], [0.8, 0.9], [1, 0]], 1), ([[0, 1], [0.5, 0.5], [1, 0]], None), ([[0, 1], [1, 0]], None),
        ([[0, 1], [0.2, 0.3], [1, 0]], None), ([[0.5, 0.5]] * 4, None), ([[0, 1], [np.nan, 0.9], [1, 0]], None),
        ([[0, 100], [10, 95], [12, 10], [13, 0]], 1),
    ],
)  # fmt: skip
def test_the_knee_by_hand(values: list, expected: int | None) -> None:
    assert pareto.knee(values, ["max", "max"]) == expected
    swapped = [[a, -b] for a, b in values]
    assert pareto.knee(swapped, ["max", "min"]) == expected


def test_hypervolume_after_each_trial_is_that_of_those_so_far(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 25, 4))
    random = np.random.default_rng(0)
    results.trials["finished"] = random.permutation(len(results.trials)).astype(float)
    rows = hypervolume_data(results)
    assert len(rows) == 25  # without the control
    assert rows["seconds"].tolist() == pytest.approx((30.5 * np.arange(1, 26)).tolist())
    assert reference(results) == [0, 0]
    trials = results.trials.set_index("trial_id")
    for i in (0, 7, 24):
        so_far = trials.loc[rows["trial_id"][: i + 1], ["accuracy", "sparsity"]]
        expected = pareto.hypervolume(so_far, ["max", "max"], [0, 0])
        assert rows["hypervolume"][i] == pytest.approx(expected, abs=1e-12)
    assert "validation accuracy 0 %, sparsity 0 %" in " ".join(hypervolume(results).get_supxlabel().split())


def test_what_is_minimised_is_measured_from_the_baseline(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 9, 0, objectives={"accuracy": "max", "macs": "min"}))
    assert reference(results) == [0, 40813184]
    results.record.pop("baseline")
    assert reference(results)[1] == results.trials["macs"][:9].max()


def test_attainment_of_fronts_by_hand(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 2, 0, seeds=3, control=False))
    results.trials["sparsity"] = [0.5] * 3 + [0.8] * 3
    results.trials["test_accuracy"] = [0.9, 0.8, 0.7, 0.5, 0.85, 0.6]
    rows = attainment_data(results)
    assert rows["fronts"].eq(3).all()
    found = {level: part[["x", "test_accuracy"]].to_numpy().tolist() for level, part in rows.groupby("level")}
    # Fronts: (0.5, 0.9) with (0.8, 0.5); (0.8, 0.85) alone; (0.5, 0.7) with (0.8, 0.6).
    assert found["best"] == [[0.5, 0.9], [0.8, 0.85]]
    assert found["median"] == [[0.5, 0.85], [0.8, 0.6]]
    assert found["worst"] == [[0.5, 0.7], [0.8, 0.5]]
    assert attainment(results).get_suptitle() == "Attainment over 3 seeds"


def test_single_runs_have_no_attainment(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 9, 0))
    assert attainment_data(results).empty
    assert "attainment" not in registry.applicable(results)
