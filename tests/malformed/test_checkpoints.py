"""Checkpoints of every kind, read by a dry run: the network's own weights, or refused in one message."""

from __future__ import annotations

import collections
import io
import os
import pickle
import random
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import models
from study import run
from study.baseline.checkpoint import read_checkpoint
from tests.malformed import mutations
from tests.malformed.rule import Ending, end_of

SETTINGS = ["baseline.model=resnet8", "baseline.dataset=digits", "space.granularity=weight"]


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.build("resnet8", 10, (1, 8, 8))


def weights() -> dict[str, Any]:
    return network().state_dict()


def dry(folder: Path, path: Path) -> Ending:
    flags = [word for setting in [*SETTINGS, f"baseline.checkpoint={path}"] for word in ("--set", setting)]
    return end_of(run.main, ["--space", "quickstart", "--out", str(folder), "--dry-run", *flags], folder)


def saved(content: object, **how: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, **how)
    return file.getvalue()


def like(name: str, change: Callable[[torch.Tensor], object]) -> dict[str, Any]:
    """The weights, one of them changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = weights()
        return {**state, name: change(state[name])}


def quantized(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will do without this kind one day
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("run_by_a_pickle",)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "a list": (list, "holds a list, not a mapping"),
    "nothing": (lambda: None, "holds a NoneType"),
    "a tensor": (lambda: torch.zeros(2), "holds a Tensor"),
    "no names": (lambda: dict[str, Any](), "'conv1.weight' is only in the network"),
    "numbers": (lambda: dict.fromkeys(weights(), 1.5), "'conv1.weight' is a float, not a tensor"),
    "None": (lambda: like("bn1.weight", lambda _: None), "'bn1.weight' is a NoneType, not a tensor"),
    "lists": (lambda: like("bn1.weight", lambda t: t.tolist()), "'bn1.weight' is a list, not a tensor"),
    "names that are numbers": (lambda: dict[Any, Any](weights()) | {7: torch.zeros(1)}, "a int among its keys"),
    "wrapped thrice": (lambda: {"a": {"b": {"c": weights()}}}, "'conv1.weight' is only in the network"),
    "sparse": (lambda: like("fc.weight", torch.Tensor.to_sparse), "'fc.weight' is a sparse_coo tensor"),
    "sparse rows": (lambda: like("fc.weight", torch.Tensor.to_sparse_csr), "'fc.weight' is a sparse_csr tensor"),
    "meta": (lambda: like("fc.weight", lambda t: t.to("meta")), "'fc.weight' is a meta tensor"),
    "quantized": (lambda: like("fc.weight", quantized), "'fc.weight' is a quantized tensor"),
    "complex": (lambda: like("fc.weight", lambda t: t + 1j), "'fc.weight' is torch.complex64, the network's"),
    "NaN": (lambda: like("fc.bias", lambda t: t * torch.nan), "'fc.bias' holds NaN or infinite values"),
    "infinite": (lambda: like("bn1.running_var", lambda t: t / 0), "'bn1.running_var' holds NaN or infinite"),
    "infinite in float32": (lambda: like("fc.bias", lambda t: t.double() + 1e300), "'fc.bias' holds NaN or infinite"),
    "another shape": (lambda: like("fc.bias", lambda t: t[:3]), "'fc.bias' is (3,), the network's (10,)"),
    "huge by its strides": (
        lambda: like("fc.bias", lambda t: t[:1].expand(10**6, 10**6)),
        "'fc.bias' is (1000000, 1000000), the network's",
    ),
    "a module": (network, "torch.nn.modules.container.Sequential"),
    "code": (Evil, "posix.mkdir"),
    "deep": (lambda: [collections.deque()], "collections.deque"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_holds_no_weights_of_the_network_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(saved(make()))
    ending = dry(tmp_path, path)
    assert (ending.code, ending.broken) == (2, None), ending
    assert ending.err.startswith(f"error: baseline.checkpoint: {path}: ")
    assert reason in ending.err
    assert "weights_only" not in ending.err
    assert not Path("run_by_a_pickle").exists()


def test_of_a_pickled_module_it_is_said_how_to_save_its_weights(tmp_path: Path) -> None:
    (tmp_path / "new.pt").write_bytes(saved(network()))
    (tmp_path / "old.pt").write_bytes(saved(network(), _use_new_zipfile_serialization=False))
    for name in ("new.pt", "old.pt"):
        assert "torch.save(model.state_dict(), 'weights.pt')" in dry(tmp_path, tmp_path / name).err


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state,
        lambda state: {name: tensor.double() for name, tensor in state.items()},
        lambda state: (
            {name: nn.Parameter(tensor, tensor.is_floating_point()) for name, tensor in state.items()}
            | {name: tensor for name, tensor in state.items() if not tensor.is_floating_point()}
        ),
        lambda state: collections.OrderedDict(reversed(state.items())),
    ],
)
def test_the_networks_own_weights_are_taken_in_any_order_and_precision(tmp_path: Path, change: Any) -> None:
    state = {name: tensor for name, tensor in weights().items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / "weights.pt"
    path.write_bytes(saved({**weights(), **change(state)}))
    assert (dry(tmp_path, path).code, dry(tmp_path, path).broken) == (0, None)
    found = read_checkpoint(str(path), network()).state
    assert all(torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in state.items())


def test_a_dry_run_says_what_was_done_and_plans_no_training(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(saved({"state_dict": {f"module.{name}": tensor for name, tensor in weights().items()}}))
    said = dry(tmp_path, path).out
    assert f"checkpoint {path}: took `state_dict`, removed the prefix `module.`\n" in said
    assert "time: none for the baseline, " in said


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    (tmp_path / "empty").touch()
    (tmp_path / "loop").symlink_to("loop")
    kinds = {"pipe": "a named pipe", "socket": "a socket", ".": "a folder", "/dev/zero": "a device"}
    kinds |= {"nowhere": "No such file", "loop": "symbolic links", "empty": "is empty"}
    for name, kind in kinds.items():
        ending = dry(tmp_path, tmp_path / name)
        assert (ending.code, ending.broken) == (2, None), ending
        assert "baseline.checkpoint: " in ending.err
        assert kind in ending.err
    listening.close()


HOSTILE = [
    *mutations.HOSTILE, torch.zeros(()), torch.zeros(0), torch.zeros(3, dtype=torch.bool), torch.tensor(float("nan")),
    torch.zeros(2, dtype=torch.float8_e4m3fn), torch.zeros(2).to("meta"), torch.eye(3).to_sparse(),
    quantized(torch.zeros(2)), torch.zeros(1).expand(10**9), torch.zeros(1, dtype=torch.complex64), torch.float32,
    torch.Size([1]), collections.OrderedDict(a=torch.zeros(1)), torch.device("cpu"),
]  # fmt: skip


def changed(state: dict[str, Any], draw: random.Random) -> object:
    """The weights with one name or value changed; now and then something else."""
    state = dict(state)
    name, value = draw.choice(list(state)), draw.choice(HOSTILE)
    if not isinstance(value, collections.abc.Hashable):
        value = repr(value)
    match draw.randrange(8):
        case 0:
            del state[name]
        case 1:
            state[value] = state.pop(name)
        case 2:
            state[name] = state[draw.choice(list(state))]
        case 3:
            state[name] = state[name] * draw.choice((0, 1e38, float("inf"), 1j))
        case 4:
            state[name] = state[name].to(draw.choice((torch.float16, torch.bfloat16, torch.float64, torch.int8)))
        case 5:
            return draw.choice((value, list(state), [state], {"model": state}, tuple(state.items())))
        case _:
            state[name] = draw.choice(HOSTILE)
    return state


@pytest.mark.parametrize(("seed", "cases"), [(0, 30), pytest.param(1, 1500, marks=pytest.mark.slow)])
def test_any_checkpoint_is_right_or_refused(tmp_path: Path, seed: int, cases: int) -> None:
    draw, path, state = random.Random(seed), tmp_path / "weights.pt", weights()
    whole = [saved(state), saved(state, _use_new_zipfile_serialization=False), pickle.dumps(dict.fromkeys(state, 1))]
    for case in range(cases):
        if case % 2:
            content = mutations.changed_bytes(draw.choice(whole), draw)
        else:
            content = saved(changed(state, draw), _use_new_zipfile_serialization=draw.random() < 0.8)
        path.write_bytes(content)
        ending = dry(tmp_path, path)
        assert not ending.broken, f"case {case}: {ending.broken}"
        if ending.code == 0:
            model = network()
            model.load_state_dict(read_checkpoint(str(path), model).state)
            assert all(tensor.isfinite().all() for tensor in model.state_dict().values()), f"case {case}"
