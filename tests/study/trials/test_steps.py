"""One trial, from recipe to row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from pruning.weights import masks
from study import trial
from study.baseline.network import Baseline
from study.config import Recipe
from study.config.columns import COLUMNS
from study.training import device_data, evaluation
from study.trials import finetuning, scan, steps
from study.trials.context import TrialContext
from study.trials.steps import run_trial
from tests.conftest import TINY

CPU = torch.device("cpu")
TIMES = {"train_seconds", "wall_seconds"}


@pytest.fixture
def shared(shared_in_both: Any) -> Any:
    return shared_in_both


@pytest.fixture
def run(device: torch.device) -> Any:
    """Runs a recipe as a trial on the device."""

    def on_device(shared: Any, seed: Any = 0, **recipe: Any) -> Any:
        complete = {"sparsity": 0.8, "finetune_epochs": 2, "calibration_samples": 64} | recipe
        return run_trial(Recipe(**complete), seed, shared, device)

    return on_device


def agrees(accuracy: Any, device: torch.device) -> Any:
    """An accuracy measured on the CPU: on another device, rounding may turn an image or two."""
    return accuracy if device.type == "cpu" else pytest.approx(accuracy, abs=0.01)


def test_a_row_tells_recipe_result_and_cost(shared: Any, run: Any) -> None:
    row, history, (state, *_), *_ = run(shared)
    assert row["state"] == "complete"
    assert set(row) <= set(COLUMNS)
    weights = sum(a.size for n, a in state.items() if n.endswith("weight") and a.ndim > 1)
    left = sum(np.count_nonzero(a) for n, a in state.items() if n.endswith("weight") and a.ndim > 1)
    assert row["sparsity"] == pytest.approx(1 - left / weights)
    assert left == weights - round(0.8 * weights)
    assert row["nonzero_params"] == row["params"] - (weights - left)
    assert row["compression_ratio"] == pytest.approx(row["params"] / row["nonzero_params"])
    assert row["accuracy_drop"] == pytest.approx(row["baseline_accuracy"] - row["accuracy"])
    assert [h["epoch"] for h in history] == [1, 2]
    assert history[-1]["accuracy"] == row["accuracy"]
    json.dumps([row, history])


@pytest.mark.parametrize(
    ("recipe", "sparsities"),
    [
        ({"schedule": "one_shot"}, [0.8, 0.8, 0.8, 0.8]),
        ({"schedule": "iterative", "steps": 4}, [0.2, 0.4, 0.6, 0.8]),
        ({"schedule": "iterative", "steps": 2, "epochs_per_step": 2}, [0.4, 0.4, 0.8, 0.8]),
        ({"schedule": "gradual", "steps": 4}, [0.8 * (1 - (1 - p) ** 3) for p in (0.25, 0.5, 0.75, 1)]),
        ({"schedule": "iterative", "steps": 4, "initial_sparsity": 0.2}, [0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_every_schedule_has_the_same_budget_evenly_spread(shared: Any, run: Any, recipe: Any, sparsities: Any) -> None:
    row, history, *_ = run(shared, finetune_epochs=4, **recipe)
    assert [h["sparsity"] for h in history] == pytest.approx(sparsities, abs=1e-4)
    assert [h["progress"] for h in history] == [0.25, 0.5, 0.75, 1.0]
    assert row["finetune_epochs"] == 4


def test_the_same_seed_gives_the_same_row_and_network(shared: Any, run: Any) -> None:
    one, same, another = (run(shared, seed, criterion="random") for seed in (1, 1, 2))
    first, second, other, a, b = one.row, same.row, another.row, one.network.state, same.network.state
    assert {k: v for k, v in first.items() if k not in TIMES} == {k: v for k, v in second.items() if k not in TIMES}
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert first["accuracy"] != other["accuracy"] or first["test_accuracy"] != other["test_accuracy"]


def test_a_seed_prunes_at_random_alike_on_every_device(shared: Any, run: Any) -> None:
    recipe = {"criterion": "random", "finetune_epochs": 0}
    expected = run_trial(Recipe(sparsity=0.8, calibration_samples=64, **recipe), 3, shared, CPU).network.state
    found = run(shared, 3, **recipe).network.state
    for name in (name for name, array in found.items() if name.endswith("weight") and array.ndim > 1):
        assert np.array_equal(found[name], expected[name])


def test_fine_tuning_takes_the_same_part_of_the_training_images_whatever_the_seed(
    shared: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, calibrated = [], []
    batches, recalibrate = device_data.endless_batches, evaluation.recalibrate

    def endless(images: Any, rows: Any, *more: Any) -> Any:
        taken.append(rows.cpu().numpy())
        return batches(images, rows, *more)

    def recalibrated(model: Any, images: Any, rows: Any, *more: Any) -> None:
        calibrated.append(rows.cpu().numpy())
        recalibrate(model, images, rows, *more)

    monkeypatch.setattr(finetuning, "endless_batches", endless)
    monkeypatch.setattr(evaluation, "recalibrate", recalibrated)
    rows = [run(shared, seed, finetune_samples=samples).row for seed, samples in ((1, 50), (2, 50), (1, None))]
    assert [row["finetune_samples"] for row in rows] == [50, 50, None]
    one, same, every = taken
    assert np.array_equal(one, same)
    assert np.array_equal(every, shared.data.train)
    assert len(np.unique(one)) == 50
    assert set(one) <= set(every)
    counts = np.bincount(shared.data.labels[one]) / 50
    assert counts == pytest.approx(np.bincount(shared.data.labels[every]) / len(every), abs=1 / 50)
    assert np.array_equal(calibrated[0], calibrated[2])
    assert not set(calibrated[0]) <= set(one)


def test_more_images_for_fine_tuning_than_there_are_fail_the_trial(shared: Any, run: Any) -> None:
    row, *_ = run(shared, finetune_samples=401)
    assert (row["state"], "401" in row["error"]) == ("failed", True)


def test_the_baseline_is_left_alone(shared: Any, run: Any) -> None:
    before = {name: array.copy() for name, array in shared.baseline.state.items()}
    run(shared)
    assert all(np.array_equal(before[name], array) for name, array in shared.baseline.state.items())


def test_sparsity_zero_without_fine_tuning_is_the_baseline(shared: Any, run: Any, device: torch.device) -> None:
    row, history, *_ = run(shared, sparsity=0.0, finetune_epochs=0, recalibrate=False)
    assert history == []
    assert row["accuracy"] == agrees(row["baseline_accuracy"], device)
    assert row["test_accuracy"] == agrees(row["baseline_test_accuracy"], device)
    assert row["compression_ratio"] == 1


def test_protected_layers_stay_whole_and_still_count(shared: Any, run: Any) -> None:
    row, _, (state, *_), *_ = run(shared, protect=("conv1", "fc"), sparsity=0.9)
    assert np.count_nonzero(state["conv1.weight"]) == state["conv1.weight"].size
    assert row["sparsity"] == pytest.approx(0.9, abs=1e-4)


class Fussy(nn.Module):
    """A user's model that raises."""

    def forward(self, inputs: Any) -> None:
        raise RuntimeError("no batches of mine")


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (
            {"protect": ("layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer3.0.conv2"), "sparsity": 0.95},
            "protected",
        ),
        ({"criterion": "tests.study.trials.test_steps:nan_scores"}, "NaN"),
        ({"criterion": "tests.nowhere:f"}, "cannot be imported"),
        ({"calibration_samples": 10**6}, "calibration_samples"),
        ({"finetune_lr": 1e30}, "diverged"),
    ],
)
def test_a_recipes_own_failure_is_a_row_with_its_reason(shared: Any, run: Any, recipe: Any, reason: Any) -> None:
    row, _, network, *_ = run(shared, **recipe)
    assert row["state"] == "failed"
    assert reason in row["error"]
    assert network is None
    json.dumps(row)


