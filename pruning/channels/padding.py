"""Modules that pad channels with zeros, such as the shortcuts of ResNets for CIFAR: once cut, they pad with fewer."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


class Repadding(TorchFunctionMode):
    """Context manager in which F.pad pads by `now` where the code says `written`."""

    def __init__(self, written: tuple[int, ...], now: tuple[int, ...]) -> None:
        super().__init__()
        self.written, self.now = written, now

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.pad:
            x, amounts, *rest = args if len(args) > 1 else (*args, kwargs.pop("pad"))
            args = (x, self.now if tuple(amounts) == self.written else amounts, *rest)
        return func(*args, **kwargs)


class Repadded:
    """Mixed into the class of a module that pads channels, once these were cut.

    Attributes:
      in_channels: channels before the padding.
      out_channels: channels after it.
      written: the argument of F.pad in the module's code.
      now: what takes its place.
      pad_axis: the axis of the channels, from the end.
    """

    in_channels: int
    out_channels: int
    written: tuple[int, ...]
    now: tuple[int, ...]
    pad_axis: int

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, with other zeros."""
        with Repadding(self.written, self.now):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def repad(module: nn.Module, before: list[int], layer: dict[str, Any]) -> None:
    """Makes a module that pads by `before` pad as a plan's `layer` says; in place."""
    if not isinstance(module, Repadded):
        kind = type(module)
        module.__class__ = type(kind.__name__, (Repadded, kind), {"__module__": kind.__module__})
        vars(module).update(written=tuple(before), pad_axis=layer["pad_axis"])
    sizes = {"now": tuple(layer["pad"]), "in_channels": layer["in"]["of"], "out_channels": layer["out"]["of"]}
    vars(module).update(sizes)
