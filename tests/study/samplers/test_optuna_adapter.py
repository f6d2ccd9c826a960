"""Each private thing of Optuna's that is used, and that it behaves as is assumed: an upgrade that lacks one says so.

The adapter is imported within the tests, so that they can say what is wrong even where it cannot be imported.
"""

import ast
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

FILE = Path(__file__).parents[3] / "study" / "samplers" / "optuna_adapter.py"
BREAKS = {  # private name -> what no longer works without it
    "_trial_id": "no trial can be looked up by itself: the ledger would walk all trials for each one",
    "_study_id": "no trial can be looked up by its number, and NSGA's parents cannot be read",
    "_storage": "NSGA's parents, and the trials of a window, cannot be read",
    "_get_trials": "samplers see all trials instead of a window, and each costs the driver more than the one before",
    "get_trial_id_from_study_id_trial_number": "what a trial of the search was asked to run cannot be read",
    "get_study_system_attrs": "NSGA's parents cannot be read",
    "set_trial_system_attr": "constraints that are broken cannot be told",
    "system_attrs": "a trial that was enqueued and then lost with its driver loses its recipe",
    "fixed_params": "a trial that was enqueued and then lost with its driver loses its recipe",
    ":parent:": "NSGA loses the parents that its window has dropped, and raises where none are left",
    "constraints": "samplers and the dashboard take infeasible trials for feasible",
}


def need(holds: Any, name: Any) -> None:
    """Fail where Optuna is no longer as the adapter has it."""
    assert holds, f"Optuna {optuna.__version__} changed {name!r}: {BREAKS[name]}. To be mended in {FILE.name}"


@pytest.fixture
def adapter() -> Any:
    from study.samplers import optuna_adapter

    return optuna_adapter


@pytest.fixture
def study() -> Any:
    return optuna.create_study(directions=["maximize", "maximize"], sampler=optuna.samplers.RandomSampler(0))


def value_of(trial: Any) -> Any:
    return trial.suggest_float("x", 0, 1)


def test_every_private_name_that_the_adapter_uses_is_listed_here() -> None:
    tree = ast.parse(FILE.read_text())
    own = {"_study", "_trials", "__getattr__", "__init__"}  # of the adapter's own class
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    private = {
        name for name in used if name.startswith("_") or "system_attr" in name or name.startswith("get_trial_id")
    }
    private |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[0] == "_"}
    assert private - own <= set(BREAKS)
    assert [name for name in BREAKS if name not in FILE.read_text()] == []


def test_trials_and_studies_carry_the_storages_numbers(study: Any, adapter: Any) -> None:
    trial = study.ask()
    need(isinstance(getattr(trial, "_trial_id", None), int), "_trial_id")
    need(isinstance(getattr(study, "_study_id", None), int), "_study_id")
    need(isinstance(getattr(study, "_storage", None), BaseStorage), "_storage")
    need(hasattr(BaseStorage, "get_trial_id_from_study_id_trial_number"), "get_trial_id_from_study_id_trial_number")
    frozen = study.get_trials()[0]
    need(getattr(frozen, "_trial_id", None) == trial._trial_id, "_trial_id")
    need(adapter.storage_id(frozen) == adapter.storage_id(trial) == trial._trial_id, "_trial_id")


def test_a_trial_is_looked_up_without_walking_all_of_them(adapter: Any) -> None:
    storage = InMemoryStorage()
    first, study = (optuna.create_study(storage=storage, study_name=name) for name in "ab")
    first.ask()
    trials = [study.ask() for _ in range(3)]
    for trial in trials:
        need(adapter.stored_trial(storage, trial).number == trial.number, "_trial_id")
        found = adapter.trial_by_number(storage, study, trial.number)
        need(found.number == trial.number, "get_trial_id_from_study_id_trial_number")
        need(adapter.storage_id(found) == adapter.storage_id(trial) != trial.number, "_study_id")


def test_a_trial_of_an_earlier_process_is_written_to_and_then_told(study: Any, adapter: Any) -> None:
    value_of(study.ask())
    again = adapter.reopen_trial(study, study.get_trials()[0])
    need(isinstance(again, Trial), "_trial_id")
    again.set_user_attr("record", {"row": 1})
    study.tell(again, [0.5, 0.5])
    (told,) = study.get_trials()
    need(
        (told.state, told.user_attrs, told.values) == (TrialState.COMPLETE, {"record": {"row": 1}}, [0.5] * 2),
        "_trial_id",
    )


