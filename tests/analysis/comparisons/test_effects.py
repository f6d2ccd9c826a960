"""What axes do: pairs worked by hand, effects that were put in found again, and nothing found where nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis import Results, read
from analysis.comparisons.effects import binned, effects, importance_data, marginal, pairs, rates_data
from analysis.comparisons.importance import importance, rates
from analysis.presentation import style
from analysis.statistics.intervals import holm
from tests.questions import grid
from tests.results_folder import make

WORTH = {"one_shot": 0.8, "iterative": 0.9, "global": 1, "layer": 1}
AXES = {
    "schedule": ["one_shot", "iterative"],
    "scope": ["global", "layer"],
    "requested_sparsity": [0.3, 0.5, 0.7, 0.8],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read(grid(tmp_path_factory.mktemp("results") / "study", AXES, seeds=3, worth=WORTH))


def test_pairs_by_recipe_are_those_that_differ_in_the_axis_alone(results: Results) -> None:
    found = pairs(results.trials, "schedule", "iterative", "one_shot")
    assert found.matched == "recipe"
    means = results.trials.groupby(["schedule", "scope", "requested_sparsity"])["test_accuracy"].mean()
    expected = (means["iterative"] - means["one_shot"]).to_numpy()
    assert sorted(found.differences) == pytest.approx(sorted(expected))


def test_what_wins_is_found_and_what_does_nothing_is_not_clear(results: Results) -> None:
    frame = effects(results).frame.set_index("axis")
    line = frame.loc["schedule"]
    assert (line["level"], line["other"], line["pairs"]) == ("iterative", "one_shot", 8)
    assert line["low"] <= line["difference"] <= line["high"]
    assert frame.loc["scope", "clear"] == "not clear"
    assert abs(frame.loc["scope", "difference"]) < 0.005


def test_levels_that_nothing_pairs_say_so(tmp_path: Path) -> None:
    results = read(
        grid(tmp_path / "study", {"criterion": ["a", "b"], "requested_sparsity": [0.3, 0.5]}, seeds=1, worth={})
    )
    results.trials.loc[results.trials["criterion"] == "b", ["sparsity", "requested_sparsity"]] += 0.1
    assert effects(results).frame["clear"].tolist() == ["no pairs"]
    results.trials.loc[results.trials["criterion"] == "b", ["sparsity", "requested_sparsity"]] += 0.1
    assert effects(results).frame["clear"].tolist() == ["one pair"]  # at 0.5, and 0.3 + 0.2


def test_pairs_by_sparsity_are_disjoint_and_near() -> None:
    columns = {"criterion": "l1", "granularity": "weight", "scope": "global", "requested_sparsity": np.nan}
    one = pd.DataFrame({"schedule": "a", "sparsity": [0.50, 0.51, 0.70], "test_accuracy": [0.9, 0.8, 0.7]})
    two = pd.DataFrame({"schedule": "b", "sparsity": [0.52, 0.90, 0.49], "test_accuracy": [0.1, 0.2, 0.3]})
    rows = pd.concat([one, two], ignore_index=True).assign(**columns, trial_id=list("abcdef"))
    rows = rows.assign(finetune_lr=np.arange(6)).reindex(columns=[*rows.columns, *read_keys()])
    found = pairs(rows.loc[:, ~rows.columns.duplicated()], "schedule", "a", "b")
    assert found.matched == "sparsity"
    assert found.differences.tolist() == pytest.approx([0.9 - 0.3, 0.8 - 0.1])  # 0.70 has none within reach


def read_keys() -> list[str]:
    from analysis.results_folder import RECIPE

    return [key for key in RECIPE if key not in ("criterion", "granularity", "scope", "schedule", "finetune_lr")] + [
        "finetune_lr"
    ]


def test_no_difference_is_rarely_called_clear(tmp_path: Path) -> None:
    """In 5 % of studies, though the best of three is picked on the same networks; of forty, four are still chance."""
    axes = {"criterion": list("abc"), "requested_sparsity": [0.3, 0.5, 0.7, 0.8, 0.9]}
    results = read(grid(tmp_path / "study", axes, seeds=1, worth={}, noise=0.01))
    random, studies, told = np.random.default_rng(1), 0, 0
    for _ in range(40):
        luck = random.normal(0.8, 0.02, len(results.trials))  # of a network: on validation and test images alike
        results.trials["accuracy"] = luck + random.normal(0, 0.002, len(luck))
        results.trials["test_accuracy"] = luck + random.normal(0, 0.002, len(luck))
        clear = effects(results).frame["clear"]
        assert len(clear) == 2
        told += int(clear.isin(["yes", "worse"]).sum())
        studies += bool(clear.isin(["yes", "worse"]).any())
    assert studies <= 0.1 * 40
    assert told <= 0.05 * 2 * 40


def test_p_is_adjusted_for_all_pairs_of_levels_not_for_those_of_the_best(tmp_path: Path) -> None:
    axes = {"criterion": list("abc"), "requested_sparsity": [0.3, 0.5, 0.7, 0.8, 0.9]}
    results = read(grid(tmp_path / "study", axes, seeds=1, worth={}, noise=0.01))
    levels = {name: part["test_accuracy"].to_numpy() for name, part in results.trials.groupby("criterion")}
    raw = {frozenset(pair): stats.ttest_rel(*(levels[name] for name in pair)).pvalue for pair in ("ab", "ac", "bc")}
    order = sorted(raw, key=lambda pair: raw[pair])
    factors = dict(zip(order, (3, 2, 1), strict=True))
    adjusted = {pair: min(1, max(raw[p] * factors[p] for p in order[: order.index(pair) + 1])) for pair in order}
    frame = effects(results).frame
    assert len(frame) == 2
    for _, line in frame.iterrows():
        assert line["p"] == pytest.approx(adjusted[frozenset((line["level"], line["other"]))])


def test_confirmation_runs_count_as_runs_of_their_recipe(results: Results) -> None:
    first = results.trials.iloc[:4]
    again = first.assign(
        kind="confirm", confirms=first["trial_id"], trial_id=[f"k{i:04d}" for i in range(4)], test_accuracy=0.0
    )
    both = results._replace(trials=pd.concat([results.trials, again], ignore_index=True))
    before, after = (effects(one).frame.set_index("axis").loc["schedule", "difference"] for one in (results, both))
    assert after != pytest.approx(before, abs=1e-6)


def test_the_best_level_is_chosen_on_validation(results: Results) -> None:
    swapped = results.trials.assign(accuracy=results.trials["schedule"].map({"one_shot": 0.9, "iterative": 0.5}))
    line = effects(results._replace(trials=swapped)).frame.set_index("axis").loc["schedule"]
    assert (line["level"], line["other"]) == ("one_shot", "iterative")
    assert line["difference"] < 0


def test_marginal_effects_are_gains_over_the_same_sparsity() -> None:
    rows = pd.DataFrame(
        {
            "requested_sparsity": [0.5] * 4 + [0.9] * 4, "sparsity": 0.5, "scope": ["global", "layer"] * 4,
            "test_accuracy": [0.92, 0.90, 0.92, 0.90, 0.52, 0.50, 0.52, 0.50],
        }
    )  # fmt: skip
    # Eight rows have at most two ranges of sparsity, which are these two.
    frame = marginal(rows, "scope").set_index("level")
    assert frame["effect"].to_dict() == pytest.approx({"global": 0.01, "layer": -0.01})
    assert frame["n"].tolist() == [4, 4]


def test_importance_finds_what_was_put_in(results: Results) -> None:
    frame = importance_data(results).set_index("axis")
    assert frame.index[0] == "sparsity"
    assert frame.loc["schedule", "share"] > 20 * frame.loc["scope", "share"]
    assert frame.loc["schedule", "p"] < 0.01 < frame.loc["scope", "p"]
    assert 0 <= frame["share"].min() <= frame["share"].sum() <= 1 + 1e-9


def test_an_axis_of_chance_has_no_share_on_average() -> None:
    from analysis.comparisons.effects import _omega

    random = np.random.default_rng(0)
    drawn = [
        _omega(pd.Series(random.normal(size=60)), pd.Series(random.choice(list("abc"), 60)))["p"] for _ in range(400)
    ]
    assert np.mean(np.array(drawn) < 0.05) == pytest.approx(0.05, abs=0.035)


def test_omega_by_hand() -> None:
    from analysis.comparisons.effects import _omega

    found = _omega(pd.Series([1.0, 3, 5, 7]), pd.Series(list("aabb")))
    # Between 16, within 4 over 2 degrees of freedom, whole 20: (16 - 2) / (20 + 2).
    assert found["share"] == pytest.approx(14 / 22)
    assert found["p"] == pytest.approx(0.105573, abs=1e-6)  # F = 8 of 1 and 2
    assert _omega(pd.Series([1.0, 2]), pd.Series(list("aa")))["share"] == 0


def test_rates_by_sparsity(tmp_path: Path) -> None:
    axes = {"finetune_lr": [0.001, 0.01], "requested_sparsity": [0.3, 0.5, 0.7]}
    results = read(grid(tmp_path / "study", axes, seeds=4))
    rows = rates_data(results)
    assert rows["n"].tolist() == [4] * 6
    assert rows.groupby("sparsity")["gain"].sum().abs().max() < 1e-12
    means = results.trials.groupby(["finetune_lr", "requested_sparsity"])["test_accuracy"].mean()
    assert rows["gain"][0] == pytest.approx((means[0.001, 0.3] - means[0.01, 0.3]) / 2)
    assert len(rates(results).axes) == 2


def test_too_few_networks_are_not_weighed(tmp_path: Path) -> None:
    results = read(make(tmp_path / "study", 5, 0))
    assert importance_data(results).empty
    assert rates_data(results).empty
    assert style.title(importance(results)).startswith("There are fewer than ten")
    assert style.title(rates(results)).startswith("There are too few")


def test_the_figure_has_a_bar_for_every_axis(results: Results) -> None:
    left, right = importance(results).axes
    shares = importance_data(results)
    bars: Any = left.patches
    assert [bar.get_width() for bar in bars] == pytest.approx((100 * shares["share"]).tolist())
    assert [label.get_text() for label in left.get_yticklabels()] == shares["axis"].tolist()
    assert "schedule: iterative" in [label.get_text() for label in right.get_yticklabels()]


@given(st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=8))
def test_holm_by_its_definition(values: list[float]) -> None:
    found = holm(values)
    known = sorted(value for value in values if value == value)
    for value, adjusted in zip(values, found, strict=True):
        if value != value:
            assert np.isnan(adjusted)
            continue
        stages = [min(1, (len(known) - i) * p) for i, p in enumerate(known) if p <= value]
        assert adjusted == pytest.approx(max(stages))


def test_numbers_of_many_values_are_binned_by_quantiles() -> None:
    values = pd.Series(np.linspace(0, 1, 100))
    found = binned(values, 5)
    assert found.value_counts().tolist() == [20] * 5
    assert binned(values[:3], 5).tolist() == pytest.approx(values[:3].tolist(), abs=1e-6)
