"""Which batch norms could be folded into the layer before them."""

from typing import Any

import pytest
import torch
from torch import nn

import models
from pruning.channels.folding import norms_behind


class Partly(nn.Module):
    """One norm directly after its convolution; one whose convolution is read twice; one after a sum; a shared norm."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.read_twice, self.third = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm, self.of_read_twice, self.of_sum, self.shared = (nn.BatchNorm2d(3) for _ in range(4))
        self.stateless = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Any) -> Any:
        y = self.read_twice(self.norm(self.alone(x)))
        y = self.of_sum(self.of_read_twice(y) + y)
        return self.stateless(self.third(self.shared(self.shared(y)))) * torch.ones(1)


def test_only_what_nothing_else_reads() -> None:
    model = Partly()
    attributes = sorted(vars(model))
    model.register_forward_hook(lambda *_: pytest.fail("the model is not run"))
    assert norms_behind(model) == {"alone": "norm"}
    assert sorted(vars(model)) == attributes  # tracing notes constants on what it traces


def test_every_convolution_of_a_residual_network() -> None:
    found = norms_behind(models.build("resnet8", 3))
    assert len(found) == 9
    assert found["conv1"] == "bn1"
    assert found["layer2.0.downsample.0"] == "layer2.0.downsample.1"


def test_what_can_not_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Any) -> Any:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="Branching can't be traced"):
        norms_behind(Branching())
