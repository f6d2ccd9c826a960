"""Checks a network of anyone's making before it is trained or pruned."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.own_functions import called
from models.zoo import Shape, build
from pruning.calibration.hooks import evaluating
from pruning.weights.masks import PRUNABLE_LAYERS

_EXAMPLES = 2  # images of the probe


def built(name: str, num_classes: int, in_shape: Shape) -> nn.Module:
    """The network of that name, as `models.build` makes it, after a probe of it; torch's random state is kept.

    Raises ValueError, saying what was found and what is expected, for a network that does not fit into memory, whose
    weights are not plain parameters, or whose output for a batch of images is not (images, num_classes) finite numbers.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        _check_memory(name, num_classes, in_shape)
        model = build(name, num_classes, in_shape)
        for problem in _problems(model):
            raise ValueError(f"model {name}: {problem}")
        _check_output(model, name, num_classes, in_shape)
    return model


def _check_memory(name: str, num_classes: int, in_shape: Shape) -> None:
    try:
        with torch.device("meta"):
            model = build(name, num_classes, in_shape)
        needed = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    except (ValueError, RuntimeError):  # cannot be built without memory; whatever else is wrong is found later
        return
    if hasattr(os, "sysconf") and needed > (free := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")):
        raise ValueError(f"model {name}: needs {needed / 1e9:,.0f} GB; this machine has {free / 1e9:,.0f} GB of memory")


def _problems(model: nn.Module) -> Iterator[str]:
    for path, module in model.named_modules():
        where = f"module {path!r}" if path else "the network"
        if hasattr(module, "_orig_mod") or isinstance(module, torch.jit.ScriptModule):
            yield f"{where} is compiled; return the network itself, before torch.compile or torch.jit"
        if any(map(is_lazy, (*module.parameters(recurse=False), *module.buffers(recurse=False)))):
            yield f"{where} has no shapes yet (a lazy layer); call the network once before it is returned"
        if isinstance(module, PRUNABLE_LAYERS) and "weight" not in dict(module.named_parameters(recurse=False)):
            yield (
                f"the weight of {where} is computed from other tensors (weight_norm, spectral_norm, parametrize) and "
                "cannot be pruned; remove that first, as with torch.nn.utils.parametrize.remove_parametrizations"
            )
    if not any(isinstance(module, PRUNABLE_LAYERS) for module in model.modules()):
        yield "has neither convolutions nor linear layers, so nothing can be pruned"
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield "has no parameter that takes gradients (requires_grad), so it cannot be trained"


def _check_output(model: nn.Module, name: str, num_classes: int, in_shape: Shape) -> None:
    given, expected = (_EXAMPLES, *in_shape), (_EXAMPLES, num_classes)
    with torch.no_grad(), evaluating(model):
        output = called(model, f"model {name}: for images {given} it", torch.rand(given))
    found = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if not isinstance(output, Tensor) or output.shape != expected or not output.is_floating_point():
        raise ValueError(f"model {name}: for images {given} it returned {found}; expected logits {expected}")
    if not output.isfinite().all():
        raise ValueError(f"model {name}: for images {given} it returned numbers that are not finite")
