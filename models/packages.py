"""Networks of torchvision and timm by name, as those packages build them; and their trained weights."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import socket
from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models

from models.own_functions import called

PACKAGES = ("torchvision", "timm")
FORMS = "torchvision/name, timm/name"
_SECONDS = 15  # without an answer from the network


def holds(name: str) -> bool:
    """Whether a model's name is one of a package: `torchvision/resnet50`, `timm/resnet10t`."""
    return name.partition("/")[0] in PACKAGES and ":" not in name


def build(name: str, num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """The network of a package with random weights; auxiliary classifiers are left out.

    Raises ValueError for an unknown name, a package that is not installed, and what the package refuses.
    """
    package, _, model = name.partition("/")
    if package == "timm":
        make = partial(_timm(name).create_model, num_classes=num_classes, **_timm_options(name, in_shape))
    else:
        _check_torchvision(name, model)
        if in_shape[0] != 3:
            raise ValueError(f"model {name}: takes images of 3 channels, not {in_shape[0]}")
        options: dict[str, Any] = {"image_size": in_shape[1]} if model.startswith("vit_") else {}
        if model in ("googlenet", "inception_v3"):
            options = {"aux_logits": False, "init_weights": True}
        make = partial(get_model, weights=None, num_classes=num_classes, **options)
    built: nn.Module = called(make, f"model {name}: {package}", model)
    return built


def pretrained(name: str, weights: str, in_shape: tuple[int, int, int]) -> dict[str, Tensor]:
    """Trained weights of a package's network, downloaded once: a state_dict, with the classes they were trained for.

    weights: for torchvision a name of its enumeration, such as IMAGENET1K_V1; for timm a tag, such as a1_in1k; DEFAULT
    is each package's choice. Raises ValueError where there are none of that name or they cannot be downloaded.
    """
    package, _, model = name.partition("/")
    if package == "timm":
        tagged = model if weights == "DEFAULT" else f"{model.partition('.')[0]}.{weights}"
        timm, base = _timm(name), model.partition(".")[0]
        known = [one.partition(".")[2] for one in timm.list_pretrained(f"{base}.*")]
        _check("weights", weights, ["DEFAULT", *known], f"{name} has none of that name")
        make = partial(timm.create_model, tagged, pretrained=True, **_timm_options(name, in_shape))
    else:
        _check_torchvision(name, model)
        named = get_model_weights(model).__members__
        _check("weights", weights, named, f"{name} has none of that name")
        make = partial(get_model, model, weights=named[weights], progress=False)
    with _downloading():
        try:
            network: nn.Module = called(make, package)
        except ValueError as error:
            raise ValueError(
                f"weights {weights} of {name} cannot be had: {error}; they are downloaded once and kept, "
                "so this machine needs a connection at first"
            ) from error
    return network.state_dict()


def _check_torchvision(name: str, model: str) -> None:
    _check("model", model, list_models(module=torchvision.models), f"torchvision has no network {model!r}")


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError:
        raise ValueError(f"model {name}: needs the package timm, which is not installed: pip install timm") from None
    model = name.partition("/")[2]
    if not timm.is_model(model):
        _check("model", model, timm.list_models(), f"timm has no network {model!r}")
    package: ModuleType = timm
    return package


def _timm_options(name: str, in_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What timm must be told of the images; networks of a fixed size are made for theirs."""
    about = _timm(name).get_pretrained_cfg(name.partition("/")[2], allow_unregistered=True)
    size = {"img_size": in_shape[1:]} if about is not None and about.fixed_input_size else {}
    return {"in_chans": in_shape[0], **size}


def _check(what: str, given: str, choices: Iterable[str], problem: str) -> None:
    choices = list(choices)
    if given in choices:
        return
    near = difflib.get_close_matches(given, choices, 8, cutoff=0.5) if len(choices) > 12 else choices
    raise ValueError(
        f"{what} {given}: {problem}; choices: {', '.join(near or choices[:8])}{', ...' * (len(near) < len(choices))}"
    )


@contextlib.contextmanager
def _downloading() -> Iterator[None]:
    """Downloads that end where nothing answers, print nothing, and run no code that is in a file."""
    before, forced = socket.getdefaulttimeout(), os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    socket.setdefaulttimeout(_SECONDS)
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
        if forced is None:
            del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]
        else:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = forced
