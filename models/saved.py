"""Save and load networks: weights.pt (state_dict), card.json (metadata), plan.json if cut, network.onnx if int8."""

from __future__ import annotations

import hashlib
import io
import json
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from models.files import read_whole, write_whole
from models.weights import fitted, read_tensors
from models.zoo import build

LARGEST_IMAGE = 1024  # pixels of a side
OPTIONAL = {"plan.json", "network.onnx"}


def save(
    folder: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    card: Mapping[str, Any],
    plan: Mapping[str, Any] | None = None,
    onnx: bytes | None = None,
) -> None:
    """Save a network to `folder`, each file atomically, the card last.

    Args:
      folder: created if missing.
      model: the network or its state_dict.
      card: metadata with model, num_classes, in_shape, class_names, and mean and std of the inputs (per channel, in
        [0, 1] units); other keys are free (JSON; arrays become lists). The key sha256 is added: the hash of each
        other file, which `load` verifies.
      plan: JSON form of the plan that cut the network; None: not cut.
      onnx: content of network.onnx, the same network quantized; None: it is not.

    Raises:
      ValueError: the card lacks a key or cannot be written as JSON; nothing is written.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    weights = io.BytesIO()
    # Always copied: torch.save would write the whole storage of a view (such as a cut layer).
    torch.save(
        {n: t.detach().to("cpu", memory_format=torch.contiguous_format, copy=True) for n, t in state.items()},
        weights,
    )
    files = {"weights.pt": weights.getvalue()}
    if plan is not None:
        files["plan.json"] = _to_json(folder / "plan.json", plan)
    if onnx is not None:
        files["network.onnx"] = onnx
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["card.json"] = _to_json(folder / "card.json", {**card, "sha256": hashes})
    _check_card(folder / "card.json", json.loads(files["card.json"]))
    for name, content in files.items():
        write_whole(folder / name, content)
    for name in OPTIONAL - files.keys():
        (folder / name).unlink(missing_ok=True)  # left over from a network saved here before


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network saved in `folder` (on the CPU, in eval mode, in its factory's dtype) and its card.

    No other file is needed: weights that a user's own function reads may be gone. Raises ValueError naming the file if
    one is missing, damaged or of another network. A card whose model is a user's own function runs that code: open only
    what you trust.
    """
    folder = Path(folder)
    card, contents = _read(folder)
    try:
        model = _built(card)
    except Exception as error:  # of classes and sizes that no network has, torch raises other types
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder / 'card.json'}: its network cannot be built: {reason}{_advice(error)}") from error
    if "plan.json" in contents:
        from pruning.channels.surgery import apply_plan  # needed only for cut networks

        plan = _parse_json(folder / "plan.json", contents["plan.json"])
        try:
            model = apply_plan(model, plan)
        except ValueError as error:
            raise ValueError(f"{folder / 'plan.json'}: {error}") from error
    try:
        model.load_state_dict(fitted(read_tensors(contents["weights.pt"]), model))
    except ValueError as error:
        raise ValueError(f"{folder / 'weights.pt'}: holds no weights for the network of card.json: {error}") from error
    return model.eval(), card


def load_onnx(folder: str | Path) -> bytes | None:
    """The content of network.onnx, the network saved in `folder` as it was quantized; None if it was not.

    Raises ValueError like `load`.
    """
    return _read(Path(folder))[1].get("network.onnx")


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The card of a saved network, and the content of its other files, all of them verified."""
    card: dict[str, Any] = _parse_json(folder / "card.json", read_whole(folder / "card.json"))
    _check_card(folder / "card.json", card)
    for name in OPTIONAL - card["sha256"].keys():
        if (folder / name).exists():
            raise ValueError(f"{folder / name}: is not part of the network that card.json describes")
    return card, {name: _read_verified(folder / name, digest) for name, digest in card["sha256"].items()}


def _built(card: Mapping[str, Any]) -> nn.Module:
    """The network of the card, with any weights: if a user's function fails to read its own, without them."""
    try:
        return build(card["model"], card["num_classes"], tuple(card["in_shape"]))
    except ValueError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        try:
            with _reading_nothing():
                return build(card["model"], card["num_classes"], tuple(card["in_shape"]))
        except Exception:  # whatever it does with nothing: what helps is its file
            raise error from error.__cause__


