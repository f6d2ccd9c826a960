"""The tables of the documentation, made from the code so that they cannot drift from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from models import MODELS
from pruning.allocation.weight_scopes import SCOPES
from pruning.criteria.registry import CRITERIA
from pruning.schedules import SCHEDULES
from pruning.settings import GRANULARITIES
from study.config.recipe import Recipe
from study.config.sections import DIRECTIONS, SAMPLERS, BaselineSection, Resources, StudySection
from study.config.study_file import DEFAULT_SPACE
from study.data.sources import DATASETS
from study.training.optimisers import LR_SCHEDULES, OPTIMIZERS

CHOICES: dict[str, Iterable[str]] = {
    "criterion": CRITERIA,
    "granularity": GRANULARITIES,
    "scope": SCOPES,
    "schedule": SCHEDULES,
    "lr_schedule": LR_SCHEDULES,
    "optimizer": OPTIMIZERS,
    "sampler": SAMPLERS,
    "objectives": DIRECTIONS,
    "model": MODELS,
    "dataset": DATASETS,
}
MEANINGS = {
    "criterion": "how a weight or channel is scored; also a function of your own, `package.module:function`",
    "granularity": "what is removed at once; `n:m` stands for any two numbers, such as `2:4`",
    "channel_share": "hybrid recipes: the share of `sparsity` that channels bring; single weights bring the rest",
    "reduce": "how the scores of a channel's weights become its score; `sum` favours large filters if global",
    "scope": "over what scores are ranked, or how the target is shared out among the layers",
    "schedule": "how the cuts are spread: all at once, in equal steps, or along a cubic curve",
    "sparsity": "share of the dense network's prunable weights to remove",
    "sparsity_of": "channel recipes: what the target counts",
    "initial_sparsity": "sparsity of the first cut of `iterative` and `gradual` (0: no such cut)",
    "steps": "number of cuts; `one_shot` always has 1",
    "finetune_epochs": "epochs in all, spread evenly over the cuts: the same budget for every schedule",
    "epochs_per_step": "epochs after each cut; give it instead of `finetune_epochs`",
    "finetune_lr": "highest learning rate of fine-tuning",
    "lr_schedule": "how the rate changes over the whole fine-tuning",
    "optimizer": "`sgd` has Nesterov momentum 0.9",
    "weight_decay": "while fine-tuning",
    "recalibrate": "measure batch norm's statistics anew after every cut",
    "calibration_samples": "training images for that, and for criteria that look at data",
    "min_channels": "channel recipes: channels that every layer keeps at least",
    "round_to": "channel recipes: every layer keeps a multiple of this many channels",
    "protect": "names of modules that are never cut",
    "layer": "cut this layer alone; `sparsity` is then the share of its weights. `each`: one recipe per layer",
    "group": "cut this dependency group alone; `sparsity` is then the share of its channels. `each`: one per group",
}
STUDY_MEANINGS = {
    "name": "names the results folder; letters, digits, `-` and `_`",
    "objectives": "one to three measures to optimise, each with its direction",
    "constraints": "limits on columns, such as `{accuracy_drop: '<= 0.02'}`; a row outside is kept, never on the front",
    "search": "who proposes recipes; `grid` runs every combination (ranges then need `step`)",
    "sampler": "which sampler of Optuna's, with `search: optuna`",
    "repeats": "a recipe that is proposed twice: `new_seed` runs it with another seed; `stored` reuses the result",
    "start_with": "recipes that are tried first",
    "trials": "recipes to finish, those of a resumed study included; left out: 60, or the whole grid",
    "hours": "start no trial after this much time",
    "seeds": "runs of every recipe, each with a row of its own",
    "confirm_seeds": "after the search: further runs of the recipes on the front, with other seeds",
    "controls": "runs to compare with, after the search: `dense`, `scratch`",
    "stop_early": "for example `{min_epochs: 1, reduction: 3}`: end weak trials early",
    "save": "which networks are kept: those on the front, all, or none",
    "seed": "of the search and of all trials",
}
RESOURCES_MEANINGS = {
    "cpus": "cores of one trial",
    "gpus": "GPUs of one trial; may be a fraction. `auto`: one where there are any",
    "concurrency": "trials at once. `auto`: as many as fit",
}
BASELINE_MEANINGS = {
    "model": "the network; also a function of your own, `package.module:factory`",
    "checkpoint": "a file with the trained weights (a state_dict); nothing is trained then",
    "dataset": "the images; `imagefolder` needs `--data-dir`",
    "image_size": "`imagefolder` only, and required there: pixels to which images are resized",
    "train_samples": "use only so many training images, the same for every trial, stratified by class",
    "validation": "share of the training images set aside for validation, stratified by class",
    "epochs": "epochs of the baseline's training",
    "batch_size": "of the baseline and of fine-tuning",
    "lr": "highest learning rate of the baseline's training",
    "weight_decay": "of the baseline's training",
    "label_smoothing": "of the baseline's training",
    "augment": "crop at random after padding, and flip; for fine-tuning too",
    "bn_l1": "L1 penalty on batch norm's scale, as network slimming asks for",
}
SECTIONS: dict[str, tuple[type[BaseModel], Mapping[str, str]]] = {
    "study": (StudySection, STUDY_MEANINGS),
    "resources": (Resources, RESOURCES_MEANINGS),
    "baseline": (BaselineSection, BASELINE_MEANINGS),
    "space": (Recipe, MEANINGS),
}
COST = {
    "weights": "none",
    "forward": "forward",
    "backward": "forward, backward",
    "per-image": "forward, backward; gradients of single images",
}
# A scope or schedule that is not named here is described by the first line of its docstring.
SCOPE_MEANINGS = {
    "global": ("the lowest scores of the whole network go", ""),
    "layer": ("every layer loses the same share", ""),
    "erk": (
        "a layer's density is in proportion to (inputs + outputs + kernel sizes) / weights, at most 1",
        "Evci 2020, arXiv:1911.11134",
    ),
    "lamp": (
        "each score is divided by the sum of its layer's scores that are not lower; the lowest of the network go",
        "Lee 2021, arXiv:2010.07611",
    ),
    "uniform_plus": (
        "the same share, but the first layer is spared and the classifier loses at most 80 %",
        "Gale 2019, arXiv:1902.09574",
    ),
    "sensitivity": (
        "the least sum of the accuracy drops that a scan measured by cutting each layer alone",
        "Shoham & Gersho 1988",
    ),
}
SCHEDULE_MEANINGS = {
    "one_shot": ("the target in one cut", ""),
    "iterative": ("equal steps: initial + (final - initial) * progress", "Han 2015, arXiv:1506.02626"),
    "gradual": (
        "large steps first, small ones at the end: final + (initial - final) * (1 - progress)^3",
        "Zhu & Gupta 2017, arXiv:1710.01878",
    ),
}


def criteria_table() -> str:
    """All criteria with their formulas, sources and costs, as the rows of a Markdown table; higher scores stay."""
    return _rows(
        (f"`{name}`", form.of_weight or "refused", form.of_channel, COST[form.cost], form.source)
        for name, form in CRITERIA.items()
    )


def scopes_table() -> str:
    """All scopes with their sources, as the rows of a Markdown table."""
    return _rows(_described(SCOPES, SCOPE_MEANINGS))


def schedules_table() -> str:
    """All schedules with their sources, as the rows of a Markdown table."""
    return _rows(_described(SCHEDULES, SCHEDULE_MEANINGS))


def space_table() -> str:
    """The keys of a recipe with their choices, defaults and meanings, as the rows of a Markdown table."""
    return section_table("space")


def section_table(name: str) -> str:
    """The keys of a section of the study file (`study`, `resources`, `baseline`, `space`), as `space_table`."""
    section, meanings = SECTIONS[name]
    own_defaults = DEFAULT_SPACE if name == "space" else {}
    return _rows(
        (f"`{key}`", _choices(key, field), _default(field, own_defaults.get(key)), meanings[key])
        for key, field in section.model_fields.items()
    )


def _choices(key: str, field: FieldInfo) -> str:
    choices = CHOICES.get(key) or _literals(field.annotation)
    return ", ".join(f"`{choice}`" for choice in choices)


def _literals(annotation: Any) -> list[str]:
    """The strings among which an annotation lets one choose: those of Literal, also inside of `... | None` or a tuple.

    A choice beside numbers, such as `auto`, is no list of choices.
    """
    found = get_args(annotation)
    if found and all(isinstance(one, str) for one in found):
        return list(found)
    inner = [part for part in found if part not in (type(None), ...)]
    return _literals(inner[0]) if len(inner) == 1 else []


def _default(field: FieldInfo, own: Any) -> str:
    if own is None and field.is_required():
        return "required"
    return f"`{json.dumps(field.default if own is None else own)}`"


def _described(functions: Mapping[str, Callable[..., Any]], told: Mapping[str, tuple[str, str]]) -> Iterable[Any]:
    for name, function in functions.items():
        first = (function.__doc__ or "").strip().split("\n")[0]
        source = ", ".join(re.findall(r"arXiv:\d{4}\.\d{5}", function.__doc__ or ""))
        yield (f"`{name}`", *told.get(name, (first, source)))


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