def nan_scores(model: Any, batches: Any, generator: Any) -> Any:
    return {name: torch.full_like(w, float("nan")) for name, w in masks.prunable(model).items()}


def test_a_users_model_that_raises_is_a_failed_row(shared: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Baseline, "network", lambda self, device: Fussy())
    row, *_ = run(TrialContext(shared.baseline, shared.data, shared.section))
    assert row["state"] == "failed"


def test_a_cut_network_trained_anew_has_its_shape_and_the_baselines_budget(shared: Any, device: torch.device) -> None:
    recipe = Recipe(sparsity=0.5, granularity="channel", finetune_epochs=0, calibration_samples=64)
    row, _, network, *_ = run_trial(recipe, 0, shared, device)
    story = steps.trial_epochs(recipe, 1, shared, device, from_scratch=network.plan)
    epochs = []
    try:
        while True:
            epochs.append(next(story))
    except StopIteration as end:
        anew = end.value
    assert anew.row["state"] == "complete", anew.row["error"]
    assert len(epochs) == shared.section.epochs == len(anew.history)
    for column in ("sparsity", "params", "macs", "channel_sparsity", "compression_ratio"):
        assert anew.row[column] == row[column]
    shapes = {name: array.shape for name, array in network.state.items()}
    assert {name: array.shape for name, array in anew.network.state.items()} == shapes
    assert anew.history[-1]["train_loss"] < anew.history[0]["train_loss"]
    assert not np.allclose(anew.network.state["conv1.weight"], network.state["conv1.weight"])


