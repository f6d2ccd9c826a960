"""The zoo: published sizes, torchvision's own weights, tracing, and every refusal."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import MODELS, build, imported, source


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def output_and_macs(model: nn.Module, in_shape: tuple[int, int, int]) -> tuple[torch.Tensor, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        output = model.eval()(torch.randn(1, *in_shape))
    return output, counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "million_parameters", "million_macs"),
    [
        ("resnet18", 11.17, 555),
        ("resnet50", 23.52, 1298),
        ("vgg16_bn", 14.73, 313),
        ("resnet20", 0.27, 41),
        ("resnet56", 0.86, 126),
        ("googlenet", 5.60, 452),
        ("mobilenet_v3_small", 1.53, 5.5),
        ("efficientnet_b0", 4.02, 32),
        ("convnext_tiny", 27.82, 363),
    ],
)
def test_sizes_at_32_pixels_are_those_of_the_docstring(name: Any, million_parameters: Any, million_macs: Any) -> None:
    model = build(name, 10)
    output, macs = output_and_macs(model, (3, 32, 32))
    assert output.shape == (1, 10)
    assert round(parameters(model) / 1e6, 2) == million_parameters
    assert abs(macs / 1e6 - million_macs) <= 0.6


def test_a_cifar_resnet_is_what_the_paper_counts_and_the_projections() -> None:
    # 3x3 convolutions and norms of stages 16, 32, 64 and the classifier, by hand for n blocks each.
    for name, n in [("resnet8", 1), ("resnet20", 3), ("resnet56", 9)]:
        model = build(name, 10)
        stem, classifier = 27 * 16 + 32, 64 * 10 + 10
        stages = sum(2 * n * (9 * w * w + 2 * w) for w in (16, 32, 64)) - 9 * (16 * 32 + 32 * 64)
        projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
        assert parameters(model) == stem + stages + classifier + projections
        convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert sum(c.kernel_size == (3, 3) for c in convolutions) == 6 * n + 1
        assert sum(c.kernel_size == (1, 1) for c in convolutions) == 2


@pytest.mark.parametrize("name", MODELS)
def test_every_network_traces_and_its_trace_computes_the_same(name: Any) -> None:
    model = build(name, 7, (3, 32, 32)).eval()
    traced = torch.fx.symbolic_trace(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(traced(images), model(images))


ADAPTED = ["googlenet", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"]


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "vgg11_bn", *ADAPTED])
@pytest.mark.parametrize("in_shape", [(1, 32, 32), (4, 40, 36)])
def test_channels_classes_and_sizes_are_free(name: Any, in_shape: Any) -> None:
    assert output_and_macs(build(name, 3, in_shape), in_shape)[0].shape == (1, 3)


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50", *ADAPTED[:3]])
def test_most_take_eight_pixel_digits(name: Any) -> None:
    assert output_and_macs(build(name, 10, (1, 8, 8)), (1, 8, 8))[0].shape == (1, 10)


def test_the_stem_keeps_the_resolution_up_to_64_pixels_and_not_above() -> None:
    for size, first_stage in [(64, 64), (65, 17), (128, 32)]:  # 65: 7x7 of stride 2 -> 33, pooled -> 17
        model = build("resnet18", 2, (3, size, size)).eval()
        seen: list[tuple[int, ...]] = []
        model.layer1.register_forward_hook(lambda _m, _i, output, seen=seen: seen.append(tuple(output.shape)))
        model(torch.zeros(1, 3, size, size))
        assert seen == [(1, 64, first_stage, first_stage)]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", *ADAPTED])
def test_above_64_pixels_a_network_takes_torchvisions_weights_and_answers_alike(name: Any) -> None:
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    theirs = torchvision.models.get_model(name, weights=None, num_classes=5, **options).eval()
    ours = build(name, 5, (3, 96, 96)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["vgg11_bn", "vgg16_bn", "vgg19_bn"])
def test_vgg_features_are_torchvisions_by_name_and_shape(name: Any) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
    ours = build(name, 5).state_dict()
    shapes = {k: v.shape for k, v in ours.items() if k.startswith("features.")}
    assert shapes == {k: v.shape for k, v in theirs.items() if k.startswith("features.")}
    assert {k: tuple(v.shape) for k, v in ours.items() if k not in shapes} == {
        "classifier.weight": (5, 512),
        "classifier.bias": (5,),
    }


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg11_bn"])
def test_convolutions_start_at_he_scale_and_a_gradient_reaches_every_parameter(name: Any) -> None:
    torch.manual_seed(0)
    model = build(name, 4, (3, 32, 32)).train()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 400:
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
            assert layer.bias is None or not layer.bias.any()
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    # The bias of a convolution before batch norm has a gradient of zero; of all other parameters none has.
    assert all(p.grad.any() for n, p in model.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    ("name", "in_shape"),
    [
        ("vgg16_bn", (3, 31, 32)),
        ("vgg16_bn", (3, 32, 16)),
        ("vgg16_bn", (1, 8, 8)),
        ("convnext_tiny", (3, 16, 15)),
        ("googlenet", (3, 3, 3)),
    ],
)
def test_images_that_poolings_and_strides_leave_nothing_of_are_refused(name: Any, in_shape: Any) -> None:
    with pytest.raises(ValueError, match="too small"):
        build(name, 10, in_shape)


@pytest.mark.parametrize("name", ADAPTED)
def test_half_the_stem_is_half_the_stride(name: Any) -> None:
    """At 32 pixels the stages have the sizes that torchvision's own network has at 64 (GoogLeNet: 128)."""
    seen = {}
    theirs = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    for model, side in [
        (build(name, 5), 32),
        (torchvision.models.get_model(name, weights=None, **theirs), 128 if theirs else 64),
    ]:
        model.eval().avgpool.register_forward_hook(lambda _m, i, _o, side=side: seen.update({side: i[0].shape}))
        model(torch.zeros(1, 3, side, side))
    small, large = seen.values()
    assert small == large
    assert small[2] > 1


