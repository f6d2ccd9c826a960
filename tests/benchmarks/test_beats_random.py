"""What a criterion is for: on a trained network, without fine-tuning, it beats random pruning.

On handwritten digits; `benchmarks/beats_random.py` does the same on real images, at more shares. For channels, only the
criteria that look at what the loss or the next layer loses: after so little training, norms of filters say nothing yet.
"""

import statistics
from typing import Any

import pytest
import torch

from pruning.criteria.registry import CRITERIA
from study.config import Recipe
from study.trials.steps import run_trial

SHARES = {"weight": 0.5, "channel": 0.3}
SEEDS = range(2)
PAIRS = [(name, "weight") for name, form in CRITERIA.items() if form.weight is not None and name != "random"]
SLOW = {"obc", "obs", "regression"}  # take seconds a score; they are compared with exact answers in tests/pruning
PAIRS += [(name, "channel") for name in ("taylor", "fisher", "regression", "thinet")]


def accuracy(shared: Any, criterion: Any, granularity: Any) -> Any:
    """The mean over seeds and scopes, of validation and test accuracy."""
    found = []
    for scope in ("global", "layer"):
        for seed in SEEDS:
            recipe = Recipe(
                criterion=criterion,
                granularity=granularity,
                scope=scope,
                sparsity=SHARES[granularity],
                sparsity_of="channels",
                finetune_epochs=0,
                calibration_samples=128,
                reconstruct="none",  # which would make up for much of a bad choice
            )
            row = run_trial(recipe, seed, shared, torch.device("cpu")).row
            assert row["state"] == "complete", row["error"]
            found += [row["accuracy"], row["test_accuracy"]]
    return statistics.mean(found)


@pytest.fixture(scope="module")
def random(shared: Any) -> Any:
    """The control's accuracies by granularity."""
    return {granularity: accuracy(shared, "random", granularity) for granularity in SHARES}


@pytest.mark.parametrize(
    ("criterion", "granularity"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if pair[0] in SLOW else []) for pair in PAIRS],
)
def test_every_criterion_beats_random_clearly(shared: Any, random: Any, criterion: Any, granularity: Any) -> None:
    assert accuracy(shared, criterion, granularity) > random[granularity] + 0.05
