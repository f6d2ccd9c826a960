"""Weights in files of torch.save and safetensors: read, found among what lies beside them, and fitted to a network."""

from __future__ import annotations

import argparse
import difflib
import io
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

HOW = "a file of weights is made by torch.save(model.state_dict(), 'weights.pt')"
COUNTER = "num_batches_tracked"  # of batch norm, which older files lack; of no effect where `momentum` is given
WRAPPING = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # modules in modules, anywhere in a name

# What training loops put beside the weights, such as {"args": Namespace, "best": numpy.float64}. None runs code.
_SCALAR = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [argparse.Namespace, np.dtype, _SCALAR, (_SCALAR, "numpy.core.multiarray.scalar")]
_HARMLESS += [np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]


class Found(NamedTuple):
    """Weights found in a checkpoint.

    tensors: by the network's names, where it has them; not yet compared with its shapes.
    about: what was done to find them, such as "took `state_dict`, removed the prefix `module.`"; "" for nothing.
    """

    tensors: dict[str, Tensor]
    about: str


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The names and tensors (dense, on the CPU) in a file that torch.save wrote; no code in it is run.

    content: of the file. Raises ValueError, which says what it holds instead, for anything else.
    """
    return {_checked_name(name): _dense(name, value) for name, value in _read(content).items()}


def find_tensors(content: bytes, model: nn.Module) -> Found:
    """The weights in a checkpoint as training loops write it; no code in it is run.

    They may lie in a mapping inside the file (`state_dict`, `model`, ...; nested twice at most), beside anything else,
    under names with a prefix (of DataParallel, torch.compile, Lightning, ...), without batch norm's counters, or in a
    safetensors file. Of several mappings it is the one that shares most names with the model; of equal ones that
    which is no average (`ema`). Under a prefix, what has another one is left out.

    Raises ValueError, which says what the file holds instead, where there are no weights.
    """
    expected = model.state_dict()
    candidates = [(path, found, *_prefix(found, expected)) for path, found in _mappings(_read(content))]
    path, found, prefix, _ = max(candidates, key=lambda one: (one[3], "ema" not in one[0].lower(), _tensors(one[1])))
    done = [f"took `{path}`"] * bool(path)
    named = {
        _checked_name(name): value for name, value in found.items() if isinstance(value, Tensor) or name in expected
    }
    values = {_plain(name): value for name, value in named.items()}
    wrapping = [f"`{part}.`" for part in sorted(WRAPPING) if any(part in name.split(".") for name in named)]
    done += [f"removed {' and '.join(wrapping)} from the names"] * bool(wrapping)
    if prefix:
        done.append(f"removed the prefix `{prefix}`")
        done += _listed("left out", [name for name in values if not name.startswith(prefix)])
        values = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    tensors = {name: _dense(name, value) for name, value in values.items()}
    counters = _counters([*expected, *tensors])
    if surplus := counters & tensors.keys() - expected.keys():
        done.append(f"left out {len(surplus)} {COUNTER}")
    if missing := counters & expected.keys() - tensors.keys():
        done.append(f"{len(missing)} {COUNTER} were missing")
    tensors = {n: t for n, t in tensors.items() if n not in surplus} | {name: expected[name] for name in missing}
    return Found(tensors, ", ".join(done + _conversions(tensors, expected)))


def fitted(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The tensors in the model's order and dtypes. Raises ValueError unless they are its own, and finite.

    That is, names and shapes are those of the model's state_dict, and no value is NaN or infinite.
    """
    expected = model.state_dict()
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            raise ValueError(misfit(name, tensors, expected))
        if expected[name].shape != tensors[name].shape:
            raise ValueError(misfit(name, tensors, expected))
    return {name: as_dtype(name, tensors[name], tensor.dtype) for name, tensor in expected.items()}


def misfit(name: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Why the tensor of that name does not fit: both shapes, or where it is missing and the nearest name there."""
    if name in tensors and name in expected:
        return f"{name!r} is {tuple(tensors[name].shape)}, the network's {tuple(expected[name].shape)}"
    here, there = (expected, tensors) if name in expected else (tensors, expected)
    words = ("network", "file") if name in expected else ("file", "network")
    near = difflib.get_close_matches(name, [other for other in there if other not in here], 1, cutoff=0.6)
    hint = f"; nearest in the {words[1]}: {near[0]!r} {tuple(there[near[0]].shape)}" if near else ""
    return f"{name!r} is only in the {words[0]}, {tuple(here[name].shape)}{hint}"


def as_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype. Raises ValueError where it cannot be converted or its values are not finite."""
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


def _read(content: bytes) -> Mapping[Any, Any]:
    if content[8:9] == b"{" and not content.startswith(b"PK"):  # the header's length, then the header in JSON
        try:
            return safetensors.torch.load(content)
        except Exception as error:  # of its own
            raise ValueError(f"is damaged, or no safetensors file: {error}") from None
    with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
        warnings.simplefilter("ignore")  # torch warns of kinds of tensors that are refused below
        try:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception:  # it raises many types, and advises to switch weights_only off
            raise ValueError(f"{_unreadable(content)}; {HOW}") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"holds a {type(found).__name__}, not a mapping of names to tensors; {HOW}")
    return found


def _mappings(found: Mapping[Any, Any], path: str = "", depth: int = 2) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """A mapping and those inside it, each with the keys that lead to it."""
    yield path, found
    for key, value in found.items() if depth else ():
        if isinstance(value, Mapping):
            yield from _mappings(value, f"{path}.{key}".lstrip("."), depth - 1)


def _tensors(found: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in found.values())


def _prefix(found: Mapping[Any, Any], expected: Mapping[str, Tensor]) -> tuple[str, int]:
    """The prefix (of several the shortest) under which most of the network's names are found, and their number."""
    prefixes: Counter[str] = Counter()
    for name in found:
        parts = _plain(name).split(".") if isinstance(name, str) else []
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                prefixes["".join(f"{part}." for part in parts[:start])] += 1
    best = min(prefixes, key=lambda prefix: (-prefixes[prefix], len(prefix)), default="")
    # Less than half: of another network, whose `block.conv1` is by chance the `conv1` of this one.
    return (
        (best, prefixes[best]) if 2 * prefixes[best] > len(expected) - len(_counters(expected)) else ("", prefixes[""])
    )


def _counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if name.rpartition(".")[2] == COUNTER}


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPING)


def _listed(what: str, names: list[str]) -> list[str]:
    more = ", ..." if len(names) > 1 else ""
    return [f"{what} {len(names)} others (`{names[0]}`{more})"] if names else []


def _conversions(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    changes = Counter(
        (tensor.dtype, expected[name].dtype)
        for name, tensor in tensors.items()
        if name in expected and tensor.dtype != expected[name].dtype
    )
    return [f"converted {count} from {a} to {b}".replace("torch.", "") for (a, b), count in changes.items()]


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
