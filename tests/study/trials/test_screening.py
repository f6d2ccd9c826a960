"""Screening: what it finds is what a trial without fine-tuning finds."""

from typing import Any

import pytest
import torch

from study.config import Recipe
from study.selection.candidates import choose
from study.trials.context import Ticket
from study.trials.screening import screen
from study.trials.steps import run_trial

CPU = torch.device("cpu")
RECIPE = {
    "criterion": "magnitude_l1", "granularity": "channel", "scope": "global", "schedule": "one_shot", "steps": 1,
    "sparsity": 0.5, "finetune_epochs": 0, "finetune_lr": 0.01, "calibration_samples": 64,
}  # fmt: skip


def ticket(**changes: Any) -> Ticket:
    return Ticket("0000", "search", {**RECIPE, **changes}, 8192)


@pytest.mark.parametrize(
    "changes", [{}, {"granularity": "weight", "criterion": "taylor"}, {"criterion": "random", "sparsity": 0.7}]
)
def test_it_finds_what_a_trial_without_fine_tuning_finds(shared: Any, changes: Any) -> None:
    """An iterative recipe is cut at once, and its fine-tuning left out."""
    asked = ticket(**changes, schedule="iterative", steps=3, finetune_epochs=3)
    (row,) = screen([asked], shared._replace(screening=10**6), CPU)
    trial = run_trial(Recipe(**ticket(**changes).recipe), asked.seed, shared, CPU).row
    assert (row["screened_accuracy"], row["sparsity"]) == (trial["accuracy"], trial["sparsity"])
    assert (row["state"], row["error"], row["finetune_epochs"]) == ("screened", None, 3)
    assert "accuracy" not in row


def test_it_looks_at_as_many_images_of_every_class_as_it_is_asked_to(shared: Any) -> None:
    rows = screen([ticket(), ticket()], shared._replace(screening=20), CPU)
    assert rows[0]["screened_accuracy"] * 20 == pytest.approx(round(rows[0]["screened_accuracy"] * 20))
    assert rows[0]["screened_accuracy"] == rows[1]["screened_accuracy"]


def test_a_candidate_that_cannot_be_cut_says_why_and_is_not_chosen(shared: Any) -> None:
    rows = screen([ticket(criterion="mine:nowhere"), ticket()], shared._replace(screening=20), CPU)
    assert "nowhere" in rows[0]["error"]
    assert rows[1]["error"] is None
    assert choose(rows, []) == 1
    assert choose([rows[0]] * 3, []) == 0
