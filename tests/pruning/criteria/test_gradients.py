"""Gradient criteria: by hand, against torch.func.vmap's per-image gradients, and against autograd's of gates."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import fuse_conv_bn_eval

import models
from pruning.channels.graph import dependency_graph, plan_without
from pruning.channels.surgery import apply_plan
from pruning.criteria import gradients
from pruning.weights.masks import prunable

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def by_hand() -> Any:
    """One input, a hidden channel h = relu(2 x), logits (h, -h): gradients can be computed by hand."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 2, bias=False)).double()
    model[0].weight.data = torch.tensor([[2.0]]).double()
    model[2].weight.data = torch.tensor([[1.0], [-1.0]]).double()
    images = torch.tensor([[1.0], [-1.0], [0.5]]).double()
    return model, images, torch.tensor([0, 0, 1])


def worked() -> Any:
    """Gradients of the three images' losses. The softmax of (h, -h) is s = 1 / (1 + exp(-2 h)); h is 2, 0 and 1.

    dL/dlogits is (s - 1, 1 - s) for label 0 and (s, -s) for label 1; dL/dh its difference; dL/dw1 = dL/dh * x where
    the ReLU is on; dL/dw2 = dL/dlogits * h.
    """
    s2, s1 = 1 / (1 + math.exp(-4)), 1 / (1 + math.exp(-2))
    first = [2 * (s2 - 1) * 1.0, 0.0, 2 * s1 * 0.5]
    second = [(s2 - 1) * 2, 0.0, s1 * 1]  # of the upper weight; the lower one's is its negative
    return first, second


def test_by_hand() -> None:
    model, images, labels = by_hand()
    first, second = worked()
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    mean = sum(first) / 3, sum(second) / 3
    for name, of_both in {
        "gradient_norm": (abs(mean[0]), abs(mean[1])),
        "saliency": (2 * abs(mean[0]), abs(mean[1])),
        "taylor": [(w * (g[0] + g[1]) / 2) ** 2 / 2 + (w * g[2]) ** 2 / 2 for w, g in ((2, first), (1, second))],
        "fisher": [w**2 * sum(x * x for x in g) / 6 for w, g in ((2, first), (1, second))],
    }.items():
        scores = getattr(gradients, name)(model, batches, GENERATOR)
        assert scores["0.weight"].tolist() == [[pytest.approx(of_both[0])]], name
        assert scores["2.weight"].flatten().tolist() == pytest.approx([of_both[1]] * 2), name


def test_channels_by_hand() -> None:
    model, images, labels = by_hand()
    first, _ = worked()
    graph = dependency_graph(model, images[:1])
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]

    def score(function: Any) -> Any:
        return function(graph, model, None, batches, GENERATOR)["0"].tolist()

    assert score(gradients.gradient_norm_channels) == pytest.approx([abs(sum(first)) / 3])
    assert score(gradients.taylor_channels) == pytest.approx([((first[0] + first[1]) ** 2 + (2 * first[2]) ** 2) / 2])
    assert score(gradients.fisher_channels) == pytest.approx([2**2 * sum(g * g for g in first) / 6])


class Shared(nn.Module):
    """A convolution called twice, a weight shared by two layers, grouped and strided ones, and in-place ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="reflect")
        self.tied = nn.Conv2d(4, 4, 3, padding=2, dilation=2, stride=2)
        self.tied.weight = self.twice.weight
        self.grouped = nn.Conv2d(4, 6, (1, 3), groups=2, padding="same")
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        x = F.relu_(self.norm(self.stem(x)))
        x = F.relu_(self.twice(x)) + self.twice(x)
        x = F.relu_(self.grouped(F.relu_(self.tied(x))))
        return self.head(torch.relu_(self.hidden(x.mean((2, 3)))))


def per_image(model: Any, images: Any, labels: Any) -> Any:
    """Per-image gradients of the loss by vmap: name -> (N, *parameter), of all parameters."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: Any, image: Any, label: Any) -> Any:
        return F.cross_entropy(functional_call(model, parameters, (image[None],)), label[None])

    return vmap(grad(loss), (None, 0, 0))(parameters, images, labels)


def example(model: Any, size: Any = 8, count: Any = 7) -> Any:
    generator = torch.Generator().manual_seed(3)
    model.double().eval()
    with torch.no_grad():
        for name, tensor in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return model, images, torch.randint(3, (count,), generator=generator)


@pytest.mark.parametrize("factory", [Shared, lambda: models.build("resnet8", 3)], ids=["Shared", "resnet8"])
@pytest.mark.parametrize("chunk", [1, 2**24])
def test_fisher_is_the_mean_square_of_gradients_of_single_images(
    factory: Any, chunk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "CHUNK", chunk)
    model, images, labels = example(factory())
    expected = per_image(model, images, labels)
    scores = gradients.fisher(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], GENERATOR)
    assert list(scores) == list(prunable(model))
    for name, score in scores.items():
        weight = model.get_parameter(name)
        torch.testing.assert_close(score, weight.detach() ** 2 * expected[name].square().mean(0) / 2)


