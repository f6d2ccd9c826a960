"""Networks by name: factories (num_classes, in_shape) -> nn.Module with random weights.

All can be traced by torch.fx.symbolic_trace, as channel surgery requires. At 32x32 and 10 classes:

    ResNet-18  11.17 M parameters  555 M MACs      ResNet-20         0.27 M parameters   41 M MACs
    ResNet-50  23.52 M            1298 M           ResNet-56         0.86 M             126 M
    VGG-16-BN  14.73 M             313 M           MobileNetV3-Small 1.53 M             5.5 M
    GoogLeNet   5.60 M             452 M           EfficientNet-B0   4.02 M              32 M
    ConvNeXt-T 27.82 M             363 M
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn
from torchvision.models import ResNet, get_model, vgg
from torchvision.models.resnet import BasicBlock, Bottleneck

from models import packages
from models.own_functions import FORMS, called, imported

Shape = tuple[int, int, int]
Factory = Callable[[int, Shape], nn.Module]

LARGEST_CIFAR_IMAGE = 64  # pixels; the CIFAR stem keeps full resolution, too expensive for larger images


def build(name: str, num_classes: int, in_shape: Shape = (3, 32, 32)) -> nn.Module:
    """A network of MODELS or of a package, or a user's own function (num_classes, in_shape).

    name: of MODELS; `torchvision/resnet18` and such, see `packages`; or of a function, see `own_functions`.
    in_shape: (channels, height, width) of one input; the output is logits (batch, num_classes).
    Raises ValueError for an unknown name, a factory that cannot be imported, and shapes the network does not support.
    """
    if num_classes < 1 or len(in_shape) != 3 or min(in_shape) < 1:
        raise ValueError(
            f"model {name}: {num_classes} classes of inputs {tuple(in_shape)}: expected at least one class, "
            "and (channels, height, width), each at least 1"
        )
    channels, height, width = in_shape
    shape = (channels, height, width)
    if packages.holds(name):
        return packages.build(name, num_classes, shape)
    if ":" not in name and name not in MODELS:
        raise ValueError(f"model {name!r} is unknown; choose from {', '.join(MODELS)}, {packages.FORMS}, or {FORMS}")
    if name in MODELS:
        return MODELS[name](num_classes, shape)
    model = called(imported(name), f"model {name}: called with ({num_classes}, {shape}) it", num_classes, shape)
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name}: the factory returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _resnet(block: type[BasicBlock | Bottleneck], depths: list[int], num_classes: int, in_shape: Shape) -> nn.Module:
    """ResNet from torchvision (He et al. 2016, arXiv 1512.03385, section 4.1).

    For images of up to 64 pixels it has the CIFAR stem: a 3x3 convolution of stride 1 and no max-pooling.
    """
    model: nn.Module = ResNet(block, depths, num_classes)
    channels, *size = in_shape
    if max(size) <= LARGEST_CIFAR_IMAGE:
        model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    _initialise(model.conv1)
    return model


def _cifar_resnet(blocks: int, num_classes: int, in_shape: Shape) -> nn.Module:
    """The CIFAR ResNet of depth 6 * blocks + 2 (He et al. 2016, arXiv 1512.03385, section 4.2).

    Shortcuts that change the shape are 1x1 projections (option B), which can be cut like any convolution; the paper
    pads with zero channels (option A). Modules are named as in torchvision's ResNet.
    """
    return _initialise(
        nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(in_shape[0], 16, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(16),
                relu=nn.ReLU(inplace=True),
                layer1=_stage(blocks, 16, 16, stride=1),
                layer2=_stage(blocks, 16, 32, stride=2),
                layer3=_stage(blocks, 32, 64, stride=2),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(64, num_classes),
            )
        )
    )


def _stage(blocks: int, channels: int, width: int, stride: int) -> nn.Sequential:
    """Basic blocks (B, channels, H, W) -> (B, width, H / stride, W / stride); the first changes the shape."""
    shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    first = BasicBlock(channels, width, stride, shortcut if stride > 1 else None)
    return nn.Sequential(first, *(BasicBlock(width, width) for _ in range(blocks - 1)))


def _vgg_bn(layers: str, num_classes: int, in_shape: Shape) -> nn.Module:
    """VGG features with batch norm from torchvision (arXiv 1409.1556), global pooling and one linear classifier.

    layers: "A", "D" or "E", of the paper's table 1. The paper's classifier would be 120 M of 134 M parameters.
    Raises ValueError for images too small for five poolings.
    """
    if min(in_shape[1:]) < 32:
        raise ValueError(f"VGG halves its input five times: images of {in_shape[1:]} are too small, 32 pixels at least")
    features = vgg.make_layers(vgg.cfgs[layers], batch_norm=True)
    features[0] = nn.Conv2d(in_shape[0], 64, 3, padding=1)
    classifier = nn.Linear(512, num_classes)
    parts = OrderedDict(features=features, avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier)
    return _initialise(nn.Sequential(parts))


def _from_torchvision(
    name: str, num_classes: int, in_shape: Shape, kernel: int = 3, stride: int = 1, smallest: int = 1, **options: bool
) -> nn.Module:
    """A torchvision network by name, with torchvision's initialisation.

    For images of up to 64 pixels the first convolution is kernel x kernel with half the original stride (`stride`), so
    that 32 pixels are enough. Raises ValueError for images of less than `smallest` pixels.
    """
    channels, *size = in_shape
    if min(size) < smallest:
        raise ValueError(f"{name}: images of {tuple(size)} are too small, {smallest} pixels at least")
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **options)
    path, stem = next((path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Conv2d))
    shape: dict[str, Any] = {key: getattr(stem, key) for key in ("kernel_size", "stride", "padding")}
    if max(size) <= LARGEST_CIFAR_IMAGE:
        shape = {"kernel_size": kernel, "stride": stride, "padding": (kernel - stride) // 2}
    bias = stem.bias is not None
    model.set_submodule(path, _initialise(nn.Conv2d(channels, stem.out_channels, bias=bias, **shape)))
    return model


def _googlenet(num_classes: int, in_shape: Shape) -> nn.Module:
    """GoogLeNet with batch norm from torchvision (arXiv 1409.4842, 1502.03167), without auxiliary classifiers.

    For images of up to 64 pixels the first max-pooling is removed too.
    """
    model = _from_torchvision("googlenet", num_classes, in_shape, smallest=4, aux_logits=False, init_weights=True)
    if max(in_shape[1:]) <= LARGEST_CIFAR_IMAGE:
        model.maxpool1 = nn.Identity()
    return model


def _initialise(model: nn.Module) -> nn.Module:
    """Initialise convolutions as torchvision does (He et al. 2015, arXiv 1502.01852, fan out); nothing else changes."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


MODELS: dict[str, Factory] = {
    "resnet8": partial(_cifar_resnet, 1),
    "resnet20": partial(_cifar_resnet, 3),
    "resnet56": partial(_cifar_resnet, 9),
    "resnet18": partial(_resnet, BasicBlock, [2, 2, 2, 2]),
    "resnet34": partial(_resnet, BasicBlock, [3, 4, 6, 3]),
    "resnet50": partial(_resnet, Bottleneck, [3, 4, 6, 3]),
    "vgg11_bn": partial(_vgg_bn, "A"),
    "vgg16_bn": partial(_vgg_bn, "D"),
    "vgg19_bn": partial(_vgg_bn, "E"),
    "googlenet": _googlenet,
    "mobilenet_v3_small": partial(_from_torchvision, "mobilenet_v3_small"),  # arXiv 1905.02244
    "efficientnet_b0": partial(_from_torchvision, "efficientnet_b0"),  # arXiv 1905.11946
    "convnext_tiny": partial(_from_torchvision, "convnext_tiny", kernel=2, stride=2, smallest=16),  # arXiv 2201.03545
}
