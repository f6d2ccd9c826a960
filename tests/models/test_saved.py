"""Networks on disk: what is saved comes back, and what was damaged is named."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from models import build, load, save
from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.surgery import apply_plan

CARD = {
    "model": "resnet8",
    "num_classes": 3,
    "in_shape": (1, 8, 8),
    "class_names": ["a", "b", "c"],
    "mean": [0.3],
    "std": [0.4],
}


def trained(seed: int = 0) -> nn.Module:
    """A network whose every tensor, batch-norm statistics included, differs from a new one's."""
    torch.manual_seed(seed)
    model = build("resnet8", 3, (1, 8, 8)).train()
    model(torch.randn(16, 1, 8, 8))
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "net", trained(), CARD)
    return tmp_path / "net"


def test_what_is_saved_comes_back_in_eval_mode(tmp_path: Path) -> None:
    model = trained().to(memory_format=torch.channels_last)
    save(tmp_path / "deep" / "net", model, {**CARD, "accuracy": 0.5, "history": [{"epoch": 1}]})
    loaded, card = load(tmp_path / "deep" / "net")
    assert same(model, loaded)
    assert not any(m.training for m in loaded.modules())
    assert model.training
    assert (card["in_shape"], card["accuracy"], card["history"]) == ([1, 8, 8], 0.5, [{"epoch": 1}])
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model.eval()(images))


def test_a_state_dict_is_saved_as_its_network_is(tmp_path: Path, folder: Any) -> None:
    save(tmp_path / "state", trained().state_dict(), CARD)
    assert same(load(tmp_path / "state")[0], load(folder)[0])


def test_arrays_in_a_card_become_lists(tmp_path: Path) -> None:
    save(tmp_path, trained(), {**CARD, "mean": np.array([0.25], np.float32), "std": torch.tensor([0.5])})
    card = json.loads((tmp_path / "card.json").read_text())
    assert (card["mean"], card["std"]) == ([0.25], [0.5])


def test_weights_are_a_plain_contiguous_state_dict_and_the_card_knows_their_hash(folder: Any) -> None:
    content = (folder / "weights.pt").read_bytes()
    assert json.loads((folder / "card.json").read_text())["sha256"] == {
        "weights.pt": hashlib.sha256(content).hexdigest()
    }
    state = torch.load(folder / "weights.pt", weights_only=True)
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in state.values())
    assert sorted(os.listdir(folder)) == ["card.json", "weights.pt"]


def test_a_view_takes_only_its_own_elements_to_disk(tmp_path: Path) -> None:
    huge = torch.zeros(1_000_000)
    save(tmp_path, {"w": huge[:10]}, CARD)
    assert (tmp_path / "weights.pt").stat().st_size < 10_000


@pytest.mark.parametrize("name", ["weights.pt", "card.json"])
@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:200] + b"\x7f" + b[201:]])
def test_a_damaged_file_is_named(folder: Any, name: Any, damage: Any) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["weights.pt", "card.json"])
def test_a_missing_file_is_named(folder: Any, name: Any) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name}: cannot be read: No such file"):
        load(folder)


def test_weights_of_another_save_are_refused(tmp_path: Path, folder: Any) -> None:
    save(tmp_path / "other", trained(seed=1), CARD)
    os.replace(tmp_path / "other" / "weights.pt", folder / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt.*truncated or changed"):
        load(folder)


def put_weights(folder: Path, content: object) -> None:
    """Foreign weights under a card that vouches for them."""
    torch.save(content, folder / "weights.pt")
    card = json.loads((folder / "card.json").read_text())
    card["sha256"]["weights.pt"] = hashlib.sha256((folder / "weights.pt").read_bytes()).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run_by_a_pickle",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (nn.Linear(2, 2).state_dict(), "'conv1.weight' is only in the network"),
        ([1, 2], "list"),
        (Evil(), "mkdir"),
    ],
)
def test_foreign_weights_are_refused_and_never_run(
    folder: Any, monkeypatch: pytest.MonkeyPatch, content: Any, reason: Any
) -> None:
    monkeypatch.chdir(folder)
    put_weights(folder, content)
    with pytest.raises(ValueError, match=rf"(?s)weights\.pt: holds no weights.*{reason}"):
        load(folder)
    assert not (folder / "run_by_a_pickle").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": None}, "model should be a name"),
        ({"num_classes": "3"}, "num_classes should be a whole number"),
        ({"in_shape": [1, 8]}, "in_shape should be"),
        ({"in_shape": ["1", 8, 8]}, "in_shape should be"),
        ({"class_names": ["a", "b"]}, "class_names"),
        ({"mean": [0.1, 0.2]}, "mean"),
        ({"accuracy": float("nan")}, "JSON"),
        ({"accuracy": object()}, "JSON"),
    ],
)
def test_a_card_that_describes_no_network_is_not_saved(tmp_path: Path, change: Any, reason: Any) -> None:
    with pytest.raises(ValueError, match=rf"card\.json: .*{reason}"):
        save(tmp_path / "net", trained(), {**CARD, **change})
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("key", CARD)
def test_every_key_of_a_card_is_needed(tmp_path: Path, folder: Any, key: Any) -> None:
    with pytest.raises(ValueError, match=rf"card\.json: {key} should be .* but is missing"):
        save(tmp_path / "new", trained(), {k: v for k, v in CARD.items() if k != key})
    card = json.loads((folder / "card.json").read_text())
    del card[key]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=rf"card\.json: {key} should be"):
        load(folder)