def folded(model: Any) -> Any:
    """The network with every batch norm folded into its convolution by torch."""
    model = copy.deepcopy(model)
    block = [model.layer1[0], model.layer2[0], model.layer3[0]]
    pairs = [(model, "conv1", "bn1"), *((b, f"conv{i}", f"bn{i}") for b in block for i in (1, 2))]
    pairs += [(b.downsample, "0", "1") for b in block[1:]]
    for parent, conv, norm in pairs:
        fused = fuse_conv_bn_eval(parent.get_submodule(conv), parent.get_submodule(norm))
        setattr(parent, conv, fused)
        setattr(parent, norm, nn.Identity())
    return model


@pytest.mark.parametrize("cut", [False, True])
def test_fisher_and_taylor_of_channels_are_sums_over_folded_filters(cut: Any) -> None:
    """Per-image gradients in the folded network. resnet8's first stream has the filters of two layers."""
    model, images, labels = example(models.build("resnet8", 3))
    graph, plan = dependency_graph(model, images[:1]), None
    if cut:
        plan = plan_without(graph, torch.arange(graph.size).numpy() % 3 == 1)
        model = apply_plan(model, plan)
    fused = folded(model)
    each = per_image(fused, images, labels)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    fisher, taylor = (
        function(graph, model, plan, batches, GENERATOR)
        for function in (gradients.fisher_channels, gradients.taylor_channels)
    )
    for group, members in (("conv1", ["conv1", "layer1.0.conv2"]), ("layer1.0.conv1", ["layer1.0.conv1"])):
        products = [
            (each[f"{path}.weight"] * fused.get_parameter(f"{path}.weight")).flatten(2).sum(2) for path in members
        ]
        products += [each[f"{path}.bias"] * fused.get_parameter(f"{path}.bias") for path in members]
        both = sum(products).detach()
        left = fisher[group] > -math.inf
        assert len(both[0]) == left.sum() == (16 if not cut else 11 if group == "conv1" else left.sum())
        torch.testing.assert_close(fisher[group][left], both.square().mean(0) / 2)
        expected = (both[:4].mean(0).square() + both[4:].mean(0).square()) / 2
        torch.testing.assert_close(taylor[group][left], expected)
        assert torch.equal(taylor[group] == -math.inf, ~left)


def test_filters_without_batch_norm_are_summed_with_their_biases() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 9, 3))
    model, images, labels = example(model, size=5)
    graph = dependency_graph(model, images[:1])
    each = per_image(model, images, labels)
    sums = (each["0.weight"] * model[0].weight).flatten(2).sum(2) + each["0.bias"] * model[0].bias
    score = gradients.fisher_channels(graph, model, None, [(images, labels)], GENERATOR)["0"]
    torch.testing.assert_close(score, sums.detach().square().mean(0) / 2)


def test_first_order_taylor_is_the_change_of_the_loss_as_channels_fade() -> None:
    """A unit's feature maps scaled by 1 +- 0.00001 in all layers that produce it: finite differences of the loss."""
    model, images, labels = example(models.build("resnet8", 3))
    graph = dependency_graph(model, images[:1])
    score = gradients.taylor_channels(graph, model, None, [(images, labels)], GENERATOR)
    for group, norms, unit in (
        ("conv1", (model.bn1, model.layer1[0].bn2), 5),
        ("layer1.0.conv1", (model.layer1[0].bn1,), 2),
    ):
        losses = []
        for factor in (1 + 1e-5, (1 - 1e-5) / (1 + 1e-5), 1 / (1 - 1e-5)):
            with torch.no_grad():
                for norm in norms:
                    norm.weight[unit] *= factor
                    norm.bias[unit] *= factor
                losses.append(F.cross_entropy(model(images), labels).item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert score[group][unit].item() == pytest.approx(slope**2, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("name", ["gradient_norm", "saliency", "taylor"])
def test_scale_laws(name: Any) -> None:
    """If a layer and its batch norm's statistics double, the output stays and the gradient halves."""
    model, images, labels = example(models.build("resnet8", 3))
    function = getattr(gradients, name)
    before = function(model, [(images, labels)], GENERATOR)["conv1.weight"]
    with torch.no_grad():
        model.conv1.weight.mul_(2)
        model.bn1.running_mean.mul_(2)
        model.bn1.running_var.add_(model.bn1.eps).mul_(4).sub_(model.bn1.eps)
    after = function(model, [(images, labels)], GENERATOR)["conv1.weight"]
    torch.testing.assert_close(after, before / 2 if name == "gradient_norm" else before)


def test_the_mean_gradient_does_not_depend_on_how_images_are_batched() -> None:
    model, images, labels = example(models.build("resnet8", 3))
    whole = gradients.saliency(model, [(images, labels)], GENERATOR)
    parts = gradients.saliency(model, [(images[:2], labels[:2]), (images[2:], labels[2:])], GENERATOR)
    for name, score in whole.items():
        torch.testing.assert_close(parts[name], score)


def test_what_fisher_can_not_do_is_refused() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(4 * 9 * 9, 2))
    with pytest.raises(ValueError, match="ConvTranspose2d"):
        gradients.fisher(model, [(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))], GENERATOR)


@pytest.mark.parametrize("name", ["gradient_norm", "saliency", "taylor", "fisher"])
def test_no_data_is_an_error(name: Any) -> None:
    with pytest.raises(ValueError, match="needs data"):
        getattr(gradients, name)(nn.Linear(2, 2), [], GENERATOR)
