"""The trained weights that a user gives: found in their file or package, and checked against the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

import models
from models.files import read_whole
from models.weights import Found, as_dtype, find_tensors, fitted, misfit
from pruning.weights.masks import PRUNABLE_LAYERS
from study.config import BaselineSection


class Start(NamedTuple):
    """What a network starts from.

    state: its whole state_dict, in its dtypes.
    new: names in it that keep the network's random values, and are to be trained.
    about: one line that says where the weights come from and what was done to them; "" where nothing was.
    """

    state: dict[str, Tensor]
    new: frozenset[str] = frozenset()
    about: str = ""


def start(section: BaselineSection, model: nn.Module, num_classes: int, in_shape: tuple[int, int, int]) -> Start:
    """The weights that the section gives to `model`; its own where none are given.

    Raises ValueError, naming the key, for weights that do not fit.
    """
    if section.checkpoint:
        return read_checkpoint(section.checkpoint, model)
    if section.init_from:
        where = f"baseline.init_from: {section.init_from}"
        found = _found("init_from", section.init_from, model)
    elif section.weights:
        where = f"baseline.weights: {section.weights} of {section.model}"
        try:
            found = Found(models.pretrained(section.model, section.weights, in_shape), "")
        except ValueError as error:
            raise ValueError(f"baseline.{error}") from None
    else:
        return Start(model.state_dict())
    try:
        begun = _begun(found, model, _head(model, num_classes), section.init_missing == "any")
        if begun.new and not section.epochs:
            raise ValueError(f"{sorted(begun.new)[0]!r} is new, so it needs training: baseline.epochs is 0")
        if section.freeze and not begun.new:
            raise ValueError("all of it fits, so nothing is new and baseline.freeze leaves nothing to train")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return begun._replace(about=f"{where.removeprefix('baseline.')}: {begun.about}")


def read_checkpoint(path: str, model: nn.Module) -> Start:
    """The weights at `path`, in the model's dtypes. Raises ValueError unless they are those of `model`, and finite."""
    found = _found("checkpoint", path, model)
    try:
        state = fitted(found.tensors, model)
    except ValueError as error:
        hint = "; baseline.init_from takes what fits, and trains the rest"
        raise ValueError(f"baseline.checkpoint: {path}: {error}{hint * ('network' in str(error))}") from None
    return Start(state, about=found.about and f"checkpoint {path}: {found.about}")


def _found(key: str, path: str, model: nn.Module) -> Found:
    try:
        content = read_whole(Path(path))
    except ValueError as error:
        raise ValueError(f"baseline.{key}: {error}") from None
    try:
        return find_tensors(content, model)
    except ValueError as error:
        raise ValueError(f"baseline.{key}: {path}: {error}") from None


def _begun(found: Found, model: nn.Module, head: str | None, anything: bool) -> Start:
    """The tensors that fit, layer by layer; others than the head's are refused unless `anything` may be new."""
    tensors, expected = found.tensors, model.state_dict()
    unfit = [name for name in expected if not _fits(name, tensors, expected)]
    layers = {_layer(name): name for name in reversed(unfit)}
    for layer, name in reversed(layers.items()):
        if not anything and layer != head:
            more = f" (nor do {len(unfit) - 1} others fit)" if len(unfit) > 1 else ""
            raise ValueError(
                f"{misfit(name, tensors, expected)}{more}; only the head ({head}) is made new, "
                "others too with baseline.init_missing=any"
            )
    new = frozenset(name for name in expected if _layer(name) in layers)
    if len(new) == len(expected):
        raise ValueError("it shares no tensor with the network")
    surplus = [name for name in tensors if name not in expected]
    done = [found.about] * bool(found.about)
    done += [f"left out {len(surplus)} that the network lacks (`{surplus[0]}`)"] if surplus else []
    named = [f"`{layer}`" for layer in reversed(layers)]
    done += [f"new: {', '.join(named[:3])}{f' and {len(named) - 3} others' * (len(named) > 3)}"] if named else []
    state = {n: t if n in new else as_dtype(n, tensors[n], t.dtype) for n, t in expected.items()}
    return Start(state, new, ", ".join(done) or "all of it fits")


def _fits(name: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return name in tensors and tensors[name].shape == expected[name].shape


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _head(model: nn.Module, num_classes: int) -> str | None:
    """The last layer with an output for every class."""
    outputs = [
        path
        for path, module in model.named_modules()
        if isinstance(module, PRUNABLE_LAYERS)
        and isinstance(module.weight, Tensor)
        and len(module.weight) == num_classes
    ]
    return outputs[-1] if outputs else None
