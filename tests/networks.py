"""Networks for the tests of channels: those that must work, and two in the style of a user's own."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from models import MODELS, build
from pruning.allocation.channel_budget import allocate
from pruning.channels.graph import Graph, dependency_graph, group_scores
from pruning.channels.plans import Plan
from pruning.criteria.magnitude import magnitude_l1


def tiny(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """A factory as a user would write it: three layers, two of them with channels that can be cut."""
    return nn.Sequential(
        *(nn.Conv2d(in_shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)),
    )


def narrow(num_classes: int) -> nn.Sequential:
    """`resnet8` with half as many channels after its first stage, for criteria that take long."""

    def stage(channels: int, width: int, stride: int = 1) -> nn.Sequential:
        shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        return nn.Sequential(tv.resnet.BasicBlock(channels, width, stride, shortcut if stride > 1 else None))

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 16, 3, padding=1, bias=False), bn1=nn.BatchNorm2d(16), relu=nn.ReLU(),
            layer1=stage(16, 16), layer2=stage(16, 16, 2), layer3=stage(16, 32, 2),
            avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(32, num_classes),
        )
    )  # fmt: skip


class LeNet(nn.Module):
    """The tutorial's network: sizes written out, one dropout as a function, log-probabilities returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(x.size(0), -1)
        x = F.dropout(F.relu(self.fc1(x)), training=self.training)
        return F.log_softmax(self.fc3(torch.relu_(self.fc2(x))), dim=1)


class Mixed(nn.Module):
    """Concatenation, a depthwise convolution of two, a residual sum, a gate, a layer used twice, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(0.1))
        self.side = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(24)
        self.down = nn.Conv2d(24, 8, 1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 16, 3, groups=4)
        self.squeeze = nn.Linear(16, 5)
        self.excite = nn.Linear(5, 16)
        self.head = nn.Linear(16, 10)
        self.second_head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        joined = torch.cat([self.stem(x), F.max_pool2d(F.relu(self.side(x)), 3, stride=1, padding=1)], dim=1)
        y = self.down(F.hardtanh(self.norm(self.depthwise(joined)), 0.0, 6.0))
        y = y + F.relu(self.twice(y))
        y += F.relu(self.twice(F.avg_pool2d(y, 3, 1, 1)))
        y = F.relu(self.grouped(y))[:, :, 1:, 1:]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
        y = y * gate.unsqueeze(-1).unsqueeze(-1)
        return {"classes": self.head(y.mean(dim=[2, 3])), "map": self.second_head(y).permute(0, 2, 3, 1)}


class Chunked(nn.Module):
    """Two halves of one convolution, taken apart and put together again, into maps flattened for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.left = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm1d(12 * 9)
        self.fc = nn.Linear(12 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).chunk(2, dim=1)
        joined = torch.cat((F.relu(right), self.left(left)), 1)
        flat = torch.flatten(F.adaptive_avg_pool2d(joined, 3), 1)
        return self.fc(self.norm(flat))


