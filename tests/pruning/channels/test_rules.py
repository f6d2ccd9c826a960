"""Operations that act on each channel separately are followed; others are refused and leave the model unchanged."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruning.channels.graph import costs, dependency_graph, plan_without
from pruning.channels.surgery import apply_plan, mask_units
from pruning.measure.cost import macs
from pruning.weights.masks import prunable
from tests.networks import Wrapped, trained_like


class Does(nn.Module):
    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.shift = nn.Parameter(torch.ones(8))
        self.row = nn.Parameter(torch.ones(6))
        self.many = nn.Parameter(torch.ones(8, 6, 6))
        self.linear = nn.Linear(36, 36)
        self.order = torch.arange(8)
        self.one = nn.Conv2d(8, 1, 1)

    def forward(self, x: Any) -> Any:
        return self.what(self, x)


FOLLOWED = {
    "silu": lambda m, x: F.silu(x),
    "in place": lambda m, x: torch.relu_(x).clamp_(max=2).mul_(3),
    "sigmoids": lambda m, x: F.hardsigmoid(torch.sigmoid(x)),
    "by keyword": lambda m, x: F.max_pool2d(input=F.gelu(input=x), kernel_size=2),
    "with numbers": lambda m, x: 2 * x / x.size(2) ** 0.5 + torch.pi * torch.tensor([0.5]),
    "interpolate": lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pad": lambda m, x: F.pad(x, (1, 0, 2, 1)),
    "strided": lambda m, x: x[:, :, ::2, 1:],
    "one row": lambda m, x: x[:, :, 0].unsqueeze(-1),
    "rows merged": lambda m, x: x.flatten(2).unsqueeze(3),
    "sizes computed": lambda m, x: x.view(x.size(0), x.size(1), -1, 1).reshape((x.shape[0], -1, 6, 6)),
    "rows joined": lambda m, x: torch.cat((x, -x), dim=2),
    "chunks joined": lambda m, x: torch.cat(torch.chunk(x, chunks=2, dim=1), axis=1),  # type: ignore[call-arg]
    "a half twice": lambda m, x: torch.cat([x.chunk(2, dim=1)[0]] * 2, 1),
    "reduced": lambda m, x: x.mean(-1, keepdim=True) + x.amax(dim=(2,), keepdim=True) + x.sum((2, 3), keepdim=True),
    "expanded": lambda m, x: F.adaptive_avg_pool2d(x, 1).expand_as(x) * x,
    "squeezed": lambda m, x: x * F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1).unsqueeze(2).unsqueeze(3),
    "scaled": lambda m, x: m.scale * x + F.relu(x * m.scale) - m.scale,
    "a row, of the parameters' one axis": lambda m, x: F.relu(x + m.row) * F.softplus(m.scale),
    "channels last": lambda m, x: (F.gelu(x.permute(0, 2, 3, 1)) * m.shift).permute(0, 3, 1, 2),
    "permuted": lambda m, x: torch.permute(x, (0, -1, 1, 2)).permute([0, 2, 3, 1]).permute(0, 1, 3, 2),
    "transposed": lambda m, x: x.transpose(1, 2).swapaxes(-1, 1).transpose(1, 3).transpose(1, 2),
    "batch not first": lambda m, x: x.permute(1, 0, 2, 3).permute(1, 0, 2, 3),
    "rows of channels last": lambda m, x: last_of(x, lambda y: torch.cat([y[:, :3], y.chunk(2, 1)[1]], 1)),
    "rows merged and averaged": lambda m, x: last_of(x, lambda y: y.flatten(1, 2).unsqueeze(1).mean(2, keepdim=True)),
    "groups shuffled": lambda m, x: x.view(x.size(0), 2, x.shape[1] // 2, 6, 6).transpose(1, 2).reshape(x.shape),
    "whole groups": lambda m, x: x.view(x.size(0), -1, 4, 6, 6).flatten(1, 2).flatten(2).view(x.size(0), -1, 6, 6),
    "split in halves": lambda m, x: torch.cat(x.split(x.size(1) // 2, dim=1)[::-1], 1),
    "rows split": lambda m, x: torch.cat(x.split([2, 4], 2)[::-1], 2) + x.unbind(3)[1].unsqueeze(3),
    "tokens and back": lambda m, x: x.flatten(2).transpose(1, 2).transpose(-1, -2).reshape(x.shape),
    "of the training only": lambda m, x: F.dropout(x, 0.5, m.training) if m.training else x.contiguous(),
}
PARTLY = {  # what counts channels by numbers in the code, and how many channels that leaves to be cut
    "channels before a number": (
        lambda m, x: torch.cat([x[:, 5:], x[:, :5], x[..., None][:, :5, ..., 0]], 1)[:, :-5],
        3,
    ),
    "channels from the end": (lambda m, x: torch.cat([x[:, -3:] * 2, x[:, :-3]], -3), 5),
    "zeros beside": (lambda m, x: F.pad(x, (0, 0, 1, 1, 2, 3))[:, 2:-3], 8),
    "zeros twice": (lambda m, x: F.pad(x[:, :4], [0] * 4 + [4, 0]) + F.pad(x[:, 4:], [0] * 4 + [0, 4]), 4),
    "every other": (lambda m, x: torch.cat([x[:, ::2], x[:, 1::2]], 1), 0),
    "split at numbers": (lambda m, x: torch.cat(torch.split(x, [3, 5], dim=1)[::-1], 1), 0),
    "all of them written": (lambda m, x: x.view(x.size(0), 8, 6, 6) * m.scale.view(1, 8, 1, 1), 0),
    "both sizes written": (lambda m, x: x.view(x.size(0), 2, 4, 6, 6).transpose(1, 2).reshape(x.shape), 0),
    "another's size": (
        lambda m, x: m.one(x).expand(-1, x.size(1), -1, -1) + x.view(x.size(0), m.one.weight.size(1), 6, 6),
        0,
    ),
    "a mean by hand": (lambda m, x: x / x.size(1) + x.shape[1] ** 0.5, 0),
    "a number of them": (lambda m, x: x.view(x.size(0), x.size(1) + 8 - 8, 6, 6), 0),
}
LAYERS = [nn.PReLU(), nn.Hardswish(), nn.ZeroPad2d(1), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)]
LAYERS += [nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=4), nn.ConvTranspose2d(8, 8, 2, groups=8), nn.SiLU()]
LAYERS += [nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, groups=2)]


@pytest.mark.parametrize("middle", [*FOLLOWED.values(), *LAYERS], ids=[*FOLLOWED, *(type(m).__name__ for m in LAYERS)])
def test_what_is_known_is_cut_right(middle: Any) -> None:
    """The layers before and after lose the same channels: the cut network equals the masked one."""
    layer = middle if isinstance(middle, nn.Module) else Does(middle)
    model = trained_like(Wrapped(layer))
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    graph = dependency_graph(model, images)
    [group] = graph.groups
    assert group.size == 8 // group.width
    plan = plan_without(graph, torch.arange(group.size).numpy() % 3 == 0)
    small = apply_plan(model, plan)
    # A layer keeps zeros at zero; some of the functions don't, and there the readers must be masked too.
    mask_units(model, plan, ("out",) if isinstance(middle, nn.Module) else ("out", "in"))
    assert small.fc.in_features < 8
    with torch.no_grad():
        assert torch.allclose(small(images), model(images), rtol=1e-9)


@pytest.mark.parametrize(("what", "left"), PARTLY.values(), ids=list(PARTLY))
@pytest.mark.parametrize("seed", [0, 1])
def test_what_numbers_in_the_code_count_is_never_cut(what: Any, left: Any, seed: Any) -> None:
    model = trained_like(Wrapped(Does(what)))
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    graph = dependency_graph(model, images)
    channels = graph.axes["conv", "out"]
    assert np.count_nonzero(channels >= 0) == left
    plan = plan_without(graph, np.random.default_rng(seed).permutation(graph.size) < graph.size // 2)
    small = apply_plan(model, plan)
    mask_units(model, plan)
    with torch.no_grad():
        assert torch.allclose(small(images), model(images), rtol=1e-9)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_other_dimensions(dims: Any, kind: Any) -> None:
    conv, pool = getattr(nn, f"{kind}{dims}d"), getattr(nn, f"AdaptiveAvgPool{dims}d")
    norm = getattr(nn, f"BatchNorm{dims}d")
    head = nn.Sequential(pool(2), nn.Flatten(), nn.Linear(6 * 2**dims, 2))
    model = nn.Sequential(conv(3, 8, 3), norm(8), nn.ReLU(), conv(8, 6, 2, 2), head)
    images = torch.rand(2, 3, *[5] * dims, dtype=torch.float64)
    trained_like(model)
    graph = dependency_graph(model, images)
    assert [group.size for group in graph.groups] == [8, 6]
    assert costs(graph)["macs"] == macs(model, images.shape[1:])
    plan = plan_without(graph, torch.arange(14).numpy() % 3 == 1)
    small = apply_plan(model, plan)
    assert costs(graph, plan)["macs"] == macs(small, images.shape[1:])
    mask_units(model, plan)
    assert costs(graph, plan)["params"] == sum(int(weight.count_nonzero()) for weight in prunable(model).values())
    assert torch.allclose(small(images), model(images), rtol=1e-9)


def test_a_channel_that_meets_all_others_is_never_cut() -> None:
    gate = Does(lambda m, x: x * torch.sigmoid(m.one(x)))
    gate.one = nn.Conv2d(8, 1, 1)
    assert [g.name for g in dependency_graph(Wrapped(gate), torch.zeros(1, 3, 8, 8)).groups] == ["conv"]


def test_constants_among_channels_are_never_cut() -> None:
    middle = Does(lambda m, x: m.join(torch.cat([m.scale[:2].expand(x.size(0), 2, 6, 6), x], dim=-3)))
    middle.join = nn.Conv2d(10, 8, 1)
    graph = dependency_graph(Wrapped(middle), torch.zeros(1, 3, 8, 8))
    assert graph.axes["middle.join", "in"].tolist() == [-1, -1, 0, 1, 2, 3, 4, 5, 6, 7]


def last_of(x: Any, what: Any) -> Any:
    """Applies `what` to a tensor in channels-last order."""
    return what(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def shared_scale() -> Any:
    """One parameter in two modules."""
    two = nn.Sequential(nn.ReLU(), Does(lambda m, x: x * m.scale), Does(lambda m, x: x * m.scale))
    two[2].scale = two[1].scale
    return two


def last(what: Any) -> Any:
    return Does(lambda m, x: last_of(x, what))


class Square(nn.Conv2d):
    def forward(self, x: Any) -> Any:
        return super().forward(x) ** 2


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (nn.PReLU(8), r"module 'middle' \(PReLU\) is not known to .* protect .* make them: conv$"),
        (nn.LayerNorm(6), r"module 'middle' \(LayerNorm\)"),
        (nn.InstanceNorm2d(8, affine=True), r"module 'middle' \(InstanceNorm2d\)"),
        (Square(8, 8, 1), "operation 'conv2d' in module 'middle'"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), "module 'middle'"),
        (last(lambda x: F.avg_pool2d(x, 3, 1, 1)), "'avg_pool2d' in module 'middle'"),
        (Does(lambda m, x: F.pad(x, (1,) * 4) + F.pad(x, (1,) * 4).permute(0, 2, 3, 1)), "'add' in module 'middle'"),
        (Does(lambda m, x: x * m.many), "'mul' in module 'middle'"),
        (shared_scale(), "'mul' in module 'middle.1'"),
        (Does(lambda m, x: x - x.mean(1, keepdim=True)), "'mean' in module 'middle'"),
        (Does(lambda m, x: m.linear(x.flatten(2)).unsqueeze(-1)), r"module 'middle.linear' \(Linear\)"),
        (Does(lambda m, x: F.max_pool2d(x.flatten(2), 3, 1, 1).unsqueeze(-1)), "'max_pool2d' in module 'middle'"),
        (Does(lambda m, x: x.softmax(dim=1)), "'softmax' in module 'middle'"),
        (Does(lambda m, x: x.view(-1, 8, x.size(2), x.size(3))), "'view' in module 'middle' fixes the number .* at 8"),
        (Does(lambda m, x: x.reshape(x.size(0), 4, -1, 6).view(-1, 8, 6, 6)), "'view' .* fixes the number .* at 8"),
        (Does(lambda m, x: x[:, m.order]), "'getitem' in module 'middle'"),
        (Does(lambda m, x: x.unbind(1)[0].unsqueeze(1).expand(-1, 8, -1, -1)), "'unbind' in module 'middle'"),
        (Does(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, -1))), "'pad' in module 'middle'"),
        (Does(lambda m, x: x.flip(1)), "'flip' in module 'middle'"),
        (Does(lambda m, x: x if x.sum() > 0 else -x), "module 'middle' can't be traced by torch.fx: symbolically"),
        (
            Does(lambda m, x: x @ torch.ones(5, 5)),
            "'matmul' in module 'middle' fails on an input of the example's shape",
        ),
    ],
)
def test_what_is_not_known_is_refused(middle: Any, message: Any) -> None:
    model = Wrapped(middle)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        dependency_graph(model, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
