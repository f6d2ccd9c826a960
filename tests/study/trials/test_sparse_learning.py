"""Recipes that learn sparsely before the first cut."""

from typing import Any

import numpy as np
import pytest
import torch

from pruning import pipeline
from study.config import Recipe
from study.trials import steps
from study.trials.steps import run_trial


def run(context: Any, **recipe: Any) -> Any:
    complete = {
        "sparsity": 0.5, "granularity": "channel", "finetune_epochs": 3, "sparse_epochs": 2, "calibration_samples": 64,
    }  # fmt: skip
    outcome = run_trial(Recipe(**(complete | recipe)), 0, context, torch.device("cpu"))
    assert outcome.row["state"] == "complete", outcome.traceback
    return outcome


@pytest.mark.parametrize("granularity", ["channel", "hybrid"])
def test_its_epochs_are_of_the_same_budget_and_come_before_the_first_cut(shared: Any, granularity: str) -> None:
    recipe = {"schedule": "iterative", "steps": 2, "finetune_epochs": 4}
    history = run(shared, granularity=granularity, **recipe).history
    assert [row["sparsity"] for row in history[:2]] == [0, 0]
    assert 0 < history[2]["sparsity"] < history[3]["sparsity"]
    assert [row["progress"] for row in history] == [0.25, 0.5, 0.75, 1]


def test_epochs_after_each_cut_come_on_top() -> None:
    cuts = {"schedule": "iterative", "steps": 3, "epochs_per_step": 2}
    assert Recipe(sparsity=0.5, granularity="channel", sparse_epochs=4, **cuts).epochs == 10


def weakest(monkeypatch: pytest.MonkeyPatch, context: Any, **recipe: Any) -> float:
    """The norm of the weakest unit of a group before the cut, relative to its strongest: the mean over groups."""
    ratios: list[float] = []

    def cut(pruned: Any, *arguments: Any) -> Any:
        weights = {name: p.detach() for name, p in pruned.model.named_parameters() if p.ndim == 4}
        norms = [weight.flatten(1).norm(dim=1) for weight in weights.values()]
        ratios.extend(float(norm.min() / norm.max()) for norm in norms)
        return pipeline.prune_to(pruned, *arguments)

    monkeypatch.setattr(steps, "prune_to", cut)
    run(context, finetune_lr=0.05, **recipe)
    return float(np.mean(ratios))


def test_the_lasso_shrinks_the_weakest_channels_most(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without = weakest(monkeypatch, shared, group_lasso=1e-9)
    assert weakest(monkeypatch, shared, group_lasso=0.1) < 0.7 * without


def test_scores_are_those_of_the_trained_network(shared: Any) -> None:
    """Not the baseline's, which other trials share."""

    def refuse(key: str, compute: Any) -> Any:
        raise AssertionError("asked for the baseline's scores")

    run(shared._replace(score_store=refuse), criterion="taylor")
    with pytest.raises(AssertionError, match="asked for"):
        run(shared._replace(score_store=refuse), criterion="taylor", sparse_epochs=0)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({"granularity": "weight"}, "granularity is channel or hybrid, not weight"),
        ({"granularity": "2:4", "sparsity": 0.5}, "not 2:4"),
        ({"granularity": "channel", "finetune_epochs": 1}, "is 2, of 1 epochs in all"),
    ],
)
def test_what_it_cannot_be_combined_with_is_refused(recipe: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Recipe(**({"sparsity": 0.5, "sparse_epochs": 2} | recipe))


def test_without_it_the_strength_means_nothing() -> None:
    assert Recipe(sparsity=0.5, group_lasso=0.3) == Recipe(sparsity=0.5)