@pytest.mark.parametrize("text", ["[]", "3", '{"model": "resnet8"}'])
def test_json_that_is_no_card_is_refused(folder: Any, text: Any) -> None:
    (folder / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json"):
        load(folder)


def test_a_save_that_is_cut_off_leaves_the_old_network_whole(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(folder)[0]

    def full(*_args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        save(folder, trained(seed=1), CARD)
    assert same(before, load(folder)[0])
    assert sorted(os.listdir(folder)) == ["card.json", "weights.pt"]


def cut() -> tuple[nn.Module, dict]:
    """A network without half of what can be cut, and the plan that says so."""
    model = trained()
    graph = dependency_graph(model, torch.zeros(1, 1, 8, 8))
    plan = plan_without(graph, np.arange(graph.size) % 2 == 0)
    return apply_plan(model, plan), plan


def test_a_plan_is_replayed_before_the_weights_are_filled_in(tmp_path: Path) -> None:
    model, plan = cut()
    save(tmp_path, model, CARD, plan)
    assert json.loads((tmp_path / "plan.json").read_text()) == plan
    loaded, _ = load(tmp_path)
    assert same(loaded, model)
    assert sum(p.numel() for p in loaded.parameters()) < 0.4 * sum(p.numel() for p in trained().parameters())
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))


def test_a_dense_network_saved_over_a_cut_one_leaves_no_plan(tmp_path: Path) -> None:
    model, plan = cut()
    save(tmp_path, model, CARD, plan)
    save(tmp_path, trained(), CARD)
    assert sorted(os.listdir(tmp_path)) == ["card.json", "weights.pt"]
    assert same(load(tmp_path)[0], trained())


@pytest.mark.parametrize(("plan", "reason"), [('{"version": 1}', "truncated or changed"), (None, "cannot be read")])
def test_a_changed_or_missing_plan_is_named(tmp_path: Path, plan: Any, reason: Any) -> None:
    model, own = cut()
    save(tmp_path, model, CARD, own)
    (tmp_path / "plan.json").unlink()
    if plan:
        (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(ValueError, match=rf"plan\.json: .*{reason}"):
        load(tmp_path)


def test_a_plan_of_another_network_is_named(tmp_path: Path) -> None:
    model, plan = cut()
    save(tmp_path, model, {**CARD, "model": "resnet20"}, plan)
    with pytest.raises(ValueError, match=r"plan\.json: "):
        load(tmp_path)


def test_a_plan_that_the_card_does_not_know_is_refused(folder: Any) -> None:
    (folder / "plan.json").write_text('{"width": 2}')
    with pytest.raises(ValueError, match=r"plan\.json: is not part"):
        load(folder)


OWN = """
import json, pathlib, torch, safetensors
import safetensors.torch as tensors
from safetensors.torch import load_file, load_model
from torch import load, nn

HERE = pathlib.Path(__file__).parent


def net(classes, shape):
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes))


def whole(classes, shape):
    model = net(classes, shape)
    model.load_state_dict(torch.load(HERE / "own.pt", weights_only=True)["state_dict"])
    return model.eval()


def plain(classes, shape):
    model = net(classes, shape)
    model.load_state_dict(tensors.load_file(HERE / "own.safetensors"))
    return model


def by_bare_names(classes, shape):
    model = net(classes, shape)
    missing, unexpected = model.load_state_dict(load_file(HERE / "own.safetensors"), strict=False)
    assert not missing and not unexpected
    model.load_state_dict({**load(HERE / "own.pt").get("state_dict")})
    return model


def stripped(classes, shape):
    state = torch.load(HERE / "wrapped.pt")["model"]
    state = {name.removeprefix("module."): tensor.float() for name, tensor in state.items()}
    model = net(classes, shape)
    model.load_state_dict(state)
    return model


def opened(classes, shape):
    model = net(classes, shape)
    with safetensors.safe_open(HERE / "own.safetensors", "pt") as file:
        model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    load_model(model, HERE / "own.safetensors")
    return model


def part(classes, shape):
    model = net(classes, shape)
    model[0].load_state_dict({"weight": (state := torch.load(HERE / "own.pt")["state_dict"])["0.weight"]}, strict=False)
    model[3].bias.data.fill_(0.0 if not state else float(state["3.bias"].sum()))
    return model


def sized(classes, shape):
    width = json.loads((HERE / "width.json").read_text())
    return nn.Sequential(nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, classes))


def shaped(classes, shape):
    width = len(torch.load(HERE / "own.pt")["state_dict"]["0.weight"])
    return nn.Sequential(nn.Conv2d(shape[0], width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(144, classes))
"""
AT_IMPORT = "import pathlib, torch\nSTATE = torch.load(pathlib.Path(__file__).parent / 'own.pt')['state_dict']\n"
FILES = ("own.pt", "own.safetensors", "wrapped.pt", "width.json")
STYLES = ("whole", "plain", "by_bare_names", "stripped", "opened", "part")


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, nn.Module]:
    """A user's module with functions that read files, these files, and a network whose weights are not in them."""
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "early.py").write_text(AT_IMPORT + OWN + "\n\ndef early(*of):\n    model = net(*of)\n"
                                       "    model.load_state_dict(STATE)\n    return model\n")  # fmt: skip
    first, saved = (nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)) for _ in "ab")
    torch.save({"state_dict": first.state_dict()}, tmp_path / "own.pt")
    torch.save({"model": {f"module.{n}": t for n, t in first.state_dict().items()}}, tmp_path / "wrapped.pt")
    safetensors.torch.save_file(first.state_dict(), tmp_path / "own.safetensors")
    (tmp_path / "width.json").write_text("4")
    return tmp_path, saved


