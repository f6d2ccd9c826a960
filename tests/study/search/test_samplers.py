"""Samplers by name: each reaches the best corner of a space with a condition; what they are told, and importances."""

from pathlib import Path
from typing import Any

import pytest

from study.config import parse
from study.samplers import optuna_adapter, registry, windowed
from study.search import importance, suggestions
from study.search.trial_queue import TrialQueue

SPACE = {
    "criterion": ["magnitude_l1", "random"],
    "granularity": "weight",
    "scope": "global",
    "schedule": ["one_shot", "iterative"],
    "steps": {"choices": [2, 4], "when": {"schedule": ["iterative"]}},
    "sparsity": {"low": 0.1, "high": 0.9},
    "finetune_lr": 0.01,
}


def study_file(sampler: Any = "tpe", trials: Any = 60, **study: Any) -> Any:
    return parse({"study": {"name": "x", "trials": trials, "sampler": sampler, **study}, "space": SPACE}, "x")


def accuracy(recipe: Any) -> Any:
    """Falls with sparsity; random costs much, few steps a little."""
    lost = 0.4 * (recipe["criterion"] == "random") + 0.1 * (recipe.get("steps", 1) < 4)
    return 0.95 - 0.2 * recipe["sparsity"] - lost


def row(recipe: Any, **columns: Any) -> Any:
    return {"state": "complete", "error": None, "accuracy": accuracy(recipe), "sparsity": recipe["sparsity"]} | columns


def run(queue: Any, outcome: Any = row) -> Any:
    recipes = []
    while ticket := queue.ask():
        recipes.append(ticket.recipe)
        queue.store.tell(ticket, outcome(ticket.recipe), [])
    return recipes


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3"])
def test_samplers_learn_to_avoid_what_loses(tmp_path: Path, name: Any) -> None:
    recipes = run(TrialQueue(tmp_path, study_file(name, trials=100)))
    late = [recipe["criterion"] for recipe in recipes[60:]]
    assert late.count("random") < len(late) * 0.35
    assert all(("steps" in recipe) == (recipe["schedule"] == "iterative") for recipe in recipes)


@pytest.mark.parametrize("name", ["gp", "qmc"])
def test_the_other_samplers_run_with_two_objectives_a_condition_and_a_constraint(tmp_path: Path, name: Any) -> None:
    queue = TrialQueue(tmp_path, study_file(name, trials=12, constraints={"accuracy": ">= 0.5"}))
    recipes = run(queue)
    assert len({str(recipe) for recipe in recipes}) > 8
    assert {row["feasible"] for row in queue.store.rows()} == {row["accuracy"] >= 0.5 for row in queue.store.rows()}


@pytest.mark.parametrize("search", [{"search": "random"}, {"sampler": "tpe"}, {"sampler": "qmc"}])
def test_a_resumed_search_draws_others_and_the_same_seed_draws_the_same(tmp_path: Path, search: Any) -> None:
    points = []
    for place, trials in (("a", 6), ("a", 12), ("b", 6)):
        (tmp_path / place).mkdir(exist_ok=True)
        queue = TrialQueue(tmp_path / place, study_file(**{**search, "trials": trials}))
        points.append([recipe["sparsity"] for recipe in run(queue)])
        queue.store.close()
    assert points[0] == points[2]
    assert not set(points[0]) & set(points[1])


def test_what_a_recipe_made_fail_is_avoided(tmp_path: Path) -> None:
    def outcome(recipe: Any) -> Any:
        if recipe["sparsity"] > 0.5:
            return {"state": "failed", "error": "the floor forbids the target", "sparsity": None}
        return row(recipe)

    recipes = run(TrialQueue(tmp_path, study_file(trials=80)), outcome)
    late = [recipe["sparsity"] > 0.5 for recipe in recipes[40:]]
    assert sum(late) < len(late) * 0.25  # at random it would be half of them


def test_constraints_reach_the_sampler(tmp_path: Path) -> None:
    recipes = run(TrialQueue(tmp_path, study_file(trials=80, constraints={"sparsity": "<= 0.5"})))
    late = [recipe["sparsity"] > 0.5 for recipe in recipes[40:]]
    assert sum(late) < len(late) * 0.35


def test_importance_finds_the_axis_that_decides(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(search="random", trials=150))
    run(queue)
    found = queue.store.importance()
    assert set(found) == {"accuracy", "sparsity", "front"}
    for shares in found.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert set(shares) == {"criterion", "schedule", "steps", "sparsity"}
    assert max(found["sparsity"], key=found["sparsity"].get) == "sparsity"
    assert found["accuracy"]["criterion"] > found["accuracy"]["schedule"]


def test_importance_is_not_made_up_from_a_handful(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(trials=importance.FEWEST - 1))
    run(queue)
    assert queue.store.importance() == {}


def test_a_window_sees_the_front_the_latest_and_those_that_run() -> None:
    file = study_file(trials=1000)
    study = suggestions.in_memory(file)
    study.sampler = window = windowed.Windowed(study.sampler._inner, 10)
    values = [(0.9, 0.1), *([(0.5, 0.5)] * 3), *([(0.4, 0.4)] * 30), (0.1, 0.9)]
    for value in values:
        trial = study.ask()
        suggestions.draw(trial, file.axes, "tpe")
        suggestions.tell(study, trial, value)
    running = study.ask()
    seen = [trial.number for trial in window._seen(study).get_trials()]
    assert seen == [0, 1, *range(25, 35), running.number]


def test_a_window_after_a_restart_sees_the_same(tmp_path: Path) -> None:
    queue = TrialQueue(tmp_path, study_file(trials=30))
    run(queue)
    before = {t.number for t in queue.store.search.sampler._seen(queue.store.search).get_trials()}
    queue.store.close()
    queue = TrialQueue(tmp_path, study_file(trials=31))
    asked = queue.ask()
    seen = {t.number for t in queue.store.search.sampler._seen(queue.store.search).get_trials()}
    assert seen - {int(asked.trial_id)} == before


def test_a_window_sees_the_parents_of_nsga_however_old() -> None:
    file = study_file("nsga2", trials=1000)
    study = suggestions.in_memory(file)
    study.sampler = window = windowed.Windowed(study.sampler._inner, registry.POPULATION)
    for _ in range(6 * registry.POPULATION):
        trial = study.ask()
        recipe = suggestions.draw(trial, file.axes, "nsga2")
        suggestions.tell(study, trial, (accuracy(recipe), recipe["sparsity"]))
    study.ask()
    parents = optuna_adapter.nsga_parents(study)
    assert len(parents) == registry.POPULATION
    assert min(parents) < min(window._latest)
    assert set(parents) <= {optuna_adapter.storage_id(trial) for trial in window._seen(study).get_trials()}
