"""Maps of strides 8, 16 and 32 from whatever strides a timm model has.

Most models have the three. Those that lack one get it from their nearest map: transposed
convolutions make a finer one, max pooling a coarser one. A plain ViT has one stride only; all three
come from its last map, the simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527,
section 3). A stride that is no power of two (14-pixel patches) is resampled to the nearest one.

    h, w: cells of a map; its stride is the number of input pixels a cell stands for
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from components.errors import ModelError

DETECTION_STRIDES = (8, 16, 32)  # C3, C4, C5 (Lin et al. 2017)
PYRAMID_CHANNELS = 256  # ViTDet, appendix A.2


@dataclass(frozen=True)
class Level:
    """How one map of a backbone comes about.

    Attributes:
        source: position among timm's features.
        stride: of that feature, input pixels.
        target: wanted stride, input pixels.
    """

    source: int
    stride: int
    target: int


def plan_levels(reductions: list[int]) -> list[Level]:
    """Which of timm's features each of the strides 8, 16 and 32 is made of.

    Args:
        reductions: of timm's features, in timm's order.

    Raises:
        ModelError: the features are too coarse or too fine for that.
    """
    # Of features with the same stride the deepest is meant: later entries replace earlier ones.
    deepest = {nearest_power_of_two(stride): index for index, stride in enumerate(reductions)}
    levels = []
    for target in DETECTION_STRIDES:
        # A coarser map knows more of the image than a finer one, so it is asked first.
        coarser = sorted(stride for stride in deepest if stride >= target)
        finer = sorted((stride for stride in deepest if stride < target), reverse=True)
        source = (coarser + finer)[0] if deepest else 0
        if not 4 <= source <= 64:
            raise ModelError(
                f"its feature maps have strides {reductions}, from which those that a detector "
                f"needs, {list(DETECTION_STRIDES)}, cannot be made"
            )
        index = deepest[source]
        levels.append(Level(index, reductions[index], target))
    return levels


def nearest_power_of_two(stride: int) -> int:
    """14 gives 16; 12 gives 16 (the ratio decides)."""
    return 2 ** round(math.log2(stride))


class LevelFromMap(nn.Module):
    """One map of a feature, brought to a stride.

    Args:
        channels: of the feature.
        stride: of the feature, input pixels.
        target: a power of two, input pixels.
        smooth_channels: of the map after ViTDet's two last convolutions; None goes without them.

    Attributes:
        channels: of the map it gives.
        stride: of the map it gives.
    """

    def __init__(self, channels: int, stride: int, target: int, smooth_channels: int | None = None):
        super().__init__()
        self.source_stride = stride
        self.nominal_stride = nearest_power_of_two(stride)
        self.stride = target
        self.resamples = self.nominal_stride != stride
        layers, channels = _rescale(channels, self.nominal_stride, target)
        if smooth_channels is not None:
            layers += _smooth(channels, smooth_channels)
            channels = smooth_channels
        self.layers = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """The map.

        Args:
            features: [B, channels, h, w].
            image_size: height and width that the features were made from, pixels.
        """
        if self.resamples:
            features = _resample(features, self.source_stride, self.nominal_stride, image_size)
        return self.layers(features)


def _rescale(channels: int, stride: int, target: int) -> tuple[list[nn.Module], int]:
    """Layers that bring a map from one power of two to another, and the channels then."""
    layers: list[nn.Module] = []
    while stride > target:
        if layers:
            layers += [LayerNorm2d(channels), nn.GELU()]
        halved = max(channels // 2, 1)
        layers.append(nn.ConvTranspose2d(channels, halved, 2, stride=2))
        channels, stride = halved, stride // 2
    if stride < target:
        layers.append(nn.MaxPool2d(target // stride, ceil_mode=True))
    return layers, channels


def _smooth(channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, out_channels, 1, bias=False),
        LayerNorm2d(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        LayerNorm2d(out_channels),
    ]


def _resample(features: Tensor, stride: int, nominal: int, image_size: tuple[int, int]) -> Tensor:
    """A map as it would be with another stride: bilinear, at the centres of the new cells."""
    scales = []
    for cells, pixels in zip(features.shape[-2:], image_size, strict=True):
        # timm rounds some strides (CrossViT's 240 / 14 is "17"); then the cells tell better.
        exact = stride if math.ceil(pixels / stride) == cells else pixels / cells
        scales.append(exact / nominal)
    return F.interpolate(features, scale_factor=scales, mode="bilinear", align_corners=False)