def test_what_was_enqueued_is_known_before_it_is_drawn(study: Any, adapter: Any) -> None:
    study.enqueue_trial({"x": 0.25, "y": 3})
    trial = study.ask()
    (frozen,) = study.get_trials()
    need(hasattr(frozen, "system_attrs"), "system_attrs")
    need(frozen.params == {} and frozen.system_attrs.get("fixed_params") == {"x": 0.25, "y": 3}, "fixed_params")
    value_of(trial)
    need(adapter.trial_parameters(study.get_trials()[0]) == {"x": 0.25, "y": 3}, "fixed_params")


def test_constraints_reach_samplers_and_the_dashboard(study: Any, adapter: Any) -> None:
    trial = study.ask()
    need(hasattr(BaseStorage, "set_trial_system_attr"), "set_trial_system_attr")
    adapter.write_violations(study._storage, trial, [0.5, -1.0])
    study.tell(trial, [1.0, 1.0])
    (frozen,) = study.get_trials()
    need(frozen.system_attrs.get("constraints") == [0.5, -1.0], "constraints")  # as optuna-dashboard reads it
    need(list(frozen.constraints.values()) == [0.5, -1.0], "constraints")
    feasible = study.ask()
    adapter.write_violations(study._storage, feasible, [-1.0, -1.0])
    study.tell(feasible, [0.5, 0.5])
    need([t.number for t in study.best_trials] == [feasible.number], "constraints")  # the other dominates it


@pytest.mark.parametrize("kind", [optuna.samplers.NSGAIISampler, optuna.samplers.NSGAIIISampler])
def test_nsga_notes_its_parents_down(kind: Any, adapter: Any) -> None:
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=kind(population_size=4, seed=0))
    need(adapter.nsga_parents(study) == [], ":parent:")
    for _ in range(4 * 4):
        trial = study.ask()
        x = value_of(trial)
        study.tell(trial, [x, 1 - x])
    parents = adapter.nsga_parents(study)
    notes = study._storage.get_study_system_attrs(study._study_id)
    need([key for key in notes if ":parent:" in key] != [], ":parent:")
    need(len(parents) == 4 and set(parents) <= {trial._trial_id for trial in study.get_trials()}, ":parent:")
    latest = max((key for key in notes if ":parent:" in key), key=lambda key: int(key.split(":")[-1]))
    need(parents == notes[latest], ":parent:")


@pytest.mark.parametrize("name", ["tpe", "nsga2", "nsga3", "gp"])
def test_samplers_ask_the_study_that_they_are_shown_for_its_trials(
    name: Any, adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.samplers import registry

    need(callable(getattr(optuna.Study, "_get_trials", None)), "_get_trials")
    asked = []
    shown = adapter._RestrictedStudy._get_trials

    def spied(self: Any, *arguments: Any, **named: Any) -> Any:
        found = shown(self, *arguments, **named)
        asked.append(len(found))
        return found

    monkeypatch.setattr(adapter._RestrictedStudy, "_get_trials", spied)
    monkeypatch.setattr(adapter._RestrictedStudy, "get_trials", spied)
    monkeypatch.setattr(registry, "WINDOW", 5)
    monkeypatch.setattr(registry, "STARTUP", 2)
    monkeypatch.setattr(registry, "POPULATION", 3)
    study = optuna.create_study(directions=["maximize", "maximize"], sampler=registry.SAMPLERS[name](0, 0))
    for _ in range(14):
        trial = study.ask()
        value_of(trial)
        study.tell(trial, [0.5, 0.5])
    need(asked != [], "_get_trials")
    assert max(asked) <= 5 + 1 + 1 + 3  # the latest, one on the front, the one that runs, parents


def test_a_window_answers_as_optunas_own_study_does(study: Any, adapter: Any) -> None:
    for state in (TrialState.COMPLETE, TrialState.PRUNED):
        study.tell(study.ask(), [1, 1] if state == TrialState.COMPLETE else None, state=state)
    study.ask()
    everything = [adapter.storage_id(trial) for trial in study.get_trials()]
    seen = adapter.restricted_study(study, everything)
    for states in (None, (TrialState.COMPLETE,), (TrialState.RUNNING, TrialState.PRUNED)):
        own = study._get_trials(deepcopy=False, states=states, use_cache=False)
        theirs = seen._get_trials(deepcopy=False, states=states, use_cache=True)
        need([t.number for t in own] == [t.number for t in theirs], "_get_trials")
        assert all(isinstance(trial, FrozenTrial) for trial in theirs)
    assert (seen.directions, seen._study_id) == (study.directions, study._study_id)
