"""ResNets for CIFAR-10 as in He et al. 2015 (arXiv:1512.03385, section 4.2), with shortcuts padded by zeros (option A).

Parameters have the names of akamaster/pytorch_resnet_cifar10, so that its published checkpoints fit.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer


class PadShortcut(nn.Module):
    """Every second pixel, and as many channels of zeros before and behind as are missing."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing = missing

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.pad(inputs[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing // 2))


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, 1 if before == channels else 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if before == channels else PadShortcut(channels - before)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        inner = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(inputs))


class ResNet(nn.Module):
    """Three stages of `blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(before: int, channels: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(Block(before, channels), *(Block(channels, channels) for _ in range(blocks - 1)))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, classes)."""
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        return self.linear(F.adaptive_avg_pool2d(features, 1).flatten(1))


def resnet20(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """The network of `resnet20-12fca82f.th`."""
    return ResNet(3, num_classes, in_shape[0])


def resnet56(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """The network of `resnet56-4bfd9763.th`."""
    return ResNet(9, num_classes, in_shape[0])


def vision_transformer(num_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
    """A small vision transformer (arXiv:2010.11929) of torchvision: 4 layers, 4 heads, width 96, patches of 4."""
    return VisionTransformer(
        image_size=in_shape[1], patch_size=4, num_layers=4, num_heads=4, hidden_dim=96, mlp_dim=192,
        num_classes=num_classes,
    )  # fmt: skip
