"""The project's study files, each run at toy size: some of its recipes, on handwritten digits and a small network."""

from typing import Any

import pytest
import torch

import models
import search_spaces
from study.config import Recipe, read_study
from study.config import axes as spaces
from study.driver.resolution import of_network
from study.trials.steps import run_trial

TOY = [
    "baseline.model=resnet8",
    "baseline.dataset=digits",
    "space.calibration_samples=64",
]
SENSITIVITY = "sensitivity"  # which needs a scan: tests/test_trial.py runs one
RECIPES = 2


def toy(name: Any) -> Any:
    space, settings = read_study(name).space, [*TOY, "study.start_with=[]"]
    if "epochs_per_step" in space:
        settings.append("space.epochs_per_step=1")
    elif name != "layer_sensitivity":
        settings.append("space.finetune_epochs=1")
    if space["scope"].choices == (SENSITIVITY,):
        settings.append("space.scope=global")
    return of_network(read_study(name, settings), models.build("resnet8", 10, (1, 8, 8)), (1, 8, 8))


def recipes(name: Any) -> Any:
    """RECIPES of the space, evenly over its grid, or drawn."""
    file = toy(name)
    if file.study.search != "grid":
        return [Recipe(**spaces.draw(file.axes, spaces.picker(seed))) for seed in range(RECIPES)]
    points = [Recipe(**point) for point in spaces.grid(file.axes) if point["scope"] != SENSITIVITY]
    return points[:: max(1, len(points) // RECIPES)]


@pytest.mark.parametrize("name", search_spaces.names())
def test_recipes_of_every_space_run_and_meet_their_targets(shared: Any, name: Any) -> None:
    for recipe in recipes(name):
        row, history, *_ = run_trial(recipe, 0, shared, torch.device("cpu"))
        assert row["state"] == "complete", (recipe, row["error"])
        assert len(history) == recipe.epochs
        if recipe.part is None and recipe.granularity == "weight":
            assert row["sparsity"] == pytest.approx(recipe.sparsity, abs=1e-4)


def test_the_scan_cuts_every_layer_and_group_alone_and_asks_for_no_test_accuracy(shared: Any) -> None:
    file = toy("layer_sensitivity")
    points = list(spaces.grid(file.axes))
    layers = {point["layer"] for point in points if "layer" in point}
    groups = {point["group"] for point in points if "group" in point}
    assert len(points) == 9 * (len(layers) + len(groups))
    assert len(layers) == 10
    assert groups < layers
    recipe = Recipe(sparsity=0.5, layer="conv1", finetune_epochs=0, calibration_samples=64)
    row, _, network, *_ = run_trial(recipe, 0, shared, torch.device("cpu"))
    assert row["test_accuracy"] is None
    kept = {name: (array != 0).mean() for name, array in network.state.items() if name.endswith("conv1.weight")}
    assert kept["conv1.weight"] == pytest.approx(0.5, abs=0.01)
    assert kept["layer1.0.conv1.weight"] == 1


def test_all_criteria_of_the_table_stand_in_their_space() -> None:
    from pruning.criteria.registry import CRITERIA

    assert toy("criteria").space["criterion"].choices == tuple(CRITERIA)
