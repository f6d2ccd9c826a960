"""Study files: what they mean, and what is said of wrong ones."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import search_spaces
from study.config import Recipe, parse, read_study
from study.config import axes as space


def study(**sections: Any) -> Any:
    return parse({"study": {"name": "x"}, **sections}, "x.yaml")


@pytest.mark.parametrize("name", search_spaces.names())
def test_every_space_of_the_project_resolves_and_reads_back(name: Any) -> None:
    file = read_study(name)
    assert file.study.name == name
    assert parse(yaml.safe_load(yaml.safe_dump(file.resolved())), name).resolved() == file.resolved()


def test_defaults_are_those_of_the_design() -> None:
    file = study()
    assert file.study.objectives == {"accuracy": "max", "sparsity": "max"}
    assert file.trials == 60
    assert file.axes["steps"].when == {"schedule": ("iterative", "gradual")}
    assert file.axes["sparsity"].low == 0.1
    assert file.baseline.batch_size == 128


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"study": {}}, r"x.yaml: study.name: required"),
        ({"study": {"name": "a b"}}, r"study.name: .*pattern"),
        ({"stduy": {}}, r"stduy: unknown key 'stduy'; choices: study, resources, baseline, space"),
        ({"baseline": {"epoch": 3}}, r"baseline.epoch: unknown key 'epoch'; choices: model, checkpoint"),
        ({"baseline": {"dataset": "mnist"}}, r"baseline.dataset: unknown dataset 'mnist'; choices: .*digits"),
        ({"baseline": {"dataset": "imagefolder"}}, r"image_size"),
        ({"baseline": {"bn_l1": -1}}, r"bn_l1: .*greater than or equal to 0"),
        ({"space": {"criterion": "magnitude"}}, r"criterion: unknown criterion 'magnitude'; .*magnitude_l1"),
        ({"space": {"criterion": "fpgm"}}, r"criterion fpgm values channels only; for weights there are magnitude_l1"),
        ({"space": {"layer": "conv1", "scope": "global"}}, r"layer: cuts one layer alone, so granularity is weight"),
        ({"space": {"group": "conv1", "granularity": "weight"}}, r"group: cuts one group alone, so granularity is ch"),
        ({"space": {"layer": "each", "granularity": "weight"}}, r"nothing to allocate: scope is global"),
        ({"space": {"scope": "erdos"}}, r"unknown scope 'erdos'; choices: global, knapsack, layer, both, erk, lamp"),
        ({"space": {"granularity": "n:m"}}, r"unknown granularity 'n:m'; .*hybrid, or n:m such as '2:4'"),
        ({"space": {"granularity": "4:4"}}, r"'4:4' keeps 4 of every 4 weights; n:m needs 0 < n < m"),
        ({"space": {"granularity": "2:4", "sparsity": 0.8}}, r"sparsity: with granularity 2:4 it is 0.5, not 0.8"),
        ({"space": {"granularity": ["weight", "2:4"], "sparsity": 0.8}}, r"it is 0.5, not 0.8; use `when`"),
        ({"space": {"granularity": "2:4", "schedule": "gradual"}}, r"schedule: with granularity 2:4 it is one_shot"),
        ({"space": {"granularity": "2:4", "scope": "global"}}, r"scope: with granularity 2:4 it is layer, not global"),
        ({"space": {"granularity": "2:4", "sparsity_of": "macs"}}, r"sparsity_of: with granularity 2:4 it is params"),
        ({"space": {"granularity": "2:4", "criterion": "fpgm"}}, r"criterion fpgm values channels only"),
        ({"space": {"granularity": "2:4", "layer": "each"}}, r"layer: cuts one layer alone, so granularity is weight"),
        ({"space": {"granularity": "2:4", "group": "each"}}, r"group: cuts one group alone, so granularity is channel"),
        ({"space": {"granularity": "hybrid", "layer": "each"}}, r"granularity is weight, not hybrid"),
        ({"space": {"granularity": "hybrid", "group": "each"}}, r"granularity is channel, not hybrid"),
        ({"space": {"granularity": "hybrid", "sparsity_of": ["params", "macs"]}}, r"only params in common, not macs"),
        ({"space": {"granularity": "hybrid", "scope": "sensitivity"}}, r"granularity is not hybrid"),
        ({"space": {"granularity": "hybrid", "criterion": "thinet"}}, r"criterion thinet values channels only"),
        ({"space": {"channel_share": 1.0}}, r"channel_share: .*less than 1, not 1.0"),
        ({"space": {"sparsity": 1.5}}, r"space: sparsity: .*less than 1, not 1.5"),
        ({"space": {"sparsity": {"low": 0.9, "high": 0.1}}}, r"empty range: low 0.9 is above high 0.1"),
        ({"space": {"sparsity": {"lo": 0.9, "high": 0.1}}}, r"unknown key 'lo'; choices: choices, low, high"),
        ({"space": {"sparsty": 0.5}}, r"sparsty: unknown key; choices: criterion"),
        ({"space": {"criterion": {"low": 1, "high": 2}}}, r"criterion"),
        ({"space": {"finetune_epochs": 3, "epochs_per_step": 2}}, r"epochs_per_step: replaces finetune_epochs"),
        ({"space": {"steps": {"choices": [3], "when": {"schedule": "gradul"}}}}, r"steps.when.schedule: unknown"),
        ({"space": {"initial_sparsity": 0.5, "sparsity": {"low": 0.3, "high": 0.9}}}, r"above the lowest"),
        ({"space": {"finetune_epochs": 0, "distil": [0, 0.5]}}, r"distil: is 0.5, but there is no fine-tuning"),
        ({"space": {"granularity": ["weight", "channel"], "sparse_epochs": 1}}, r"channel or hybrid, not weight"),
        ({"space": {"granularity": "channel", "sparse_epochs": [0, 5]}}, r"sparse_epochs: is 5, of 4 epochs in all"),
        ({"space": {"group_lasso": 0}}, r"group_lasso: .*greater than 0"),
        ({"space": [1, 2]}, r"space: expected axes"),
        ({"study": {"name": "x", "search": "grid"}}, r"search grid needs a step"),
        ({"study": {"name": "x", "objectives": {"accuracy": "min"}}}, r"accuracy must be max"),
        ({"study": {"name": "x", "objectives": {"beauty": "max"}}}, r"unknown objective 'beauty'"),
        ({"study": {"name": "x", "constraints": {"beauty": "<= 1"}}}, r"unknown column 'beauty'"),
        (
            {"study": {"name": "x", "constraints": {"accuracy_drop": 0.02}}},
            r"study.constraints.accuracy_drop: is a sign and a number, such as '<= 0.02' or '>= 0.5', not 0.02",
        ),
        ({"study": {"name": "x", "constraints": {"accuracy_drop": "<= 1.2.3"}}}, r"such as .*, not '<= 1.2.3'"),
        (
            {"study": {"name": "x", "stop_early": {"min_epochs": 0}}},
            r"stop_early.min_epochs: .*greater than or equal to 1",
        ),
        ({"study": {"name": "x", "controls": ["scratch"], "save": "none"}}, r"so save is front or all, not none"),
        ({"study": {"name": "x", "start_with": [{"sparsity": 0.99}]}}, r"start_with\[0\].sparsity: .* outside"),
        ({"study": {"name": "x", "trials": 0}}, r"study.trials: .*greater than or equal to 1"),
        ({"study": {"name": "x", "seed": 2**63}}, r"study.seed: beyond 1e\+12, the largest number"),
        ({"study": {"name": "x", "seed": 2**32}}, r"study.seed: .*less than 4294967296"),
        ({"study": {"name": "x" * 101}}, r"study.name: .*pattern"),
        ({"space": {"finetune_epochs": 10**400}}, r"space.finetune_epochs: beyond 1e\+12"),
        ({"space": {"sparsity": {"low": 0.1, "high": 0.9, "step": 1e-9}}}, r"step 1e-09 makes more than 10,000 values"),
        ({"space": {"steps": {"low": 1, "high": 9, "step": 0.5}}}, r"takes whole numbers, so step is one too, not 0.5"),
        (
            {
                "study": {"name": "x", "search": "grid"},
                "space": {
                    "finetune_lr": {"low": 0.1, "high": 1, "step": 1e-4},
                    "sparsity": {"low": 0, "high": 0.9, "step": 1e-3},
                },
            },
            r"a grid of more than 100,000 recipes",
        ),
    ],
)
def test_wrong_files_get_one_message_with_file_key_and_choices(sections: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        study(**sections)
    assert str(caught.value).startswith("x.yaml: ")
    assert "\n" not in str(caught.value)


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert study(space={"finetune_lr": ["1e-3", 0.1]}).axes["finetune_lr"].choices == (0.001, 0.1)


def test_protect_takes_a_list_or_a_list_of_lists() -> None:
    assert study(space={"protect": ["conv1", "fc"]}).axes["protect"].choices == (("conv1", "fc"),)
    assert study(space={"protect": [[], ["fc"]]}).axes["protect"].choices == ((), ("fc",))


def test_one_shot_has_one_cut_and_epochs_count_cuts() -> None:
    assert Recipe(sparsity=0.5, schedule="one_shot", steps=5).steps == 1
    assert Recipe(sparsity=0.5, schedule="gradual", steps=5, epochs_per_step=2).epochs == 10


def test_a_knapsack_adds_up_sums_unless_told_otherwise() -> None:
    file = study(space={"granularity": "channel", "scope": ["global", "knapsack"]})
    recipes = [Recipe(**space.draw(file.axes, space.picker(seed))) for seed in range(20)]
    assert {(recipe.scope, recipe.reduce) for recipe in recipes} == {
        ("global", "group_normalised"),
        ("knapsack", "sum"),
    }
    assert Recipe(sparsity=0.5, scope="knapsack", reduce="mean").reduce == "mean"


def test_what_follows_from_n_m_is_drawn_for_other_granularities_only() -> None:
    file = study(space={"granularity": ["weight", "2:4", "1:4"], "sparsity_of": ["params", "macs"]})
    implied = ("sparsity", "scope", "schedule", "sparsity_of")
    assert all(file.axes[key].when == {"granularity": ("weight",)} for key in implied)
    points = [space.draw(file.axes, space.picker(seed)) for seed in range(60)]
    recipes = [Recipe(**point) for point in points]
    assert {recipe.granularity for recipe in recipes} == {"weight", "2:4", "1:4"}
    for point, recipe in zip(points, recipes, strict=True):
        if recipe.granularity != "weight":
            assert not set(implied) & set(point)
            assert recipe.sparsity == {"2:4": 0.5, "1:4": 0.75}[recipe.granularity]
            assert (recipe.scope, recipe.schedule, recipe.steps) == ("layer", "one_shot", 1)
    assert parse(yaml.safe_load(yaml.safe_dump(file.resolved())), "x").resolved() == file.resolved()


def test_a_study_of_blocks_alone_has_their_values_and_what_the_file_parts_itself_stays() -> None:
    alone = study(space={"granularity": "2:4"})
    assert [alone.axes[key].choices for key in ("sparsity", "scope", "schedule")] == [(0.5,), ("layer",), ("one_shot",)]
    assert "sparsity" not in study(space={"granularity": ["2:4", "1:4"]}).axes
    assert study(space={"granularity": "1:4", "sparsity": 0.75}).axes["sparsity"].choices == (0.75,)
    own = {"choices": [0.3], "when": {"granularity": "weight"}}
    assert study(space={"granularity": ["weight", "2:4"], "sparsity": own}).axes["sparsity"].choices == (0.3,)
    with pytest.raises(ValueError, match=r"sparsity: with granularity 2:4 it is 0.5, not 0.9"):
        study(space={"granularity": "2:4", "sparsity": {"choices": [0.5, 0.9, 0.5], "when": {"granularity": "2:4"}}})


@pytest.mark.parametrize("text", ["2:4", "'2:4'", "[2:4]", '["2:4"]'])
def test_yaml_reads_two_of_four_by_no_base_of_60(text: Any, tmp_path: Path) -> None:
    assert read_study("quickstart", [f"space.granularity={text}"]).axes["granularity"].choices == ("2:4",)
    path = tmp_path / "x.yaml"
    path.write_text(f"study: {{name: x, trials: 0x10}}\nspace: {{granularity: {text}}}\nbaseline: {{epochs: 12}}\n")
    file = read_study(str(path))
    assert (file.axes["granularity"].choices, file.study.trials, file.baseline.epochs) == (("2:4",), 16, 12)


@pytest.mark.parametrize("setting", ["study.trials", "=3", "study..trials=3", "study.name.x=3", "study.trials=[3"])
def test_wrong_settings_are_refused(setting: Any) -> None:
    with pytest.raises(ValueError, match="--set|study.name"):
        read_study("quickstart", [setting])


def test_settings_reach_every_key() -> None:
    file = read_study("quickstart", ["baseline.epochs=2", "space.steps=[3,5]", "space.sparsity=0.8"])
    assert file.baseline.epochs == 2
    assert file.axes["steps"].choices == (3, 5)
    assert file.axes["sparsity"].choices == (0.8,)


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "is empty"), ("- 1", "holds a list"), ("a: [", "not readable as YAML"), ("a: 1\na: 2", "appears twice")],
)
def test_files_that_are_no_study_are_named(tmp_path: Path, content: Any, message: Any) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_study(str(path))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match="nowhere.yaml: no such study file; .*quickstart"):
        read_study("nowhere.yaml")


def test_what_does_not_go_together_can_be_parted_by_when() -> None:
    both = ["magnitude_l1", "random"]
    granularity = {"choices": ["weight", "channel"], "when": {"criterion": both}}
    file = study(space={"criterion": [*both, "fpgm"], "granularity": granularity})
    assert file.axes["granularity"].when == {"criterion": tuple(both)}
    assert Recipe(sparsity=0.5, criterion="fpgm").granularity == "channel"


def test_each_stands_for_the_layers_and_groups_of_the_network() -> None:
    space = {
        "layer": {"choices": ["each"], "when": {"granularity": "weight"}},
        "group": {"choices": ["each"], "when": {"granularity": "channel"}},
        "scope": "global",
    }
    file = study(space=space).with_parts(["a", "b"], ["a"])
    assert file.axes["layer"].choices == ("a", "b")
    assert file.axes["group"].choices == ("a",)
    assert parse(file.resolved(), "x").resolved() == file.resolved()
    with pytest.raises(ValueError, match=r"space.group: there is no group 'b'; choices: a"):
        study(space=space | {"group": {"choices": ["b"], "when": {"granularity": "channel"}}}).with_parts(["a"], ["a"])


def test_numbers_that_may_be_left_out_take_ranges_too() -> None:
    content = {"study": {"name": "a"}, "space": {"finetune_samples": {"low": 100, "high": 1000, "log": True}}}
    assert parse(content, "mine.yaml").values("finetune_samples") == (100, 1000)
    content["space"] = {"layer": {"low": 1, "high": 2}}
    with pytest.raises(ValueError, match="layer: takes choices, not a range"):
        parse(content, "mine.yaml")
