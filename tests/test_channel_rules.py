"""What is not known to treat channels one by one is refused, and nothing is touched."""

import copy

import pytest
import torch
from networks import Wrapped
from torch import nn

from pruning.channels import dependency_graph


class Does(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        return self.what(self, x)


class Square(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) ** 2


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (nn.GroupNorm(2, 8), r"module 'middle' \(GroupNorm\) is not known to .* protect .* make them: conv$"),
        (nn.ConvTranspose2d(8, 8, 3), r"module 'middle' \(ConvTranspose2d\)"),
        (Square(8, 8, 1), "operation 'conv2d' in module 'middle'"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), "module 'middle'"),
        (nn.PReLU(8), r"module 'middle' \(PReLU\)"),
        (nn.Sequential(nn.ReLU(), Does(lambda m, x: x.permute(0, 1, 3, 2))), "'permute' in module 'middle.1'"),
        (Does(lambda m, x: x * m.scale), "'mul' in module 'middle'"),
        (Does(lambda m, x: x - x.mean(1, keepdim=True)), "'mean' in module 'middle'"),
        (Does(lambda m, x: x.softmax(dim=1)), "'softmax' in module 'middle'"),
        (Does(lambda m, x: torch.cat([x[:, 4:], x[:, :4]], 1)), "'getitem' in module 'middle'"),
        (Does(lambda m, x: x.view(-1, 8, x.size(2), x.size(3))), "'view' in module 'middle' fixes the number .* at 8"),
        (
            Does(lambda m, x: x.reshape(x.size(0), 4, -1, 6).view(-1, 8, 6, 6)),
            "'reshape' in module 'middle' is not known",
        ),
        (Does(lambda m, x: nn.functional.pad(x, (0, 0, 0, 0, 1, -1)).flip(1)), "'flip' in module 'middle'"),
        (Does(lambda m, x: x if x.sum() > 0 else -x), "module 'middle' can't be traced by torch.fx: symbolically"),
        (
            Does(lambda m, x: x @ torch.ones(5, 5)),
            "'matmul' in module 'middle' fails on an input of the example's shape",
        ),
    ],
)
def test_what_is_not_known_is_refused(middle, message):
    model = Wrapped(middle)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        dependency_graph(model, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))