class _Nothing(dict[Any, Any]):
    """What is read from a file that is gone: an empty mapping, of which every key and every attribute is the same."""

    def _itself(self, *_: Any, **__: Any) -> _Nothing:
        return self

    __missing__ = __getattr__ = __call__ = __enter__ = get = pop = _itself

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        raise TypeError("how much was in a file that is gone is not known")

    def __exit__(self, *_: object) -> None:
        """Where it stands for an open file, there is nothing to close."""


@contextmanager
def _reading_nothing() -> Iterator[None]:
    """Files of tensors hold nothing, and networks keep the weights that they were made with."""
    before, load_state_dict = set(sys.modules), nn.Module.load_state_dict
    readers = (torch.load, torch.hub.load_state_dict_from_url, safetensors.torch.load_file, safetensors.safe_open)
    stand_ins = [(reader, lambda *_, **__: _Nothing()) for reader in readers]  # one each, to find the way back
    try:
        nn.Module.load_state_dict = lambda module, *_, **__: load_state_dict(module, module.state_dict())  # type: ignore
        _rename(stand_ins)
        yield
    finally:
        nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
        _rename((stand_in, reader) for reader, stand_in in stand_ins)
        for name in set(sys.modules) - before:  # a module that read its file when imported is imported anew next time
            if any(isinstance(value, _Nothing) for value in getattr(sys.modules[name], "__dict__", {}).values()):
                del sys.modules[name]


def _rename(pairs: Iterable[tuple[object, object]]) -> None:
    """Put new in place of old under every name that a module has for it, as `from torch import load` makes them."""
    known = {id(old): new for old, new in pairs}
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name, value in list(names.items()):
            if id(value) in known:
                names[name] = known[id(value)]


def _advice(error: Exception) -> str:
    """What helps where a user's function needs more than the weights of a file that is gone."""
    if not isinstance(error.__cause__, OSError):
        return ""
    return "; the weights are in weights.pt, so let the function read its own file only where that exists"


def _is_list(value: Any, *kinds: type) -> bool:
    return type(value) is list and all(type(item) in kinds for item in value)


def _is_shape(value: Any) -> bool:
    return _is_list(value, int) and len(value) == 3 and all(1 <= size <= LARGEST_IMAGE for size in value)


def _is_numbers(value: Any, low: float, high: float) -> bool:
    return _is_list(value, float, int) and all(low <= number <= high for number in value)


CARD: dict[str, tuple[Callable[[Any], bool], str]] = {  # what each key holds, as a check and in words
    "model": (lambda value: type(value) is str, "a name"),
    "num_classes": (lambda value: type(value) is int, "a whole number"),
    "in_shape": (_is_shape, f"[channels, height, width], each 1 to {LARGEST_IMAGE}"),
    "class_names": (lambda value: _is_list(value, str), "a list of names"),
    "mean": (lambda value: _is_numbers(value, -1e6, 1e6), "a list of numbers, each -1e6 to 1e6"),
    "std": (lambda value: _is_numbers(value, 1e-9, 1e6), "a list of numbers, each 1e-9 to 1e6"),
    "sha256": (
        lambda value: type(value) is dict and {"weights.pt"} <= value.keys() <= {"weights.pt", *OPTIONAL},
        "the hashes of weights.pt and, where there are any, of plan.json and network.onnx",
    ),
}


def _check_card(path: Path, card: Any) -> None:
    if not isinstance(card, dict):
        raise ValueError(f"{path}: holds a {type(card).__name__}, not the card of a network")
    for key, (fits, words) in CARD.items():
        if not fits(card.get(key)):
            given = reprlib.repr(card[key]) if key in card else "missing"
            raise ValueError(f"{path}: {key} should be {words}, but is {given}")
    channels, classes = card["in_shape"][:1], card["num_classes"]
    if [len(card["mean"])] != channels or [len(card["std"])] != channels or len(card["class_names"]) != classes:
        raise ValueError(
            f"{path}: mean ({len(card['mean'])}), std ({len(card['std'])}) or class_names "
            f"({len(card['class_names'])}) do not fit in_shape {card['in_shape']} and num_classes {classes}"
        )


def _to_json(path: Path, content: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(content, indent=1, allow_nan=False, default=lambda value: value.tolist())
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be written as JSON: {error}") from error
    return text.encode()


def _parse_json(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not valid JSON, perhaps truncated: {error}") from error


def _read_verified(path: Path, digest: str) -> bytes:
    content = read_whole(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{path}: sha256 of its {len(content)} bytes is not the one in card.json: truncated or changed"
        )
    return content