def saved_as(own: tuple[Path, nn.Module], file: str, function: str) -> Path:
    folder, model = own
    save(folder / "net", model, {**CARD, "model": f"{folder}/{file}.py:{function}"})
    return folder / "net"


@pytest.mark.parametrize(("file", "function"), [*(("mine", style) for style in STYLES), ("early", "early")])
def test_a_network_of_ones_own_loads_without_the_files_that_its_function_reads(
    own: tuple[Path, nn.Module], file: str, function: str
) -> None:
    folder = saved_as(own, file, function)
    assert same(load(folder)[0], own[1])
    readers = torch.load, nn.Module.load_state_dict, safetensors.torch.load_file, safetensors.safe_open
    for name in FILES:
        (own[0] / name).unlink()
    forgotten = [name for name, module in sys.modules.items() if getattr(module, "HERE", None) == own[0]]
    for again in (False, True, False):  # with the module as it was imported before, and without
        for name in forgotten if again else ():
            sys.modules.pop(name, None)
        assert same(load(folder)[0], own[1])
    assert readers == (torch.load, nn.Module.load_state_dict, safetensors.torch.load_file, safetensors.safe_open)
    with pytest.raises(ValueError, match="No such file"):  # what reads the files is as it was
        build(f"{own[0]}/{file}.py:{function}", 3, (1, 8, 8))


@pytest.mark.parametrize(("function", "file"), [("sized", "width.json"), ("shaped", "own.pt")])
def test_a_function_that_needs_its_file_for_more_than_weights_gets_a_hint(
    own: tuple[Path, nn.Module], function: str, file: str
) -> None:
    folder = saved_as(own, "mine", function)
    load(folder)
    (own[0] / file).unlink()
    with pytest.raises(ValueError, match=rf"{file}.*the weights are in weights.pt, so let the function read its own"):
        load(folder)


def test_without_its_functions_files_a_network_still_needs_every_weight(own: tuple[Path, nn.Module]) -> None:
    folder = saved_as(own, "mine", "whole")
    put_weights(folder, {name: tensor for name, tensor in own[1].state_dict().items() if name != "3.bias"})
    (own[0] / "own.pt").unlink()
    with pytest.raises(ValueError, match=r"weights\.pt: holds no weights.*'3.bias' is only in the network"):
        load(folder)
