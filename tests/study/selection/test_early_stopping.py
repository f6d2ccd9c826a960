"""Early stopping: fronts against peeling them one by one, and what goes on at a rung, worked by hand."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.statistics.pareto import is_nondominated
from study.config import Recipe
from study.selection import early_stopping as stopping
from study.selection.early_stopping import Promoter, Stopper, after_last_cut, best, epsilon_net, front_ranks

grid = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


@settings(deadline=None)
@given(grid)
def test_ranks_are_those_of_fronts_peeled_one_by_one(points: Any) -> None:
    values = np.array(points, float)
    expected, left, rank = np.zeros(len(values), int), np.arange(len(values)), 0
    while len(left):
        front = is_nondominated(values[left], ["max", "max"])
        expected[left[front]], left, rank = rank, left[~front], rank + 1
    assert front_ranks(values).tolist() == expected.tolist()


@settings(deadline=None)
@given(grid, st.integers(1, 30))
def test_a_net_has_as_many_distinct_points_as_asked_and_both_ends_of_a_front(points: Any, count: Any) -> None:
    values = np.unique(np.array(points, float), axis=0)
    front = values[is_nondominated(values, ["max", "max"])]
    net = epsilon_net(front, count)
    assert len(set(net)) == len(net) == min(count, len(front))
    ends = {int(np.argmax(front[:, 0])), int(np.argmax(front[:, 1]))}
    assert ends <= set(net) or count < 2


def test_a_net_takes_the_farthest_next() -> None:
    points = np.array([[0.0, 1.0], [0.1, 0.9], [0.5, 0.5], [1.0, 0.0]])
    assert epsilon_net(points, 4) == [3, 0, 2, 1]
    assert epsilon_net(points * [100, 1], 4) == [3, 0, 2, 1]  # whatever the units


@settings(deadline=None)
@given(grid, st.integers(0, 30))
def test_the_best_are_whole_fronts_and_part_of_the_next(points: Any, count: Any) -> None:
    values = np.array(points, float)
    chosen, ranks = best(values, count), front_ranks(values)
    assert len(set(chosen)) == len(chosen) == min(count, len(values))
    left = sorted(set(range(len(values))) - set(chosen))
    assert not chosen or not left or ranks[chosen].max() <= ranks[left].min()


def test_paused_trials_go_on_when_they_are_among_the_best_third_those_of_the_highest_rung_first() -> None:
    promoter = Promoter(1, 3)
    for name, accuracy in (("a", 0.5), ("b", 0.7), ("c", 0.6)):
        paused = not promoter.continues(name, 1, accuracy, 0.5)
        assert paused, "of one and of two there is no third; c is not the best of three"
    assert promoter.promoted({"a", "b", "c"}) == "b"
    assert promoter.promoted({"a", "c"}) is None
    assert promoter.continues("d", 1, 0.8, 0.5)  # at once
    assert not promoter.continues("e", 1, 0.1, 0.5)
    assert promoter.promoted({"a", "c", "e"}) is None  # of five still only one, and that is d
    assert not promoter.continues("f", 1, 0.2, 0.5)
    assert promoter.promoted({"a", "c", "e", "f"}) is None  # of six: d and b, who have gone on
    for name in ("b", "d", "x"):
        assert not promoter.continues(name, 3, {"b": 0.9, "d": 0.8, "x": 0.7}[name], 0.5)
    assert promoter.promoted({"a", "b", "c", "d", "e", "f"}) == "b"  # at 3; at 1 there is d, but it is not there
    assert promoter.promoted({"a", "c", "d", "e", "f"}) is None


def test_rungs_are_powers_and_nothing_stops_between_them() -> None:
    stopper = Stopper(2, 3)
    for trial in range(9):
        stopper.continues(f"good{trial}", 6, 0.9, 0.9)
    assert [stopper.continues("bad", epochs, 0.1, 0.1) for epochs in range(8)] == [True] * 6 + [False, True]


def test_the_first_go_on_and_then_the_best_third_by_rank() -> None:
    stopper = Stopper(1, 3)
    assert stopper.continues("a", 1, 0.5, 0.5)
    assert stopper.continues("b", 1, 0.4, 0.4)  # there is no third of two
    assert not stopper.continues("c", 1, 0.3, 0.3)
    assert stopper.continues("d", 1, 0.6, 0.6)
    assert stopper.continues("e", 1, 0.55, 0.55)  # two of five go on: d and this
    assert not stopper.continues("f", 1, 0.52, 0.52)


def test_high_sparsity_goes_on_though_its_accuracy_is_lowest() -> None:
    stopper = Stopper(1, 3)
    for number, accuracy in enumerate((0.93, 0.92, 0.91, 0.90, 0.89)):
        stopper.continues(str(number), 1, accuracy, 0.3)
    assert stopper.continues("sparse", 1, 0.2, 0.95)
    assert not stopper.continues("neither", 1, 0.2, 0.3)


def test_an_accuracy_that_is_no_number_stops_and_leaves_no_trace() -> None:
    stopper = Stopper(1, 2)
    assert not stopper.continues("nan", 1, math.nan, 0.9)
    assert stopper.continues("first", 1, 0.1, 0.1)


def test_a_trial_that_comes_again_is_itself_no_rival() -> None:
    stopper = Stopper(1, 2)
    for _ in range(3):
        assert stopper.continues("same", 1, 0.5, 0.5)


def test_only_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LATEST", 4)
    stopper = Stopper(1, 2)
    for number in range(4):
        stopper.continues(f"strong{number}", 1, 0.9, 0.9)
    answers = [stopper.continues(f"weak{number}", 1, 0.5 + number / 100, 0.5) for number in range(6)]
    assert answers[0] is False
    assert answers[-1] is True


@pytest.mark.parametrize(("min_epochs", "reduction"), [(0, 3), (1, 1)])
def test_what_makes_no_rungs_is_refused(min_epochs: Any, reduction: Any) -> None:
    with pytest.raises(ValueError, match=f"min_epochs {min_epochs}, reduction {reduction}"):
        Stopper(min_epochs, reduction)


@pytest.mark.parametrize(
    ("steps", "epochs", "expected"),
    [(1, 4, [1, 2, 3, 4]), (2, 4, [-1, 0, 1, 2]), (2, 3, [-1, 0, 1]), (3, 4, [-2, -1, 0, 1]), (4, 2, [-1, 0])],
)
def test_only_whole_epochs_after_the_last_cut_count(steps: int, epochs: int, expected: list[int]) -> None:
    """Of three epochs over two cuts one and a half are after the last: at the end of the second it is half an epoch."""
    recipe = Recipe(sparsity=0.5, schedule="iterative", steps=steps, finetune_epochs=epochs)
    assert [after_last_cut(recipe, epoch) for epoch in range(1, epochs + 1)] == expected
