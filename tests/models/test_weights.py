"""Checkpoints as training loops write them, against what torch's own load_state_dict says of the same weights."""

import argparse
import io
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

import models
from models.weights import COUNTER, find_tensors, fitted

State = dict[str, torch.Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("resnet8", 10, (1, 8, 8))


def saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def under(prefix: str, state: State) -> State:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def compiled(state: State) -> State:
    """As torch.compile names the weights of a network; to call it imports for ten seconds."""
    return under("_orig_mod.net.", state)


def inner(state: State) -> State:
    """The names of a network of which one module is compiled."""
    return {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in state.items()}


def loaded(state: State) -> nn.Module:
    model = network()
    model.load_state_dict(state)
    return model


def averaged(state: State) -> State:
    return {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def uncounted(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}


LOOP = {"optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}, "epoch": 3, "best": np.float64(0.5), "history": [1]}
AS_THEY_COME: dict[str, tuple[Callable[[State], Any], str]] = {
    "plain": (lambda state: state, ""),
    "state_dict": (lambda state: {"state_dict": state, **LOOP}, "took `state_dict`"),
    "model": (lambda state: {**LOOP, "model": state, "args": argparse.Namespace(lr=0.1)}, "took `model`"),
    "a name of its own": (lambda state: {"student": state, "teacher": {"a": torch.zeros(2)}}, "took `student`"),
    "nested": (lambda state: {"model": {"state_dict": state}, **LOOP}, "took `model.state_dict`"),
    "not the average": (lambda state: {"ema": averaged(state), "net": state}, "took `net`"),
    "the average alone": (lambda state: {"ema": state, **LOOP}, "took `ema`"),
    "DataParallel": (lambda state: dict(nn.DataParallel(loaded(state)).state_dict()), "removed the prefix `module.`"),
    "torch.compile": (compiled, "removed `_orig_mod.` from the names, removed the prefix `net.`"),
    "compiled inside": (inner, "removed `_orig_mod.` from the names"),
    "Lightning": (
        lambda state: {"state_dict": {**under("model.", state), "loss.weight": torch.ones(2)}, "callbacks": {}},
        "took `state_dict`, removed the prefix `model.`, left out 1 others (`loss.weight`)",
    ),
    "all of it": (
        lambda state: {"state_dict": under("module._orig_mod.model.", uncounted(state))},
        "took `state_dict`, removed `_orig_mod.` from the names, removed the prefix `module.model.`, "
        f"9 {COUNTER} were missing",
    ),
    "a counter too many": (lambda state: {**state, f"fc.{COUNTER}": torch.tensor(3)}, f"left out 1 {COUNTER}"),
    "beside what is no tensor": (lambda state: {**state, "_extra_state": None, 7: "seven"}, ""),
}


@pytest.mark.parametrize(("make", "about"), AS_THEY_COME.values(), ids=AS_THEY_COME)
def test_weights_are_found_as_they_come(make: Any, about: str) -> None:
    trained, model = network(seed=1), network()
    found = find_tensors(saved(make(trained.state_dict())), model)
    assert found.about == about
    report = model.load_state_dict(found.tensors, strict=False)
    assert (report.missing_keys, report.unexpected_keys) == ([], [])
    for name, tensor in uncounted(trained.state_dict()).items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("write", [saved, safetensors.torch.save])
def test_other_precisions_and_safetensors_become_the_networks(write: Any, dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in network(seed=1).state_dict().items()}
    model = network()
    found = find_tensors(write(state), model)
    floating = [name for name, tensor in state.items() if tensor.is_floating_point()]
    assert found.about == f"converted {len(floating)} from {str(dtype).removeprefix('torch.')} to float32"
    for name, tensor in fitted(found.tensors, model).items():
        assert tensor.dtype == model.state_dict()[name].dtype
        assert torch.equal(tensor, state[name].to(tensor.dtype))


@pytest.mark.parametrize("cut", [9, 60, -1])
def test_damaged_safetensors_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        find_tensors(safetensors.torch.save(dict(network().state_dict()))[:cut], network())


def test_what_is_missing_is_named_as_torch_names_it_with_the_nearest_name() -> None:
    state = dict(network().state_dict())
    state["classifier.fc.weights"] = state.pop("fc.weight")
    report = network().load_state_dict(state, strict=False)
    assert report.missing_keys == ["fc.weight"]
    with pytest.raises(
        ValueError, match=r"'fc.weight' is only in the network, \(10, 64\); nearest in the file: "
    ) as no:
        fitted(find_tensors(saved(state), network()).tensors, network())
    assert report.unexpected_keys[0] in str(no.value)


def test_weights_of_another_network_get_no_prefix() -> None:
    state = under("block.", {"conv1.weight": torch.zeros(3)})
    found = find_tensors(saved(state), network())
    assert (list(found.tensors)[0], found.about.split(",")[0]) == ("block.conv1.weight", f"9 {COUNTER} were missing")


def test_an_object_with_code_is_refused_inside_a_checkpoint_too() -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return print, ("code ran",)

    with pytest.raises(ValueError, match="objects with code"):
        find_tensors(saved({"state_dict": network().state_dict(), "more": Evil()}), network())
