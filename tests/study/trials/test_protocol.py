"""What makes a study worth believing: the images that train, select and test; the optimiser's rates; the seeds."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import models
from pruning.pipeline import prune_to, score
from study.config import Recipe
from study.config.recipe import EARLIER_DEFAULTS
from study.training import evaluation, loop, optimisers
from study.trials import steps
from study.trials.context import RUNS
from study.trials.steps import run_trial

CPU = torch.device("cpu")


def run(context: Any, seed: int = 0, **recipe: Any) -> Any:
    complete = {"sparsity": 0.5, "finetune_epochs": 1, "calibration_samples": 64} | recipe
    outcome = run_trial(Recipe(**complete), seed, context, CPU)
    assert outcome.row["state"] == "complete", outcome.traceback
    return outcome


def relabelled(context: Any, part: str) -> Any:
    """The context with every label of one split moved on by one class: what is learnt elsewhere is wrong there."""
    labels = context.data.labels.copy()
    labels[getattr(context.data, part)] = (labels[getattr(context.data, part)] + 1) % 10
    return context._replace(data=replace(context.data, labels=labels))


def measured(context: Any, state: Any, part: str) -> float:
    """Accuracy of saved weights on the images of a split, by plain torch."""
    data, card = context.data, context.baseline.card
    model = models.build(card["model"], 10, data.in_shape).eval()
    model.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    rows = getattr(data, part)
    pixels = torch.tensor(np.asarray(data.images[rows]), dtype=torch.float32) / 255
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    inputs = ((pixels - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return float((model(inputs).argmax(1) == torch.tensor(data.labels[rows])).double().mean())


def test_accuracy_is_that_of_the_saved_weights_on_the_validation_images(shared: Any) -> None:
    outcome = run(relabelled(shared, "test"), sparsity=0.3)
    state, row = outcome.network.state, outcome.row
    assert row["accuracy"] == pytest.approx(measured(shared, state, "validation"))
    assert row["accuracy"] == outcome.history[-1]["accuracy"]
    assert row["test_accuracy"] == pytest.approx(1 - measured(shared, state, "test"), abs=0.2)
    assert row["test_accuracy"] < 0.2 < 0.8 < row["accuracy"]
    assert len(outcome.correct) == len(shared.data.test)
    assert row["test_accuracy"] == pytest.approx(outcome.correct.mean())


def test_nothing_is_learnt_from_validation_images(shared: Any) -> None:
    row = run(relabelled(shared, "validation"), sparsity=0.3, finetune_epochs=6, finetune_lr=0.05).row
    assert row["accuracy"] < 0.2
    assert row["test_accuracy"] > 0.8


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the optimisers of a trial saw: (number of the optimiser, its settings, momenta before the step), by step."""
    steps: list[Any] = []
    made: list[Any] = []
    build = optimisers.OPTIMIZERS["sgd"]

    def sgd(*arguments: Any) -> Any:
        optimizer = build(*arguments)
        number = len(made)
        made.append(optimizer)
        step = optimizer.step

        def recorded(*more: Any) -> Any:
            (group,) = optimizer.param_groups
            buffers = [optimizer.state[p].get("momentum_buffer") for p in group["params"]]
            steps.append((number, {k: v for k, v in group.items() if k != "params"}, [
                None if b is None else b.detach().clone() for b in buffers
            ]))  # fmt: skip
            return step(*more)

        optimizer.step = recorded  # type: ignore[assignment, method-assign]
        return optimizer

    monkeypatch.setitem(optimisers.OPTIMIZERS, "sgd", sgd)
    return steps


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", lambda i, n: 1.0),
        ("cosine", lambda i, n: 0.5 * (1 + np.cos(np.pi * i / n))),
        ("cosine_restarts", lambda i, n: 0.5 * (1 + np.cos(np.pi * (i % (n // 2)) / (n // 2)))),
    ],
)
def test_the_optimiser_saw_the_recipes_rates_decay_and_momentum(
    shared: Any, seen: Any, schedule: str, expected: Any
) -> None:
    recipe = {"schedule": "iterative", "steps": 2, "finetune_epochs": 2, "finetune_lr": 0.02, "weight_decay": 0.003}
    run(shared, lr_schedule=schedule, **recipe)
    per_epoch = len(shared.data.train) // shared.section.batch_size
    assert len(seen) == 2 * per_epoch
    rates = [settings["lr"] for _, settings, _ in seen]
    assert rates == pytest.approx([0.02 * expected(i, len(seen)) for i in range(len(seen))])
    for _, settings, _ in seen:
        assert (settings["weight_decay"], settings["momentum"], settings["nesterov"]) == (0.003, 0.9, True)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_momentum_outlives_a_cut(shared: Any, seen: Any, granularity: str) -> None:
    run(shared, granularity=granularity, schedule="iterative", steps=2, finetune_epochs=2)
    numbers = [number for number, _, _ in seen]
    cut = len(seen) // 2
    assert all(buffer is None for buffer in seen[0][2])
    assert all(buffer is not None for step in seen[1:] for buffer in step[2])
    if granularity == "channel":
        assert numbers[cut] == numbers[cut - 1] + 1  # an optimiser of the smaller network
    # What is carried is 0.9 * the buffer before the last step + its gradient: for a batch norm's shift some of those.
    small, large = (next(b for b in seen[at][2] if b.ndim == 1) for at in (cut, cut - 1))
    assert small.abs().sum() > 0
    assert len(small) <= len(large)


def test_a_default_of_old_folders_is_another_than_todays() -> None:
    recipe = Recipe(sparsity=0.5)
    assert all(getattr(recipe, key) != value for key, value in EARLIER_DEFAULTS.items())


def kept(context: Any, seed: int, **recipe: Any) -> Any:
    state = run(context, seed, finetune_epochs=0, sparsity=0.8, **recipe).network.state
    return {name: array != 0 for name, array in state.items() if array.ndim > 1}


def equal(one: Any, other: Any) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_every_run_has_its_own_draw_and_run_k_of_all_recipes_the_same(shared: Any) -> None:
    masks = [kept(shared, seed, criterion="taylor") for seed in (11, 12, 13, 14)]
    assert not any(equal(one, other) for i, one in enumerate(masks) for other in masks[:i])
    assert equal(masks[0], kept(shared, 11 + 5 * RUNS, criterion="taylor"))


def test_scores_are_shared_by_runs_of_one_number(shared: Any) -> None:
    asked: dict[str, Any] = {}
    computed = []

    def store(key: str, compute: Any) -> Any:
        if key not in asked:
            computed.append(key)
            asked[key] = compute()
        return asked[key]

    context = shared._replace(score_store=store)
    for seed, sparsity in ((0, 0.5), (3 * RUNS, 0.8), (1, 0.5), (RUNS + 1, 0.8)):
        run(context, seed, criterion="taylor", sparsity=sparsity, finetune_epochs=0)
    assert len(computed) == 2


def test_random_pruning_follows_the_trials_seed(shared: Any) -> None:
    one, same, other = (kept(shared, seed, criterion="random") for seed in (1, 1, 1 + RUNS))
    assert equal(one, same)
    assert not equal(one, other)


def test_batches_follow_the_trials_seed(shared: Any) -> None:
    same = {"recalibrate": False, "reconstruct": "none"}  # nothing but the batches has draws
    states = [run(shared, seed, **same).network.state["conv1.weight"] for seed in (1, 1, 2)]
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_later_cuts_score_the_network_as_it_is_then(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weight that stays has a smaller score than one that goes, by scores computed anew just before the cut."""
    cuts: list[Any] = []

    def spied(before: Any, sparsity: float, batches: Any, *rest: Any) -> Any:
        values = score(before, batches)
        after = prune_to(before, sparsity, batches, *rest)
        cuts.append((values, {name: mask.clone() for name, mask in after.masks.items()}))
        return after

    monkeypatch.setattr(steps, "prune_to", spied)
    recipe = {"schedule": "iterative", "steps": 2, "finetune_epochs": 2, "finetune_lr": 0.1, "sparsity": 0.8}
    run(shared, **recipe, criterion="saliency", reconstruct="none", scope="global")
    _, (values, masks) = cuts
    scores, kept = (torch.cat([each[name].flatten() for name in masks]) for each in (values, masks))
    assert scores[kept].min() >= scores[~kept].max() - 1e-6 * scores.max()


def test_the_teacher_is_the_dense_network_and_stays_it(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teachers: list[Any] = []
    train = loop.train

    def spied(*arguments: Any, distillation: Any, **more: Any) -> float:
        teachers.append(distillation.teacher)
        return train(*arguments, distillation=distillation, **more)

    monkeypatch.setattr(loop, "train", spied)
    run(shared, distil=0.5, finetune_epochs=2)
    assert not any(module.training for module in teachers[-1].modules())
    for name, tensor in teachers[-1].state_dict().items():
        assert np.array_equal(tensor.numpy(), shared.baseline.state[name])


def test_batch_norm_is_recalibrated_on_augmented_images_of_the_trial(
    shared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    recalibrate = evaluation.recalibrate

    def recalibrated(model: Any, images: Any, rows: Any, generator: Any = None, *more: Any) -> None:
        drawn.append((sorted(rows.tolist()), generator.initial_seed()))
        recalibrate(model, images, rows, generator, *more)

    monkeypatch.setattr(evaluation, "recalibrate", recalibrated)
    for seed in (5, 6):
        run(shared, seed, schedule="iterative", steps=3, finetune_epochs=3)
    assert [seed for _, seed in drawn] == [5, 5, 5, 6, 6, 6]
    rows = [rows for rows, _ in drawn]
    assert all(set(part) <= set(shared.data.train) for part in rows)
    assert rows[0] == rows[1] == rows[2]
    assert rows[0] != rows[3]
    assert all(one == other for (one, _), (other, _) in pairwise(drawn[:3]))
