"""Channel criteria from reading layers: against layers run on their own, numpy, scikit-learn, and all subsets."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import lars_path
from torch import nn

import models
from pruning.channels.graph import dependency_graph
from pruning.criteria.consumers import greedy_order, regression_channels, thinet_channels
from tests.networks import Three, trained_like


def generator() -> Any:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def residual() -> Any:
    """resnet8 on 4x4 images, so that all positions are sampled, and every layer's inputs."""
    torch.manual_seed(0)
    model = trained_like(models.build("resnet8", 3))
    images = torch.randn(50, 3, 4, 4, generator=generator(), dtype=torch.float64)
    inputs: dict[str, Any] = {}
    handles = [
        module.register_forward_pre_hook(lambda m, x, name=name: inputs.__setitem__(name, x[0].detach().clone()))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return model, dependency_graph(model, images), [(images, torch.zeros(50).long())], inputs


READERS = {  # of two groups of resnet8: a plain one, and the first residual stream
    "layer1.0.conv1": ["layer1.0.conv2"],
    "conv1": ["layer1.0.conv1", "layer2.0.conv1", "layer2.0.downsample.0"],
}


def contributions(model: Any, inputs: Any, path: Any) -> Any:
    """Each input channel's contribution to a layer's output, (channels, numbers), by running it on only that one."""
    layer, x = model.get_submodule(path), inputs[path]
    alone = [x * (torch.arange(x.shape[1]) == c).reshape(1, -1, 1, 1) for c in range(x.shape[1])]
    outputs = [F.conv2d(a, layer.weight, None, layer.stride, layer.padding).detach() for a in alone]
    return torch.stack(outputs).flatten(1).numpy()


@pytest.mark.parametrize("group", READERS)
def test_thinets_scores_are_energies_of_what_is_gone(residual: Any, group: Any) -> None:
    model, graph, batches, inputs = residual
    score = thinet_channels(graph, model, None, batches, generator())[group].numpy()
    parts = [contributions(model, inputs, path) for path in READERS[group]]
    order = np.argsort(score)

    def error(gone: Any) -> Any:
        return sum(np.square(p[gone].sum(0)).sum() / np.square(p.sum(0)).sum() for p in parts)

    highest = 0.0
    for i, unit in enumerate(order):
        best = min(error([*order[:i], other]) for other in order[i:])
        assert error(order[: i + 1]) == pytest.approx(best)  # greedy
        highest = max(highest, best)
        assert score[unit] == pytest.approx(highest)
    assert error(order) == pytest.approx(len(parts))


@pytest.mark.parametrize("group", READERS)
def test_regressions_order_is_scikit_learns_path_and_its_errors_numpys(residual: Any, group: Any) -> None:
    model, graph, batches, inputs = residual
    score = regression_channels(graph, model, None, batches, generator())[group].numpy()
    each = [contributions(model, inputs, path) for path in READERS[group]]
    parts = np.hstack([p / np.linalg.norm(p.sum(0)) for p in each])
    parts *= 1000  # scikit-learn's path ends early where penalties are below 1e-7
    alphas, _, coefs = lars_path(parts.T, parts.sum(0), method="lasso")
    entry = [alphas[np.flatnonzero(c)[0] - 1] if c.any() else 0 for c in coefs]
    order = np.argsort(entry)
    assert np.argsort(score).tolist() == order.tolist()

    layers = []
    for path in READERS[group]:
        layer = model.get_submodule(path)
        x: Any = F.unfold(inputs[path], layer.kernel_size, padding=layer.padding, stride=layer.stride)
        x = x.transpose(0, 1).flatten(1).numpy()
        x = np.hstack([x, np.sqrt(0.01 * np.trace(x @ x.T) / len(x)) * np.eye(len(x))])
        layers.append((layer.weight.detach().flatten(1).numpy() @ x, x.reshape(16, -1, x.shape[1])))
    for cut in (1, 5, 12, 16):
        error = 0.0
        for y, x in layers:
            kept = np.delete(x, order[:cut], axis=0).reshape(-1, x.shape[2])
            rest = y - (np.linalg.lstsq(kept.T, y.T, rcond=None)[0].T @ kept if len(kept) else 0)
            error += np.square(rest).sum() / np.square(y).sum()
        assert score[order[cut - 1]] == pytest.approx(error)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(1, 7))
def test_greedy_against_all_subsets(seed: Any, n: Any) -> None:
    """Optimal for one unit, and for any number where contributions don't overlap; never better than optimal."""
    x = np.random.default_rng(seed).standard_normal((n, 12))
    for products, exact in ((x @ x.T, False), (np.diag(np.square(x).sum(1)), True)):
        order = greedy_order(products)
        assert sorted(order) == list(range(n))
        for k in range(1, n + 1):
            found = products[np.ix_(order[:k], order[:k])].sum()
            best = min(products[np.ix_(s, s)].sum() for s in map(list, itertools.combinations(range(n), k)))
            assert found >= best - 1e-9
            if exact or k in (1, n):
                assert found == pytest.approx(best, abs=1e-9)


def test_greedy_sees_what_cancels() -> None:
    """The first and third cancel: each alone weighs more than the second, together they weigh nothing."""
    x = np.array([[2.0, 0], [0, 2.1], [-2.0, 0]])
    assert greedy_order(x @ x.T).tolist() == [0, 2, 1]


@pytest.mark.parametrize("function", [regression_channels, thinet_channels])
def test_flattened_maps_are_read_in_places(function: Any) -> None:
    """A channel of conv2 is four inputs of fc: without the whole group nothing of the output is left."""
    torch.manual_seed(0)
    model = trained_like(Three())
    images = torch.randn(40, 1, 4, 4, generator=generator(), dtype=torch.float64)
    graph = dependency_graph(model, images)
    scores = function(graph, model, None, [(images, torch.zeros(40).long())], generator())
    assert scores["conv2"].max().item() == pytest.approx(1)
    assert 0 < scores["conv2"].min() < 0.5


def test_by_hand() -> None:
    """Three hidden units that are never active together, read with weights 1, 2 and 0: energies 1 : 16 : 0 of 17."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)).double()
    model[0].weight.data = torch.eye(3).double()
    model[2].weight.data = torch.tensor([[1.0, 2.0, 0.0]]).double()
    images = torch.tensor([[1.0, 0, 0], [0, 2, 0], [0, 0, 3]]).double()
    graph = dependency_graph(model, images)
    score = thinet_channels(graph, model, None, [(images, torch.zeros(3).long())], generator())["0"]
    assert score.tolist() == pytest.approx([1 / 17, 1, 0], abs=1e-12)
    score = regression_channels(graph, model, None, [(images, torch.zeros(3).long())], generator())["0"]
    # X X^T is diag(1, 4, 9), damped by 0.01 * 14 / 3.
    damping = 0.14 / 3
    assert score.tolist() == pytest.approx([(1 + damping) / (17 + 5 * damping), 1, 0], abs=1e-12)


@pytest.mark.parametrize("function", [regression_channels, thinet_channels])
def test_channels_that_no_layer_reads_are_refused(function: Any) -> None:
    class DeadEnd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(3, 2)

        def forward(self, x: Any) -> Any:
            self.conv(x)
            return self.fc(x.mean((2, 3)))

    images = torch.randn(2, 3, 8, 8)
    graph = dependency_graph(DeadEnd(), images)
    assert [group.name for group in graph.groups] == ["conv"]
    with pytest.raises(ValueError, match="reads the channels of group 'conv'"):
        function(graph, DeadEnd(), None, [(images, torch.zeros(2).long())], generator())
