"""Networks of torchvision and timm, against those packages' own constructors. Nothing is downloaded."""

import sys
import urllib.error
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import models
from models import packages


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v3_small", "squeezenet1_1"])
def test_a_network_of_torchvision_is_the_one_its_constructor_makes(name: str) -> None:
    options = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    own = getattr(torchvision.models, name)(num_classes=7, **options).state_dict()
    torch.manual_seed(0)
    found = models.build(f"torchvision/{name}", 7, (3, 96, 96)).state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[key], found[key]) for key in own)


def test_a_transformer_is_told_the_size_of_the_images() -> None:
    with torch.device("meta"):
        model = models.build("torchvision/vit_b_16", 5, (3, 64, 64))
    assert model.get_parameter("encoder.pos_embedding").shape == (1, (64 // 16) ** 2 + 1, 768)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("torchvision/resnet81", (3, 32, 32), "torchvision has no network 'resnet81'; choices: .*resnet18"),
        ("torchvision/resnet18", (1, 32, 32), "takes images of 3 channels, not 1"),
        ("torchvision/vit_b_16", (3, 30, 30), "ended|raised"),
        ("torchvision/", (3, 30, 30), "torchvision has no network ''"),
    ],
)
def test_what_a_package_does_not_build_is_refused(name: str, shape: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason), torch.device("meta"):
        models.build(name, 5, shape)


def test_without_timm_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="model timm/resnet10t: needs the package timm.*: pip install timm"):
        models.build("timm/resnet10t", 5)
    with pytest.raises(ValueError, match="pip install timm"):
        models.pretrained("timm/resnet10t", "DEFAULT", (3, 32, 32))


class Timm:
    """As much of timm as is used, and what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def create_model(self, name: str, **options: Any) -> nn.Module:
        self.asked.append((name, options))
        return nn.Linear(2, options.get("num_classes", 1000))

    def is_model(self, name: str) -> bool:
        return name.partition(".")[0] in self.list_models()

    def list_models(self) -> list[str]:
        return ["resnet10t", "vit_tiny"]

    def list_pretrained(self, pattern: str) -> list[str]:
        return [pattern.replace("*", "c3_in1k")]

    def get_pretrained_cfg(self, name: str, allow_unregistered: bool) -> Any:
        return SimpleNamespace(fixed_input_size=name.startswith("vit"))


def test_timm_is_asked_for_classes_channels_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    timm: Any = Timm()
    monkeypatch.setitem(sys.modules, "timm", timm)
    models.build("timm/resnet10t", 5, (1, 32, 32))
    models.build("timm/vit_tiny", 5, (3, 64, 48))
    models.pretrained("timm/resnet10t", "DEFAULT", (1, 32, 32))
    models.pretrained("timm/resnet10t.x", "c3_in1k", (3, 32, 32))
    assert timm.asked == [
        ("resnet10t", {"num_classes": 5, "in_chans": 1}),
        ("vit_tiny", {"num_classes": 5, "in_chans": 3, "img_size": (64, 48)}),
        ("resnet10t", {"pretrained": True, "in_chans": 1}),
        ("resnet10t.c3_in1k", {"pretrained": True, "in_chans": 3}),
    ]
    with pytest.raises(ValueError, match="timm has no network 'resnet11t'; choices: resnet10t"):
        models.build("timm/resnet11t", 5)
    with pytest.raises(
        ValueError, match="weights mine: timm/resnet10t has none of that name; choices: DEFAULT, c3_in1k"
    ):
        models.pretrained("timm/resnet10t", "mine", (3, 32, 32))


def test_weights_of_torchvision_are_those_its_constructor_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The download is replaced by a file that is there; the rest is torchvision's."""
    trained = torchvision.models.squeezenet1_1().state_dict()
    asked = []

    def download(url: str, *_: Any, **__: Any) -> Any:
        print("Downloading")
        asked.append(url)
        return trained

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    found = models.pretrained("torchvision/squeezenet1_1", "IMAGENET1K_V1", (3, 32, 32))
    assert asked == [torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1.url]
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.items())
    with pytest.raises(ValueError, match="weights V7: torchvision/squeezenet1_1 has none of .* choices: IMAGENET1K_V1"):
        models.pretrained("torchvision/squeezenet1_1", "V7", (3, 32, 32))


def test_without_a_connection_there_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        print("Downloading", file=sys.stderr)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match="weights DEFAULT of torchvision/squeezenet1_1 cannot be had: .*no route"):
        models.pretrained("torchvision/squeezenet1_1", "DEFAULT", (3, 32, 32))
    assert capsys.readouterr().err == ""


def test_only_the_names_of_packages_are_theirs() -> None:
    names = {"torchvision/resnet18": True, "timm/a.b": True, "resnet18": False, "torchvision/mine.py:net": False}
    assert {name: packages.holds(name) for name in names} == names
