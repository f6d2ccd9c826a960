"""A study that starts from an older one: what is shared, in which terms, and what the sampler makes of it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from optuna.samplers import TPESampler

from study.config import parse
from study.search.trial_queue import TrialQueue
from study.selection import prior
from tests.study.search.test_trial_queue import row

OLD = Path(__file__).parents[2] / "data" / "quickstart"
SPACE = {
    "criterion": ["magnitude_l1", "magnitude_l2", "random"],
    "granularity": ["weight", "channel"],
    "scope": "global",
    "schedule": ["one_shot", "iterative", "gradual"],
    "sparsity": {"low": 0.3, "high": 0.98},
    "steps": {"choices": [2, 3], "when": {"schedule": ["iterative", "gradual"]}},
    "finetune_lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "weight_decay": [0.0, 5e-4],
}


def study_file(space: Any = None, **study: Any) -> Any:
    content = {"name": "new", "start_from": str(OLD), **study}
    return parse({"study": content, "baseline": {"model": "resnet20"}, "space": space or SPACE}, "new.yaml")


@pytest.fixture(scope="module")
def old() -> pd.DataFrame:
    trials = pd.read_csv(OLD / "trials.csv", dtype={"trial_id": str})
    return trials[(trials.kind == "search") & (trials.state == "complete")]


def test_its_front_comes_first_with_the_axes_that_both_have(tmp_path: Path, old: pd.DataFrame) -> None:
    file = study_file()
    found = prior.of_study(tmp_path, file)
    points = list(zip(old["accuracy"], old["sparsity"], strict=True))
    front = old[[not any(a >= x and s >= y and (a, s) != (x, y) for a, s in points) for x, y in points]]
    assert found.front == len(front)
    assert len(found.recipes) == len(old)
    assert {r["sparsity"] for r in found.fixed()} == set(front["requested_sparsity"])
    for recipe in found.recipes:
        (mine,) = old[old["requested_sparsity"] == recipe["sparsity"]].to_dict("records")
        assert "weight_decay" in recipe or mine["weight_decay"] not in SPACE["weight_decay"]
        assert "scope" not in recipe  # nothing to choose
        assert ("steps" in recipe) == (mine["steps"] in {2, 3})  # an older study's 5 is none of this one's choices
        for key in set(recipe) - {"sparsity"}:
            assert recipe[key] == mine[key]
    queue = TrialQueue(tmp_path, file, prior=found)
    for recipe in found.fixed():
        ticket = queue.ask()
        assert recipe.items() <= ticket.recipe.items()
        queue.store.tell(ticket, row(), [])
    queue.store.close()


def test_accuracies_count_from_the_baseline_and_costs_as_its_fractions(tmp_path: Path, old: pd.DataFrame) -> None:
    file = study_file(objectives={"accuracy": "max", "macs": "min", "sparsity": "max"})
    dense = yaml.safe_load((OLD / "study.yaml").read_text())["record"]["baseline"]
    found = prior.read(OLD, file)
    values = found.values(file.study.objectives, {"accuracy": dense["accuracy"] - 0.25, "macs": 2 * dense["macs"]})
    by_sparsity = dict(zip((recipe["sparsity"] for recipe in found.recipes), values, strict=True))
    for mine in old.to_dict("records"):
        accuracy, macs, sparsity = by_sparsity[mine["requested_sparsity"]]
        assert accuracy == pytest.approx(mine["accuracy"] - 0.25)
        assert macs == pytest.approx(2 * mine["macs"])
        assert sparsity == mine["sparsity"]


def test_another_network_or_data_set_is_said() -> None:
    note = prior.read(OLD, study_file()).note
    assert "another model (resnet8 there, resnet20 here)" in note
    assert "another dataset (digits there, cifar10 here)" in note


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": {"start_from": "nowhere"}}, "nowhere: no results folder"),
        ({"space": {"criterion": "taylor", "reduce": ["mean", "group_normalised"]}}, "it has no axis that this study"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    constant = {"granularity": "channel", "scope": "global", "schedule": "one_shot", "sparsity": 0.5}
    space = {**constant, "finetune_lr": 0.01, **changes["space"]} if "space" in changes else None
    file = study_file(space, **changes.get("study", {}))
    with pytest.raises(ValueError, match=message):
        prior.of_study(tmp_path, file)


def test_the_sampler_sees_its_trials_and_a_resumed_study_needs_no_older_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = study_file()
    prior.keep(tmp_path, prior.of_study(tmp_path, file))
    monkeypatch.setattr(prior, "read", lambda *_: pytest.fail("the older folder was read again"))
    found = prior.of_study(tmp_path, file)
    queue = TrialQueue(tmp_path, file, prior=found)
    queue.learn({"accuracy": 0.9})
    seen = []
    relative = TPESampler.sample_relative

    def spied(self: Any, study: Any, trial: Any, space: Any) -> Any:
        seen.append([t.values for t in study._get_trials(states=None) if t.state.is_finished()])
        return relative(self, study, trial, space)

    monkeypatch.setattr(TPESampler, "sample_relative", spied)
    for _ in range(found.front + 2):
        queue.store.tell(queue.ask(), row(0.7, 0.6), [])
    assert len(seen[-1]) == len(found.recipes) + found.front + 1
    queue.store.close()
