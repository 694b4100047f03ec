"""The FCOS network: backbone, feature pyramid P3-P7, shared head. It only predicts."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from components.models.backbones import FeatureBackbone
from components.models.vision_module import VisionNetwork

Distance = Literal["exp", "relu"]

_MAX_LOG_DISTANCE = 7.0  # exp(7) strides is wider than any image; keeps early training finite


class ExtraLevels(ExtraFPNBlock):
    """Coarser levels, each a strided convolution of the one before, from P5, not C5."""

    def __init__(self, channels: int, num_levels: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(num_levels)
        )

    def forward(
        self, results: list[Tensor], x: list[Tensor], names: list[str]
    ) -> tuple[list[Tensor], list[str]]:
        """Append the levels to `results`."""
        last = results[-1]
        for number, conv in enumerate(self.convs):
            last = conv(last if number == 0 else torch.relu(last))
            results.append(last)
            names.append(f"extra{number}")
        return results, names


def _tower(channels: int, num_convs: int, conv_bias: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1, bias=conv_bias),
            # Eight channels a group, as FCOS's 32 groups of 256 channels.
            nn.GroupNorm(channels // 8, channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def create_pyramid(in_channels: list[int], channels: int, num_levels: int) -> FeaturePyramidNetwork:
    """A feature pyramid over a backbone's maps; levels it lacks are added at the coarse end."""
    extra = num_levels - len(in_channels)
    return FeaturePyramidNetwork(
        in_channels, channels, extra_blocks=ExtraLevels(channels, extra) if extra > 0 else None
    )


def pyramid_levels(fpn: FeaturePyramidNetwork, maps: list[Tensor]) -> list[Tensor]:
    """The pyramid over a backbone's maps, finest level first."""
    if maps[0].device.type == "cpu":
        # A backbone gains from channels last, the dense convolutions from here on lose by it: a
        # step with EfficientNet-Lite0 is 7 % faster so. A GPU keeps what it is given.
        maps = [level.contiguous() for level in maps]
    named = OrderedDict((str(number), level) for number, level in enumerate(maps))
    return list(fpn(named).values())


class FcosHead(nn.Module):
    """Two towers shared by all levels: classes; and box sides with centerness.

    See `FcosNetwork` for the arguments.

    Raises:
        ValueError: `distance` is not known.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        num_convs: int,
        num_levels: int,
        prior: float = 0.01,
        distance: Distance = "exp",
        conv_bias: bool = False,
    ):
        super().__init__()
        if distance not in ("exp", "relu"):
            raise ValueError(f"unknown distance {distance!r}; allowed: exp, relu")
        self.distance = distance
        self.cls_tower = _tower(channels, num_convs, conv_bias)
        self.reg_tower = _tower(channels, num_convs, conv_bias)
        self.cls_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_sides = nn.Conv2d(channels, 4, 3, padding=1)
        self.center_logits = nn.Conv2d(channels, 1, 3, padding=1)
        # The level's range of sizes is learnt, so that one head serves all (FCOS, section 3.2).
        self.scales = nn.Parameter(torch.ones(num_levels))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        # At the start every point says "an object" with this probability (RetinaNet, section 3.3).
        with torch.no_grad():
            cast(Tensor, self.cls_logits.bias).fill_(-math.log((1 - prior) / prior))

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Raw outputs of each level; see `FcosNetwork.forward`."""
        classes, sides, centers = [], [], []
        for level, features in enumerate(pyramid):
            classes.append(self.cls_logits(self.cls_tower(features)))
            raw_sides, center = self._boxes(self.reg_tower(features))
            sides.append(self._to_distance(raw_sides * self.scales[level]))
            centers.append(center)
        return classes, sides, centers

    def _boxes(self, tower: Tensor) -> tuple[Tensor, Tensor]:
        """Raw sides [B, 4, h, w] and centerness [B, 1, h, w], by one convolution.

        Convolutions of so few channels cost alike, so one of five takes half the time of two.
        """
        layers = self.box_sides, self.center_logits
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([cast(Tensor, layer.bias) for layer in layers])
        sides, center = F.conv2d(tower, weight, bias, padding=1).split([4, 1], dim=1)
        return sides, center

    def _to_distance(self, raw: Tensor) -> Tensor:
        if self.distance == "relu":
            return raw.relu()
        return raw.clamp(max=_MAX_LOG_DISTANCE).exp()


class FcosNetwork(VisionNetwork):
    """Backbone, pyramid, head (Tian et al. 2019, arXiv:1904.01355).

    Args:
        backbone: gives the maps of strides 8, 16 and 32.
        num_classes: without background.
        fpn_channels: of every pyramid level.
        head_num_convs: of each tower.
        num_levels: of the pyramid; what the backbone lacks is added at the coarse end.
        distance: what makes a side's distance positive. `exp` (FCOS) always learns; `relu` is for
            weights trained with it (torchvision's) and is zero, without a gradient, below zero.
        conv_bias: the towers' convolutions have a bias, which the norm that follows makes idle but
            for its group's mean; torchvision's have one.
    """

    def __init__(
        self,
        backbone: FeatureBackbone,
        num_classes: int,
        fpn_channels: int = 256,
        head_num_convs: int = 4,
        num_levels: int = 5,
        distance: Distance = "exp",
        conv_bias: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.fpn = create_pyramid(backbone.channels, fpn_channels, num_levels)
        self.head = FcosHead(
            fpn_channels,
            num_classes,
            head_num_convs,
            num_levels,
            distance=distance,
            conv_bias=conv_bias,
        )

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Raw outputs.

        Args:
            images: normalised, [B, 3, H, W].

        Returns:
            A tensor per level: class logits [B, C, h, w]; distances to the left, top, right and
            bottom side in strides [B, 4, h, w], never negative; centerness logits [B, 1, h, w].
        """
        return self.head(pyramid_levels(self.fpn, self.backbone(images)))
