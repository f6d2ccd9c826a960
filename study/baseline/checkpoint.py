"""Weights that a person brings, held against the network they are for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def read_checkpoint(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    where = f"baseline.checkpoint: {path}"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds; all mean the same to the user
        raise ValueError(f"{where}: not readable as a state_dict: {str(error).splitlines()[0]}") from None
    if not isinstance(state, Mapping):
        raise ValueError(f"{where}: holds a {type(state).__name__}, not a state_dict")
    own = model.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own:
            raise ValueError(f"{where}: {name!r} is only in the {'model' if name in own else 'checkpoint'}")
        if own[name].shape != state[name].shape:
            raise ValueError(f"{where}: {name!r} is {tuple(state[name].shape)}, the model's {tuple(own[name].shape)}")
    return dict(state)
