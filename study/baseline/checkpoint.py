"""Load a user's checkpoint and check it against the network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def read_checkpoint(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """The state_dict at `path`. Raises ValueError if unreadable or if names or shapes differ from `model`'s."""
    where = f"baseline.checkpoint: {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; all mean the same to the user
        raise ValueError(f"{where}: not readable as a state_dict: {str(error).splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{where}: holds a {type(state).__name__}, not a state_dict")
    expected = model.state_dict()
    for name in [*expected, *state]:
        if name not in state or name not in expected:
            raise ValueError(f"{where}: {name!r} is only in the {'model' if name in expected else 'checkpoint'}")
        if expected[name].shape != state[name].shape:
            raise ValueError(
                f"{where}: {name!r} is {tuple(state[name].shape)}, the model's {tuple(expected[name].shape)}"
            )
    return dict(state)