class Three(nn.Module):
    """Three layers small enough to do by hand: 2x2 maps of 3 channels, flattened, into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 3, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(12, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.flatten(self.pool(self.conv2(torch.relu(self.bn1(self.conv1(x))))), 1))


class Wrapped(nn.Module):
    """A convolution, `middle`, and a linear layer after global pooling."""

    def __init__(self, middle: Any, channels: Any = 8) -> None:
        super().__init__()
        self.conv, self.middle, self.fc = nn.Conv2d(3, channels, 3), middle, nn.Linear(channels, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))


class PaddedShortcuts(nn.Module):
    """A ResNet for CIFAR whose shortcuts take every other pixel and pad the channels with zeros, on both sides."""

    class Block(nn.Module):
        def __init__(self, before: int, after: int) -> None:
            super().__init__()
            stride, more = after // before, (after - before) // 2
            self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
            self.shortcut: Any = nn.Identity()
            if more:
                self.shortcut = Function(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more), "constant", 0))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        widths = [width, width, 2 * width, 2 * width, 4 * width]
        self.blocks = nn.Sequential(*(self.Block(a, b) for a, b in itertools.pairwise(widths)))
        self.linear = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Shuffled(nn.Module):
    """Halves of the channels, one of them through a branch, shuffled together again as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.branch = nn.Conv2d(3, 12, 3), nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.side, self.last = nn.Conv2d(3, 6, 3), nn.Conv2d(18, 8, 1)
        self.fc = nn.Linear(8 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).chunk(2, dim=1)
        joined = torch.cat([left, self.branch(right), F.relu(self.side(x))], 1)
        n, channels, height, width = joined.size()
        mixed = joined.view(n, 3, channels // 3, height, width).transpose(1, 2).contiguous()
        maps = F.adaptive_avg_pool2d(self.last(mixed.view(n, channels, height, width)), 3)
        return self.fc(maps.flatten(1))


def small_vit(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """torchvision's vision transformer with two layers of two heads."""
    return tv.VisionTransformer(in_shape[1], 4, 2, 2, 8, 32, num_classes=num_classes)


def small_swin(num_classes: int) -> nn.Module:
    """torchvision's Swin transformer with two stages, windows shifted in both."""
    return tv.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [2, 2], num_classes=num_classes)


def _of_ours(name: str) -> Callable[[], nn.Module]:
    return lambda: build(name, 10)


SIDES = {"vgg": 32, "con": 16}  # of the smallest images that these take
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # name -> factory, side of its images
    **{name: (_of_ours(name), SIDES.get(name[:3], 12)) for name in MODELS},
    "resnet18 of torchvision": (lambda: tv.resnet18(num_classes=10), 40),
    "resnet50 of torchvision": (lambda: tv.resnet50(num_classes=10), 40),
    "vgg11 with 7x7 maps": (lambda: _slim_vgg11(), 32),
    "densenet121": (lambda: tv.densenet121(num_classes=10), 32),
    "mobilenet_v2": (lambda: tv.mobilenet_v2(num_classes=10), 32),
    "resnext50_32x4d": (lambda: tv.resnext50_32x4d(num_classes=10), 32),
    "LeNet": (LeNet, 32),
    "Mixed": (Mixed, 9),
    "Chunked": (Chunked, 9),
    "padded shortcuts": (PaddedShortcuts, 12),
    "Shuffled": (Shuffled, 9),
    "small vision transformer": (lambda: small_vit(10, (3, 12, 12)), 12),
    "small Swin": (lambda: small_swin(10), 16),
}


def _slim_vgg11() -> nn.Module:
    """torchvision's VGG-11 without batch norm and with its 7x7 maps, its classifier narrower (4096 takes seconds)."""
    with torch.device("meta"):
        model = tv.vgg11(num_classes=10, init_weights=False)
    model.features = tv.vgg.make_layers(tv.vgg.cfgs["A"])
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 64), nn.Linear(64, 64)
    model.classifier[6] = nn.Linear(64, 10)
    return model


def trained_like(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in float64 and eval mode, with no parameter or statistic at a value that hides mistakes: 0, 1."""
    generator = torch.Generator().manual_seed(seed)
    model.double().eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor[tensor == 0] = 0.01
            if tensor.ndim == 1:
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
                if name.endswith(("bias", "running_mean")):
                    tensor.sub_(1)
    return model


def example_plan(model: nn.Module, target: float = 0.5) -> tuple[Graph, Plan]:
    """The graph of a network for CIFAR, and a plan by magnitude that takes the same share of every layer."""
    return example_plan_of(model, torch.zeros(1, 3, 32, 32), target)


def example_plan_of(model: nn.Module, images: Tensor, target: float) -> tuple[Graph, Plan]:
    """As `example_plan`, for images of another size."""
    graph = dependency_graph(model, images)
    scores = group_scores(graph, magnitude_l1(model, [], torch.Generator()))
    return graph, allocate(graph, scores, target, scope="layer")
