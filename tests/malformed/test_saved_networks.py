"""Saved networks with anything in their files, under hashes that are right: read as they are, or refused."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models
from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.surgery import apply_plan
from pruning.measure.latency import measure_latency
from study import evaluate, export
from study.config import read_study
from study.config.columns import COLUMNS, HISTORY
from study.results.files import write_rows, write_study
from tests.malformed import mutations
from tests.malformed.rule import end_of
from tests.malformed.test_checkpoints import REFUSED, changed, saved

CARD = {
    "model": "resnet8",
    "num_classes": 10,
    "in_shape": [1, 8, 8],
    "class_names": [str(name) for name in range(10)],
    "mean": [0.3],
    "std": [0.4],
    "dataset": "digits",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cut network."""
    folder = tmp_path_factory.mktemp("original")
    model = models.build("resnet8", 10, (1, 8, 8))
    graph = dependency_graph(model, torch.zeros(1, 1, 8, 8))
    plan = plan_without(graph, np.arange(graph.size) % 2 == 0)
    models.save(folder, apply_plan(model, plan), CARD, plan)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it. Timing a network takes a second, and says nothing here."""
    measured = measure_latency({"network": nn.Identity()}, torch.zeros(1), seconds=0.01, least=2)
    monkeypatch.setattr(evaluate, "measure_latency", lambda *_: measured)
    return Path(shutil.copytree(original, tmp_path / "net"))


def put(folder: Path, name: str, content: bytes) -> None:
    """Write a file of the network; the card vouches for it."""
    (folder / name).write_bytes(content)
    if name == "card.json":
        return
    card = json.loads((folder / "card.json").read_bytes())
    card["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


def refusal(folder: Path) -> str:
    """What `evaluate` says of the network."""
    ending = end_of(evaluate.main, [str(folder)], folder)
    assert (ending.code, ending.broken) == (2, None), ending
    return ending.err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": 3}, "model should be a name, but is 3"),
        ({"model": "resnet9"}, "its network cannot be built: model 'resnet9' is unknown"),
        ({"num_classes": 10**12}, "do not fit in_shape [1, 8, 8] and num_classes 1000000000000"),
        ({"num_classes": 0, "class_names": []}, "at least one class"),
        ({"num_classes": True}, "num_classes should be a whole number, but is True"),
        ({"in_shape": [10**9, 8, 8], "mean": []}, "in_shape should be [channels, height, width], each 1 to 1024"),
        ({"in_shape": [1, 10**30, 8]}, "in_shape should be"),
        ({"in_shape": [1.0, 8, 8]}, "in_shape should be"),
        ({"class_names": list(range(10))}, "class_names should be a list of names, but is [0, 1, 2"),
        ({"class_names": [[]] * 10}, "class_names should be a list of names"),
        ({"mean": ["0.3"]}, "mean should be a list of numbers, each -1e6 to 1e6, but is ['0.3']"),
        ({"mean": [float("nan")]}, "mean should be"),
        ({"mean": [10**400]}, "mean should be"),
        ({"std": [0]}, "std should be a list of numbers, each 1e-9 to 1e6, but is [0]"),
        ({"sha256": {}}, "sha256 should be the hashes of weights.pt and"),
        ({"sha256": {"weights.pt": 3}}, "plan.json: is not part of"),
        ({"sha256": {"weights.pt": "", "../../x": ""}}, "sha256 should be the hashes of weights.pt and"),
        ({"dataset": ["digits"]}, "its card names no data set"),
        ({"dataset": "mnist"}, "dataset 'mnist' is unknown"),
    ],
)
def test_a_card_with_wrong_values_is_refused_by_key(folder: Path, change: dict[str, Any], reason: str) -> None:
    card = json.loads((folder / "card.json").read_bytes())
    (folder / "card.json").write_text(json.dumps({**card, **change}))
    assert reason in refusal(folder)


@pytest.mark.parametrize("name", ["card.json", "plan.json"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "is not valid JSON"),
        (b"[" * 900 + b"]" * 900, "holds a list, not the card|not a plan"),
        (b'{"layers": ' + b"9" * 5000 + b"}", "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"null", "holds a NoneType, not the card|not a plan"),
    ],
)
def test_json_of_any_shape_is_refused(folder: Path, name: str, content: bytes, reason: str) -> None:
    put(folder, name, content)
    said = refusal(folder)
    assert f"{folder / name}: " in said
    assert any(part in said for part in reason.split("|"))


def conv(plan: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = plan["layers"]["layer1.0.conv1"]
    return layer


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plan: conv(plan)["out"].update(removed=[0, 99]), "'layer1.0.conv1': each of out and in is"),
        (lambda plan: conv(plan)["out"].update(removed=[-1]), "each of out and in is"),
        (lambda plan: conv(plan)["out"].update(removed=[3, 3]), "each of out and in is"),
        (lambda plan: conv(plan)["out"].update(removed=[10**30]), "each of out and in is"),
        (lambda plan: conv(plan)["out"].update(removed=[1.0]), "each of out and in is"),
        (lambda plan: conv(plan)["out"].update(removed=[True]), "each of out and in is"),
        (lambda plan: conv(plan)["out"].update(of=10**12, removed=[]), "the plan is for another network"),
        (lambda plan: conv(plan)["out"].update(removed=[0]), "weights.pt: holds no weights for the network"),
        (lambda plan: conv(plan).update(groups=[[]]), "groups only whole ones"),
        (lambda plan: conv(plan).update(norm_groups=10**12, out={"of": 10**12, "removed": []}), "another network"),
        (lambda plan: conv(plan).update(transposed="yes"), "transposed is true or false"),
        (
            lambda plan: conv(plan).update(more={}),
            "its keys are groups, heads, in, norm_groups, out, pad, pad_axis, transposed",
        ),
        (lambda plan: conv(plan).pop("in"), "the plan is for another network"),
        (lambda plan: plan["layers"].pop("fc"), "the plan is for another network"),
        (lambda plan: plan.update(version=2), "not a plan of version 1"),
    ],
)
def test_a_plan_that_is_not_the_networks_is_refused(folder: Path, change: Callable[[Any], object], reason: str) -> None:
    plan = json.loads((folder / "plan.json").read_bytes())
    change(plan)
    put(folder, "plan.json", json.dumps(plan).encode())
    assert reason in refusal(folder)


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind != "another shape"])
def test_weights_that_are_no_checkpoint_are_no_saved_network(folder: Path, kind: str) -> None:
    make, reason = REFUSED[kind]
    put(folder, "weights.pt", saved(make()))
    said = refusal(folder)
    assert f"{folder / 'weights.pt'}: holds no weights for the network of card.json: " in said
    if not reason.startswith("'"):  # of the cut network other tensors are the first to be wrong
        assert reason in said
    assert not Path("run_by_a_pickle").exists()


@pytest.mark.parametrize("name", ["card.json", "plan.json", "weights.pt"])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name}: is a named pipe, not a file" in refusal(folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{folder / name}: is a folder, not a file" in refusal(folder)


def test_a_networks_folder_may_have_any_name(folder: Path) -> None:
    moved = Path(shutil.move(folder, f"{folder.parent}/[bold]\udcff"))
    ending = end_of(evaluate.main, [str(moved)], moved)
    assert (ending.code, ending.broken) == (0, None), ending
    assert "[bold]\\udcff" in ending.out


@pytest.mark.parametrize(("seed", "cases"), [(0, 30), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_any_saved_network_is_right_or_refused(folder: Path, seed: int, cases: int) -> None:
    draw = random.Random(seed)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    card, plan = json.loads(whole["card.json"]), json.loads(whole["plan.json"])
    state = torch.load(folder / "weights.pt", weights_only=True)
    for case in range(cases):
        for name, content in whole.items():
            (folder / name).write_bytes(content)
        name = draw.choice(list(whole))
        how = mutations.changed_bytes if name == "weights.pt" or draw.random() < 0.5 else mutations.changed_lines
        content = how(whole[name], draw)
        if draw.random() < 0.6:
            trees = {"card.json": card, "plan.json": plan}
            changes = draw.choice((1, 1, 3))
            content = (
                json.dumps(mutations.changed_tree(copy.deepcopy(trees[name]), draw, changes)).encode()
                if name in trees
                else saved(changed(state, draw))
            )
        put(folder, name, content)
        ending = end_of(evaluate.main, [str(folder)], folder)
        assert not ending.broken, f"case {case}, {name}: {ending.broken}\n{content[:2000]!r}"
        if ending.code == 0:
            model, _ = models.load(folder)
            assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
                key: tensor.shape for key, tensor in state.items()
            }, f"case {case}"
            assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), f"case {case}"


@pytest.fixture
def results(folder: Path, tmp_path: Path) -> Path:
    """A results folder with the network as trial 0000."""
    row = {"trial_id": "0000", "kind": "search", "state": "complete", "schedule": "one_shot", "accuracy": 0.5}
    write_rows(tmp_path / "trials.csv", COLUMNS, [{**row, "sparsity": 0.5, "test_accuracy": 0.5, "accuracy_drop": 0}])
    write_rows(tmp_path / "history.csv", HISTORY, [])
    file = read_study("quickstart", ["baseline.model=resnet8"])
    write_study(tmp_path, file.resolved(), {"schema_version": 1, "data_dir": None})
    (tmp_path / "models").mkdir()
    folder.rename(tmp_path / "models" / "0000")
    return tmp_path


@pytest.mark.parametrize("place", ["models/0000", "baseline"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: put(folder, "card.json", b"3"), "card.json: holds a int"),
        (lambda folder: put(folder, "weights.pt", saved([])), "weights.pt: holds no weights"),
        (lambda folder: put(folder, "plan.json", b"{}"), "plan.json: not a plan"),
        (lambda folder: (folder / "weights.pt").write_bytes(b""), "weights.pt: sha256 of its 0 bytes"),
    ],
)
def test_an_export_refuses_what_evaluate_refuses(results: Path, place: str, spoil: Any, reason: str) -> None:
    if place == "baseline":
        shutil.copytree(results / "models" / "0000", results / place)
    spoil(results / place)
    arguments = [str(results), "--trial", "0000", "--format", "exported_program"]
    ending = end_of(export.main, arguments, results)
    assert (ending.code, ending.broken) == (2, None), ending
    assert f"{results / place}" in ending.err
    assert reason in ending.err
