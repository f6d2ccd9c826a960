"""A recipe's criterion and prune settings, and the baseline scores that trials share."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

import models
from pruning.channels.graph import Timed
from pruning.criteria.registry import CRITERIA, Criterion
from pruning.criteria.scoring import check_scores
from pruning.pipeline import Pruned, begin, score
from pruning.settings import Granularity, PruneSettings
from pruning.weights.masks import Scores
from study.config import Recipe
from study.data.splits import calibration
from study.training.device_data import DeviceData, Images, rows_of
from study.trials.context import RUNS, ScoreArrays, TrialContext
from study.trials.scan import Curves, curve_key

PROBED = 4  # images of a batch


def criterion(name: str) -> Criterion:
    """A criterion of `pruning`, or a user's own function for single weights."""
    return CRITERIA[name] if name in CRITERIA else Criterion(weight=models.imported(name, "criterion"))


def probe(name: str, model: nn.Module, in_shape: tuple[int, int, int]) -> None:
    """Score a network with random images, to learn whether a user's own criterion keeps to what criteria promise.

    Raises ValueError if it fails, returns anything but a finite score for every prunable weight, changes the network,
    or draws from torch's global generator, which would make trials depend on each other.
    """
    weight = criterion(name).weight
    assert weight is not None
    batches = [(torch.rand(PROBED, *in_shape), torch.zeros(PROBED, dtype=torch.long)) for _ in range(2)]
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    try:
        scores = models.called(weight, "it", model, batches, torch.Generator().manual_seed(0))
        check_scores(scores, model)
    except ValueError as error:
        raise ValueError(f"criterion {name}: {error}") from None
    drawn, after = not torch.equal(random_state, torch.get_rng_state()), model.state_dict()
    torch.set_rng_state(random_state)
    if drawn:
        raise ValueError(f"criterion {name}: draws from torch's global generator; use the one that it is given")
    for key, value in before.items():
        if key not in after or not torch.equal(value, after[key]):
            raise ValueError(f"criterion {name}: changes {key} of the network, which a criterion leaves as it was")
    if modes != [module.training for module in model.modules()]:
        raise ValueError(f"criterion {name}: leaves the network in another mode; put back train() or eval()")


def prune_settings(
    recipe: Recipe, curves: Mapping[str, Curves], latencies: Mapping[str, Timed] | None = None
) -> PruneSettings:
    """The recipe's pruning settings.

    curves: of the study's sensitivity scan, by `curve_key`. latencies: of the baseline's layers.
    """
    return PruneSettings(
        criterion=criterion(recipe.criterion),
        granularity=Granularity(recipe.granularity),
        scope=recipe.scope,
        reduce=recipe.reduce,
        reconstruct=recipe.reconstruct,
        sparsity_of=recipe.sparsity_of,
        min_channels=recipe.min_channels,
        round_to=recipe.round_to,
        channel_share=recipe.channel_share,
        protect=recipe.protect,
        only=recipe.part,
        curves=curves.get(curve_key(recipe)) if recipe.scope == "sensitivity" else None,
        latencies=latencies,
    )


def dense_network(recipe: Recipe, context: TrialContext, data: DeviceData) -> Pruned:
    """The baseline on the data's device, ready to be pruned as the recipe says."""
    example = data.images.batch(data.validation[:1])[0]
    settings = prune_settings(recipe, context.curves, context.latencies)
    return begin(context.baseline.network(data.images.device), example, settings)


def baseline_scores(recipe: Recipe, seed: int, context: TrialContext, images: Images, dense: Pruned) -> Scores | None:
    """Scores of the unpruned baseline, from the shared store; a private copy. None for criteria that are not shared.

    Not shared: criteria that only use weights (cheap), `random` (draws must differ), user-defined ones (unknown).

    Args:
      recipe: criterion and calibration settings.
      seed: of the trial; `seed % RUNS` selects the calibration images.
      context: the study's baseline, data and score store.
      images: the data set on its device.
      dense: the baseline, not yet pruned.
    """
    if dense.settings.criterion.cost in ("", "weights"):
        return None
    draw = int(np.random.SeedSequence([context.seed, seed % RUNS]).generate_state(1)[0])
    device = images.device

    def compute() -> ScoreArrays:
        chosen = rows_of(calibration(context.data, recipe.calibration_samples, draw), device)
        scores = score(dense, images.batches(chosen), torch.Generator().manual_seed(draw))
        return {name: values.cpu().numpy() for name, values in scores.items()}

    key = (recipe.criterion, recipe.granularity, recipe.reduce, recipe.protect, recipe.calibration_samples, draw)
    arrays = context.score_store(repr(key), compute)
    return {name: torch.tensor(array, device=device) for name, array in arrays.items()}
