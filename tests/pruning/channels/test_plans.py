"""Wrong plans, plans for another network and plans that don't follow one another are refused; compositions by hand."""

import copy
from typing import Any

import pytest

from models import build
from pruning.channels.plans import after, check_plan, compose, remainder, sizes, weight_sides
from pruning.channels.surgery import apply_plan, mask_units
from tests.networks import example_plan


def broken(change: Any) -> Any:
    _, plan = example_plan(build("resnet8", 10))
    plan = copy.deepcopy(plan)
    change(plan)
    return plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: plan.update(version=2), "not a plan of version 1"),
        (lambda plan: plan.update(layers=[]), "not a plan of version 1"),
        (lambda plan: plan["layers"].pop("layer1.0.conv1"), "another network: its 'layer1.0.conv1' is not there"),
        (lambda plan: plan["layers"].update(extra=plan["layers"]["bn1"]), "that of this Sequential not there"),
        (lambda plan: plan["layers"]["bn1"].pop("out"), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"].update(out=[1]), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(of=17), r"'bn1' is \{'out': 17\}.*\{'out': 16\}"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=[2, 1]), "layer 'bn1'.* rising"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=[1, 1]), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=[-1]), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=[16]), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=[0.0]), "layer 'bn1'"),
        (lambda plan: plan["layers"]["bn1"]["out"].update(removed=list(range(16))), "layer 'bn1'.*not all of them"),
        (lambda plan: plan["layers"]["conv1"].update(groups=1.5), "layer 'conv1'.* groups"),
    ],
)
def test_a_plan_that_is_wrong_is_refused(change: Any, message: Any) -> None:
    model = build("resnet8", 10)
    with pytest.raises(ValueError, match=message):
        apply_plan(model, broken(change))
    with pytest.raises(ValueError, match=message):
        mask_units(model, broken(change))


def test_plans_that_do_not_follow_one_another_are_refused() -> None:
    _, first = example_plan(build("resnet8", 10), 0.3)
    _, more = example_plan(build("resnet8", 10), 0.6)
    with pytest.raises(ValueError, match="not for the network that the first one leaves"):
        compose(first, more)
    with pytest.raises(ValueError, match="keeps out channels of 'conv1' that the first one removes"):
        remainder(first, more)
    with pytest.raises(ValueError, match="different networks"):
        remainder(more, example_plan(build("resnet20", 10))[1])


def plan(out: Any, removed_out: Any, inner: Any, removed_in: Any, **further: Any) -> Any:
    """A plan of one layer."""
    axes = {"out": {"of": out, "removed": removed_out}, "in": {"of": inner, "removed": removed_in}}
    return {"version": 1, "layers": {"conv": axes | further}}


def test_padding_with_zeros_by_hand() -> None:
    """Channels 2, 3 and 4 of 8 are those of the input; of the zeros before them one is cut, of those behind two."""
    first = plan(8, [1, 3, 5, 6], 3, [1], pad=[1, 1, 2, 3], pad_axis=-2)
    assert after(first) == plan(4, [], 2, [], pad=[1, 1, 1, 1], pad_axis=-2)
    second = plan(4, [0, 1], 2, [0], pad=[1, 1, 1, 1], pad_axis=-2)
    both = plan(8, [0, 1, 2, 3, 5, 6], 3, [0, 1], pad=[1, 1, 2, 3], pad_axis=-2)
    assert compose(first, second) == both
    assert remainder(both, first) == second


@pytest.mark.parametrize(
    ("removed", "inner", "further"),
    [
        ([2], [], {"pad": [0, 0, 2, 3], "pad_axis": -2}),
        ([2], [1], {"pad": [0, 0, 2, 3], "pad_axis": -2}),
        ([], [], {"pad": [0, 0, 2, 3], "pad_axis": -1}),
        ([], [], {"pad": [0, 0, 2, 3], "pad_axis": -3}),
        ([], [], {"pad": [0, 0, 2, 2], "pad_axis": -2}),
        ([], [], {"pad": [0, 0, 2, 3]}),
        ([], [], {"pad": 5, "pad_axis": -2}),
    ],
)
def test_padding_that_does_not_fit_is_refused(removed: Any, inner: Any, further: Any) -> None:
    with pytest.raises(ValueError, match="layer 'conv': its out channels are not its in channels with zeros"):
        check_plan(plan(8, removed, 3, inner, **further))


def test_turns_by_hand() -> None:
    first, second = plan(6, [1, 4], 4, [0]), plan(4, [1, 2], 3, [2])
    both = plan(6, [1, 2, 3, 4], 4, [0, 3])
    assert compose(first, second) == both
    assert remainder(both, first) == second
    assert after(first) == plan(4, [], 3, [])
    assert after(plan(6, [2, 3], 3, [1], groups=3)) == plan(4, [], 2, [], groups=2)
    assert weight_sides(sizes(plan(6, [], 3, []))["conv"]) == ("out", "in")
    assert weight_sides(plan(6, [], 3, [], groups=3)["layers"]["conv"]) == ("out",)
    assert weight_sides({"out": 6, "in": 3, "groups": 3, "transposed": True}) == ("in",)
    assert weight_sides({"out": 6, "in": 3, "transposed": True}) == ("in", "out")
    assert weight_sides({"out": 6}) == ("out",)
    assert sizes(plan(6, [], 3, [], groups=3)) == {"conv": {"out": 6, "in": 3, "groups": 3}}
    assert sizes(plan(2, [], 1, [], groups=1)) == {"conv": {"out": 2, "in": 1}}