def test_blocks_hold_through_fine_tuning_and_the_row_says_what_they_make(shared: Any, run: Any) -> None:
    row, history, (state, plan, *_), *_ = run(shared, sparsity=0.5, granularity="2:4", finetune_lr=0.05)
    assert (row["state"], row["error"], plan) == ("complete", None, None)
    assert (row["requested_sparsity"], row["scope"], row["steps"]) == (0.5, "layer", 1)
    weights = {name: array for name, array in state.items() if name.endswith("weight") and array.ndim > 1}
    dense = weights.pop("conv1.weight")
    assert np.count_nonzero(dense) == dense.size  # of one colour
    for array in weights.values():
        assert (np.count_nonzero(np.moveaxis(array, 1, -1).reshape(-1, 4), axis=1) == 2).all()
    cut = sum(array.size for array in weights.values()) / 2
    assert row["sparsity"] == pytest.approx(cut / (2 * cut + dense.size))
    assert [line["sparsity"] for line in history] == [row["sparsity"]] * 2


def test_a_hybrid_is_smaller_exact_at_every_cut_and_saved_whole(
    shared: Any, run: Any, device: torch.device, tmp_path: Path
) -> None:
    recipe = {"granularity": "hybrid", "schedule": "iterative", "steps": 4, "finetune_epochs": 4, "channel_share": 0.6}
    row, history, (state, plan, *_), *_ = run(shared, sparsity=0.8, **recipe)
    assert (row["state"], row["error"], row["channel_share"]) == ("complete", None, 0.6)
    weights = sum(a.size for n, a in shared.baseline.state.items() if n.endswith("weight") and a.ndim > 1)
    exact = [round(target * weights) / weights for target in (0.2, 0.4, 0.6, 0.8)]
    assert [line["sparsity"] for line in history] == pytest.approx(exact, abs=1e-12)
    held = sum(a.size for n, a in state.items() if n.endswith("weight") and a.ndim > 1)
    assert 1 - held / weights == pytest.approx(0.48, abs=0.0062)  # half the largest unit
    assert row["channel_sparsity"] > 0.1
    models.save(tmp_path, {n: torch.from_numpy(a) for n, a in state.items()}, shared.baseline.card, plan)
    loaded, _ = models.load(tmp_path)
    assert masks.sparsity(loaded, weights) == row["sparsity"]
    images = device_data.on_device(shared.data, CPU)
    accuracy = evaluation.evaluate(loaded, images, device_data.rows_of(shared.data.test, CPU))
    assert row["test_accuracy"] == agrees(accuracy, device)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_teacher_changes_the_fine_tuning_and_nothing_else(shared: Any, run: Any, granularity: Any) -> None:
    recipe = {"granularity": granularity, "sparsity": 0.6, "schedule": "iterative", "steps": 2}
    alone, taught, again = (run(shared, **recipe, distil=share) for share in (0.0, 0.7, 0.7))
    assert (taught.row["state"], taught.row["distil"], taught.row["temperature"]) == ("complete", 0.7, 4.0)
    assert taught.row["sparsity"] == alone.row["sparsity"]
    assert [line["train_loss"] for line in taught.history] != [line["train_loss"] for line in alone.history]
    assert all(np.array_equal(a, again.network.state[name]) for name, a in taught.network.state.items())


def test_without_its_share_a_temperature_says_nothing(shared: Any, run: Any) -> None:
    plain, warm = run(shared), run(shared, temperature=9.0)
    assert warm.row["temperature"] == 4.0
    assert all(np.array_equal(a, warm.network.state[name]) for name, a in plain.network.state.items())