@pytest.mark.parametrize(
    ("num_classes", "in_shape"), [(0, (3, 32, 32)), (10, (3, 32)), (10, (0, 32, 32)), (10, (3, 0, 32))]
)
def test_impossible_shapes_are_refused(num_classes: Any, in_shape: Any) -> None:
    with pytest.raises(ValueError, match="at least"):
        build("resnet8", num_classes, in_shape)


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"resnet19.*choose from.*resnet18.*vgg19_bn.*package\.module:function, or path"
    ):
        build("resnet19", 10)


USERS_MODULE = """
from torch import nn

def linear(num_classes, in_shape):
    channels, height, width = in_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))

def text(num_classes, in_shape):
    return "a network"

number = 3
"""


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "users_networks.py").write_text(USERS_MODULE)
    (tmp_path / "users_unfinished.py").write_text("def linear(:\n")
    (tmp_path / "users_broken.py").write_text("import no_such_package_of_theirs\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in ("users_networks", "users_broken"):
        sys.modules.pop(name, None)


def test_a_users_factory_is_found_in_the_current_directory(users_folder: Any) -> None:
    model = build("users_networks:linear", 3, (2, 4, 4))
    assert model(torch.zeros(5, 2, 4, 4)).shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("users_nowhere:linear", "No module named 'users_nowhere'"),
        ("users_broken:linear", "No module named 'no_such_package_of_theirs'"),
        ("users_networks:conv", "no function 'conv'"),
        ("users_networks:number", "no function 'number'"),
        ("users_networks:text", "returned a str"),
        ("users_networks:", "expected package.module:function"),
        (":linear", "expected package.module:function"),
        (".users_networks:linear", "expected package.module:function"),
        ("users_networks:a:b", "expected package.module:function, or path/file.py:function"),
        ("users/networks:linear", "expected package.module:function, or path/file.py:function"),
        ("users_networks.py:conv", "users_networks.py has no function 'conv'"),
        ("users_networks.py:text", "returned a str"),
        ("nets/nowhere.py:linear", r"there is no file .*nets/nowhere.py"),
        ("users_broken.py:linear", "No module named 'no_such_package_of_theirs'"),
        ("users_unfinished.py:linear", "SyntaxError"),
    ],
)
def test_a_factory_that_cannot_be_had_is_an_error_naming_it(users_folder: Any, name: Any, reason: Any) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        build(name, 3, (2, 4, 4))
    assert name in str(raised.value)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_users_factory_is_found_by_its_file_which_is_run_once(users_folder: Any, absolute: Any) -> None:
    (users_folder / "nets").mkdir()
    file = users_folder / "nets" / "linear.py"
    file.write_text(USERS_MODULE)
    name = f"{file if absolute else 'nets/linear.py'}:linear"
    assert build(name, 3, (2, 4, 4))(torch.zeros(5, 2, 4, 4)).shape == (5, 3)
    function = imported(name)
    assert source(name).samefile(file)
    file.unlink()
    assert imported(name) is function
    assert pickle.loads(pickle.dumps(function)) is function


def test_files_of_one_name_in_two_folders_are_two_modules(users_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in ("1", "2"):
        (users_folder / number).mkdir()
        (users_folder / number / "net.py").write_text(f"def number(): return {number}\n")
    monkeypatch.chdir("1")
    first = imported("net.py:number")
    monkeypatch.chdir("../2")
    assert (first(), imported("net.py:number")()) == (1, 2)
