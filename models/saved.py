"""Save and load networks: weights.pt (state_dict), card.json (metadata) and, if cut, plan.json (channel surgery)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.files import write_whole
from models.zoo import build

CARD = {"model": str, "num_classes": int, "in_shape": list, "class_names": list, "mean": list, "std": list}


def save(
    folder: str | Path,
    model: nn.Module | Mapping[str, Tensor],
    card: Mapping[str, Any],
    plan: Mapping[str, Any] | None = None,
) -> None:
    """Save a network to `folder`, each file atomically, the card last.

    Args:
      folder: created if missing.
      model: the network or its state_dict.
      card: metadata with model, num_classes, in_shape, class_names, and mean and std of the inputs (per channel, in
        [0, 1] units); other keys are free (JSON; arrays become lists). The key sha256 is added: the hash of each
        other file, which `load` verifies.
      plan: JSON form of the plan that cut the network; None: not cut.

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
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["card.json"] = _to_json(folder / "card.json", {**card, "sha256": hashes})
    _check_card(folder / "card.json", json.loads(files["card.json"]))
    for name, content in files.items():
        write_whole(folder / name, content)
    if plan is None:
        (folder / "plan.json").unlink(missing_ok=True)  # left over from a network saved here before


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Load the network saved in `folder` (on the CPU, in eval mode, in its factory's dtype) and its card.

    Raises ValueError naming the file if one is missing, damaged or of another network. A card whose model
    is a user's own function runs that code: open only what you trust.
    """
    folder = Path(folder)
    card = _parse_json(folder / "card.json", _read(folder / "card.json"))
    _check_card(folder / "card.json", card)
    if "weights.pt" not in card["sha256"]:
        raise ValueError(f"{folder / 'card.json'}: sha256 does not list weights.pt")
    if (folder / "plan.json").exists() and "plan.json" not in card["sha256"]:
        raise ValueError(f"{folder / 'plan.json'}: is not part of the network that card.json describes")
    contents = {name: _read_verified(folder / name, digest) for name, digest in card["sha256"].items()}
    model = build(card["model"], card["num_classes"], tuple(card["in_shape"]))
    if "plan.json" in contents:
        from pruning.channels.surgery import apply_plan  # needed only for cut networks

        plan = _parse_json(folder / "plan.json", contents["plan.json"])
        try:
            model = apply_plan(model, plan)
        except ValueError as error:
            raise ValueError(f"{folder / 'plan.json'}: {error}") from error
    _load_weights(model, contents["weights.pt"], folder / "weights.pt")
    return model.eval(), card


def _load_weights(model: nn.Module, content: bytes, path: Path) -> None:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        model.load_state_dict(state, strict=True)
    except Exception as error:  # unpickling a foreign file raises many types
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: holds no weights for the network of card.json: {reason[:500]}") from error


def _check_card(path: Path, card: Any) -> None:
    if not isinstance(card, dict):
        raise ValueError(f"{path}: holds a {type(card).__name__}, not the card of a network")
    for key, kind in {**CARD, "sha256": dict}.items():
        if type(card.get(key)) is not kind:
            raise ValueError(f"{path}: {key} should be a {kind.__name__}, but is {card.get(key, 'missing')!r}")
    if [type(size) for size in card["in_shape"]] != [int, int, int]:
        raise ValueError(f"{path}: in_shape should be [channels, height, width], but is {card['in_shape']}")
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
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON, perhaps truncated: {error}") from error


def _read_verified(path: Path, digest: str) -> bytes:
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(
            f"{path}: sha256 of its {len(content)} bytes is not the one in card.json: truncated or changed"
        )
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
