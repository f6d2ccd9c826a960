"""Load a user's checkpoint and check it against the network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from models.files import read_whole
from models.weights import fitted, read_tensors


def read_checkpoint(path: str, model: nn.Module) -> dict[str, Tensor]:
    """The state_dict at `path`, in the model's dtypes. Raises ValueError unless it is one of `model`, and finite."""
    try:
        content = read_whole(Path(path))
    except ValueError as error:
        raise ValueError(f"baseline.checkpoint: {error}") from None
    try:
        return fitted(read_tensors(content), model)
    except ValueError as error:
        raise ValueError(f"baseline.checkpoint: {path}: {error}") from None
