"""The README's table of what can be sampled, made from the code so that it cannot drift from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import get_args

from pruning.allocation.weight_scopes import SCOPES
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES
from study.config.study_file import Recipe
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS

CHOICES: dict[str, Iterable[str]] = {
    "criterion": CRITERIA,
    "granularity": GRANULARITIES,
    "scope": SCOPES,
    "schedule": SCHEDULES,
    "lr_schedule": LR_SCHEDULES,
    "optimizer": OPTIMIZERS,
}
MEANINGS = {
    "criterion": "how a weight or channel is valued",
    "granularity": "what is removed at once; of n:m any, such as `2:4`",
    "channel_share": "of `sparsity`, that channels bring; weights of what remains bring the rest (hybrid recipes)",
    "reduce": "a channel's score: its weights' scores summed (if global, small layers then lose most), or their mean",
    "scope": "over what scores are ranked",
    "schedule": "all in one cut, in equal steps, or along a cubic",
    "sparsity": "share of the dense network's prunable weights that is to go",
    "sparsity_of": "what the target of a channel recipe counts",
    "initial_sparsity": "where `iterative` and `gradual` start",
    "steps": "number of cuts (`one_shot` has 1)",
    "finetune_epochs": "in all, spread evenly over the cuts: the same budget for every schedule",
    "epochs_per_step": "instead of `finetune_epochs`: after each cut",
    "finetune_lr": "the highest learning rate of fine-tuning",
    "lr_schedule": "over the whole fine-tuning",
    "optimizer": "`sgd` is Nesterov's, 0.9",
    "weight_decay": "while fine-tuning",
    "recalibrate": "batch norm's statistics, after every cut",
    "calibration_samples": "training images for that, and for criteria that look at data",
    "min_channels": "that every layer keeps (channel recipes)",
    "round_to": "a multiple of which every layer keeps (channel recipes)",
    "protect": "modules that are never cut",
    "layer": "cut this layer alone, of whose weights `sparsity` is the share; `each`: one recipe per layer",
    "group": "cut this dependency group alone, of whose channels `sparsity` is the share; or `each`",
}


COST = {
    "weights": "none",
    "forward": "forward",
    "backward": "forward, backward",
    "per-image": "forward, backward; gradients of single images",
}


def criteria_table() -> str:
    """All criteria with their formulas, sources and costs, as the rows of a Markdown table; higher scores stay."""
    rows = [
        (f"`{name}`", form.of_weight or "refused", form.of_channel, COST[form.cost], form.source)
        for name, form in CRITERIA.items()
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def space_table() -> str:
    """The keys of a recipe with their choices and defaults, as the rows of a Markdown table."""
    lines = []
    for key, field in Recipe.model_fields.items():
        choices = CHOICES.get(key) or get_args(field.annotation)
        named = ", ".join(f"`{c}`" for c in choices if isinstance(c, str))
        default = "a fraction in [0, 1)" if field.is_required() else f"default `{json.dumps(field.default)}`"
        lines.append(f"| `{key}` | {named or default} | {MEANINGS[key]} |")
    return "\n".join(lines)
