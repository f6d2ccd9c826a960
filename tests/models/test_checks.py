"""What is said of networks that cannot be pruned or trained, before anything runs."""

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import models

CLASSES, SHAPE = 10, (3, 8, 8)


def network(classes: int, shape: Any) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, classes),
    )


def raising(classes: int, shape: Any) -> Any:
    raise KeyError("no weights")


def leaving(classes: int, shape: Any) -> Any:
    sys.exit(3)


def ending(classes: int, shape: Any) -> Any:
    raise GeneratorExit


def without_shape(classes: int) -> Any:
    return network(classes, SHAPE)


def nothing(classes: int, shape: Any) -> Any:
    return None


def normed(classes: int, shape: Any) -> Any:
    model = network(classes, shape)
    parametrizations.weight_norm(model[0])
    return model


def spectral(classes: int, shape: Any) -> Any:
    model = network(classes, shape)
    model[5] = torch.nn.utils.spectral_norm(model[5])
    return model


def compiled(classes: int, shape: Any) -> Any:
    return nn.Sequential(torch.compile(network(classes, shape)))


def lazy(classes: int, shape: Any) -> Any:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def enormous(classes: int, shape: Any) -> Any:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10**9), nn.Linear(10**9, classes))


def one_class_more(classes: int, shape: Any) -> Any:
    return network(classes + 1, shape)


def not_finite(classes: int, shape: Any) -> Any:
    model = network(classes, shape)
    nn.init.constant_(model[5].bias, float("nan"))
    return model


def empty(classes: int, shape: Any) -> Any:
    return nn.Flatten()


def frozen(classes: int, shape: Any) -> Any:
    return network(classes, shape).requires_grad_(False)


class Pair(nn.Module):
    def __init__(self, classes: int, shape: Any) -> None:
        super().__init__()
        self.inner = network(classes, shape)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x), x


class Leaving(Pair):
    def forward(self, x: torch.Tensor) -> Any:
        raise SystemExit(0)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (raising, r"called with \(10, \(3, 8, 8\)\) it raised KeyError: 'no weights'"),
        (leaving, "it raised SystemExit: 3"),
        (ending, "it raised GeneratorExit"),
        (without_shape, "it raised TypeError: .*takes 1 positional argument but 2 were given"),
        (nothing, "the factory returned a NoneType, not a torch.nn.Module"),
        (normed, "the weight of module '0' is computed from other tensors .*remove_parametrizations"),
        (spectral, "the weight of module '5' is computed from other tensors"),
        (compiled, "module '0' is compiled; return the network itself"),
        (lazy, "module '1' has no shapes yet"),
        (enormous, r"needs [\d,]+ GB; this machine has [\d,]+ GB of memory"),
        (one_class_more, r"for images \(2, 3, 8, 8\) it returned torch.float32 \(2, 11\); expected logits \(2, 10\)"),
        (not_finite, "returned numbers that are not finite"),
        (empty, "has neither convolutions nor linear layers"),
        (frozen, "no parameter that takes gradients"),
        (Pair, r"it returned a tuple; expected logits \(2, 10\)"),
        (Leaving, "it raised SystemExit: 0"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_by_what_is_wrong_with_it(factory: Any, message: str) -> None:
    name = f"{__name__}:{factory.__name__}"
    with pytest.raises(ValueError, match=message) as caught:
        models.built(name, CLASSES, SHAPE)
    assert str(caught.value).startswith(f"model {name}: ")


@pytest.mark.parametrize("name", ["builtins:print", "os:system", "subprocess:call", "os.path:join"])
def test_functions_of_python_itself_are_never_called(name: str) -> None:
    with pytest.raises(ValueError, match="is part of Python itself; name a function of your own"):
        models.built(name, CLASSES, SHAPE)


def test_a_probe_leaves_the_random_state_and_the_mode_as_they_were() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = models.built(f"{__name__}:network", CLASSES, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert int(model[1].num_batches_tracked) == 0


def test_every_network_of_the_zoo_passes() -> None:
    for name in ("resnet8", "resnet20", "mobilenet_v3_small", "googlenet"):
        models.built(name, CLASSES, (3, 32, 32))
