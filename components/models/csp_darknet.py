"""CSPDarknet, the body of YOLOX, and the blocks its neck and head are made of.

Modules are named as in the official state dict (Megvii-BaseDetection/YOLOX), so that its weights
load key for key.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Of every batch norm in the official recipe; PyTorch's own are 1e-5 and 0.1.
_BATCH_NORM_EPS = 1e-3
_BATCH_NORM_MOMENTUM = 0.03


class ConvUnit(nn.Module):
    """Convolution that keeps the size (over its stride), batch norm, SiLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
    ):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels, _BATCH_NORM_EPS, _BATCH_NORM_MOMENTUM)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H / stride, W / stride], rounded up."""
        return self.act(self.bn(self.conv(x)))


class SeparableConvUnit(nn.Module):
    """The cheaper unit of yolox-nano: one filter a channel, then a mix of the channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.dconv = ConvUnit(in_channels, in_channels, kernel, stride, groups=in_channels)
        self.pconv = ConvUnit(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """As `ConvUnit.forward`."""
        return self.pconv(self.dconv(x))


def spatial_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, depthwise: bool = False
) -> nn.Module:
    """A unit that looks at neighbours: plain, or depthwise separable."""
    unit = SeparableConvUnit if depthwise else ConvUnit
    return unit(in_channels, out_channels, kernel, stride)


class Bottleneck(nn.Module):
    """1x1 then 3x3 convolution at constant width, with or without the input added."""

    def __init__(self, channels: int, shortcut: bool, depthwise: bool):
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1)
        self.conv2 = spatial_conv(channels, channels, 3, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] to the same."""
        y = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CspStage(nn.Module):
    """Half the channels pass `num_blocks` bottlenecks, half go round (arXiv:1911.11929)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_blocks: int,
        shortcut: bool = True,
        depthwise: bool = False,
    ):
        super().__init__()
        half = out_channels // 2
        self.conv1 = ConvUnit(in_channels, half, 1)
        self.conv2 = ConvUnit(in_channels, half, 1)
        self.conv3 = ConvUnit(2 * half, out_channels, 1)
        self.m = nn.Sequential(*(Bottleneck(half, shortcut, depthwise) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H, W]."""
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], dim=1))


class PyramidPooling(nn.Module):
    """The map beside its maxima over growing windows: context at no loss of resolution."""

    def __init__(self, in_channels: int, out_channels: int, windows: tuple[int, ...] = (5, 9, 13)):
        super().__init__()
        half = in_channels // 2
        self.conv1 = ConvUnit(in_channels, half, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in windows)
        self.conv2 = ConvUnit(half * (len(windows) + 1), out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H, W]."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


class Focus(nn.Module):
    """The stem: each 2x2 block of pixels becomes one cell of four times the channels."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__()
        self.conv = ConvUnit(in_channels * 4, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] to [B, out, H / 2, W / 2]; H and W even."""
        top, bottom = x[..., ::2, :], x[..., 1::2, :]
        # The official order: the left column's two pixels, then the right column's.
        quarters = [top[..., ::2], bottom[..., ::2], top[..., 1::2], bottom[..., 1::2]]
        return self.conv(torch.cat(quarters, dim=1))


class CspDarknet(nn.Module):
    """Stem and four stages; gives the maps of strides 8, 16 and 32.

    Args:
        depth: share of the blocks of yolox-l.
        width: share of the channels of yolox-l.
        depthwise: separable convolutions (yolox-nano).

    Attributes:
        channels: of each map.
        strides: input pixels per cell of each map.
    """

    strides = (8, 16, 32)

    def __init__(self, depth: float, width: float, depthwise: bool = False):
        super().__init__()
        base = int(width * 64)
        blocks = max(round(depth * 3), 1)
        self.channels = (base * 4, base * 8, base * 16)
        self.stem = Focus(3, base, 3)

        def halve(channels: int) -> nn.Module:
            return spatial_conv(channels, channels * 2, 3, 2, depthwise)

        def stage(channels: int, num_blocks: int, shortcut: bool = True) -> nn.Module:
            return CspStage(channels, channels, num_blocks, shortcut, depthwise)

        self.dark2 = nn.Sequential(halve(base), stage(base * 2, blocks))
        self.dark3 = nn.Sequential(halve(base * 2), stage(base * 4, blocks * 3))
        self.dark4 = nn.Sequential(halve(base * 4), stage(base * 8, blocks * 3))
        self.dark5 = nn.Sequential(
            halve(base * 8),
            PyramidPooling(base * 16, base * 16),
            stage(base * 16, blocks, shortcut=False),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] to maps [B, channels, H / stride, W / stride]."""
        c3 = self.dark3(self.dark2(self.stem(images)))
        c4 = self.dark4(c3)
        return [c3, c4, self.dark5(c4)]