def test_random_is_clearly_worse_than_magnitude(shared: Any, run: Any) -> None:
    """Without fine-tuning, which would blur what the criteria are worth."""
    accuracies = {
        criterion: run(shared, criterion=criterion, sparsity=0.6, finetune_epochs=0)[0]["accuracy"]
        for criterion in ("magnitude_l1", "random")
    }
    assert accuracies["magnitude_l1"] > accuracies["random"] + 0.2


def test_the_command_prints_the_row_last(capsys: pytest.CaptureFixture[str]) -> None:
    code = trial.main(
        ["--space", "quickstart", "--seed", "3", "--set", "baseline.epochs=3", "--set", "baseline.train_samples=400",
         "--set", "space.sparsity=0.5", "--set", "space.calibration_samples=64"]
    )  # fmt: skip
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    assert row["requested_sparsity"] == 0.5


@pytest.mark.parametrize(
    ("settings", "sparsity"),
    [(["granularity=2:4"], 0.4991), (["granularity=hybrid", "sparsity=0.7", "schedule=gradual"], 0.7)],
)
def test_the_command_takes_every_granularity(capsys: pytest.CaptureFixture[str], settings: Any, sparsity: Any) -> None:
    settings = [*TINY, "space.criterion=magnitude_l1", *(f"space.{setting}" for setting in settings)]
    assert trial.main(["--space", "quickstart", *(part for s in settings for part in ("--set", s))]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["sparsity"] == pytest.approx(sparsity, abs=1e-4)
    assert f"granularity={row['granularity']}" == settings[len(TINY) + 1].removeprefix("space.")


def test_the_command_refuses_a_pattern_that_no_layer_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.main(["--space", "quickstart", "--set", "space.granularity=2:5"]) == 2
    assert "space.granularity 2:5: no layer that may be cut has a multiple of 5 inputs" in capsys.readouterr().err


def test_the_command_scans_for_the_scope_that_asks_for_it_and_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"scope": "sensitivity", "granularity": "channel", "sparsity": 0.4, "criterion": "magnitude_l1"}
    settings = [*TINY, "baseline.model=tests.networks:tiny", *(f"space.{key}={value}" for key, value in recipe.items())]
    rows, scanned = [], []

    def counted(*a: Any, **k: Any) -> Any:
        scanned.append(a[0].part)
        return run_trial(*a, **k)

    monkeypatch.setattr(trial, "run_trial", counted)
    monkeypatch.setattr(scan, "RATIOS", [0.2, 0.4, 0.6])
    for _ in range(2):
        assert trial.main(["--space", "quickstart", *(part for s in settings for part in ("--set", s))]) == 0
        rows.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    groups = {part for part in scanned if part}
    assert len([part for part in scanned if part]) == 3 * len(groups)
    assert scanned.count(None) == 2  # the recipe itself, twice
    assert rows[0]["sparsity"] == pytest.approx(0.4, abs=0.1)
    assert {k: v for k, v in rows[0].items() if k not in TIMES} == {k: v for k, v in rows[1].items() if k not in TIMES}


def test_the_command_refuses_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.main(["--space", "nowhere"]) == 2
    assert "nowhere: no such study file" in capsys.readouterr().err


def test_the_history_has_the_macs_after_every_cut_and_latencies_where_trials_are_alone(shared: Any, run: Any) -> None:
    dense, recipe = shared.baseline.card["macs"], {"granularity": "channel", "schedule": "iterative", "steps": 2}
    row, history, *_ = run(shared._replace(timed=True), sparsity=0.5, finetune_epochs=4, **recipe)
    assert dense > history[0]["macs"] == history[1]["macs"] > history[2]["macs"] == history[3]["macs"] == row["macs"]
    assert [line["latency_ms"] is None for line in history] == [False, True, False, True]
    plain = run(shared).history
    assert {line["macs"] for line in plain} == {dense}  # zeros do not save any
    assert [line["latency_ms"] for line in plain] == [None, None]


def test_a_timed_trial_measures_its_network_beside_the_dense_one(shared: Any, run: Any) -> None:
    row = run(shared._replace(timed=True), finetune_epochs=0).row
    assert row["speedup"] == pytest.approx(row["baseline_latency_ms"] / row["latency_ms"])
    assert "latency_ms" not in run(shared, finetune_epochs=0).row
