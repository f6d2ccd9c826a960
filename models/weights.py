"""Weights in files of torch.save: read into a flat mapping of names to tensors, and fitted to a network."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

HOW = "a file of weights is made by torch.save(model.state_dict(), 'weights.pt')"


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The names and tensors (dense, on the CPU) in a file that torch.save wrote; no code in it is run.

    content: of the file. Raises ValueError, which says what it holds instead, for anything else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of kinds of tensors that are refused below
        try:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # it raises many types, and advises to switch weights_only off
            raise ValueError(f"{_unreadable(content)}; {HOW}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"holds a {type(found).__name__}, not a mapping of names to tensors; {HOW}")
    return {_checked_name(name): _dense(name, value) for name, value in found.items()}


def fitted(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors in the model's order and dtypes. Raises ValueError unless they are its own, and finite.

    That is, names and shapes are those of the model's state_dict, and no value is NaN or infinite.
    """
    expected = model.state_dict()
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            raise ValueError(f"{name!r} is only in the {'network' if name in expected else 'file'}")
        if expected[name].shape != tensors[name].shape:
            raise ValueError(f"{name!r} is {tuple(tensors[name].shape)}, the network's {tuple(expected[name].shape)}")
    return {name: _as_dtype(name, tensors[name], tensor.dtype) for name, tensor in expected.items()}


def _unreadable(content: bytes) -> str:
    """Why torch.load does not read this."""
    if not content:
        return "is empty"
    try:
        objects = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    except Exception:  # as above
        objects = []
    if objects:
        return f"holds objects with code of their own ({', '.join(sorted(objects)[:3])}), which is not run"
    return "is damaged, or was not written by torch.save"


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"holds a mapping with a {type(name).__name__} among its keys, not of names to tensors; {HOW}")
    return name


def _dense(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name!r} is a {type(value).__name__}, not a tensor; {HOW}")
    if value.is_quantized or value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
        kind = "quantized" if value.is_quantized else "nested" if value.is_nested else value.device.type
        kind = str(value.layout).removeprefix("torch.") if value.layout != torch.strided else kind
        raise ValueError(f"{name!r} is a {kind} tensor, not a dense one with its values")
    return value.detach()


def _as_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not torch.can_cast(tensor.dtype, dtype):
        raise ValueError(f"{name!r} is {tensor.dtype}, the network's {dtype}")
    try:
        values = tensor.to(dtype)
        finite = bool(values.isfinite().all())
    except RuntimeError:  # of dtypes without arithmetic
        raise ValueError(f"{name!r} is {tensor.dtype}, which cannot be converted to {dtype}") from None
    if not finite:
        raise ValueError(f"{name!r} holds NaN or infinite values")
    return values
