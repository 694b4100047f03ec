"""The YOLOX network: body, PAFPN neck, decoupled head. It only predicts.

Shapes: B images, C classes, h x w cells of a level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.models.backbones import FeatureBackbone
from components.models.csp_darknet import ConvUnit, CspDarknet, CspStage, spatial_conv
from components.models.fcos_network import create_pyramid, pyramid_levels
from components.models.vision_module import VisionNetwork

RawLevels = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class YoloxSize:
    """One of the published networks.

    Attributes:
        depth, width: blocks and channels as shares of yolox-l's.
        depthwise: separable convolutions in place of plain ones.
        input_size: (height, width) it was published at, pixels.
    """

    depth: float
    width: float
    depthwise: bool = False
    input_size: tuple[int, int] = (640, 640)


# Megvii-BaseDetection/YOLOX, exps/default.
YOLOX_SIZES = {
    "yolox-nano": YoloxSize(0.33, 0.25, depthwise=True, input_size=(416, 416)),
    "yolox-tiny": YoloxSize(0.33, 0.375, input_size=(416, 416)),
    "yolox-s": YoloxSize(0.33, 0.50),
    "yolox-m": YoloxSize(0.67, 0.75),
    "yolox-l": YoloxSize(1.0, 1.0),
    "yolox-x": YoloxSize(1.33, 1.25),
}


class PathAggregationNeck(nn.Module):
    """CSPDarknet and PAFPN: context flows down to the fine maps, detail back up to the coarse.

    Attributes:
        channels, strides: of each map it gives.
    """

    def __init__(self, size: YoloxSize):
        super().__init__()
        depthwise = size.depthwise
        self.backbone = CspDarknet(size.depth, size.width, depthwise)
        self.channels, self.strides = self.backbone.channels, self.backbone.strides
        fine, middle, coarse = self.channels
        blocks = round(3 * size.depth)

        def merge(in_channels: int, out_channels: int) -> CspStage:
            return CspStage(in_channels, out_channels, blocks, shortcut=False, depthwise=depthwise)

        self.lateral_conv0 = ConvUnit(coarse, middle, 1)
        self.C3_p4 = merge(2 * middle, middle)
        self.reduce_conv1 = ConvUnit(middle, fine, 1)
        self.C3_p3 = merge(2 * fine, fine)
        self.bu_conv2 = spatial_conv(fine, fine, 3, 2, depthwise)
        self.C3_n3 = merge(2 * fine, middle)
        self.bu_conv1 = spatial_conv(middle, middle, 3, 2, depthwise)
        self.C3_n4 = merge(2 * middle, coarse)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W], H and W even, to maps of strides 8, 16 and 32."""
        c3, c4, c5 = self.backbone(images)
        top = self.lateral_conv0(c5)
        middle = self.reduce_conv1(self.C3_p4(_beside(top, c4)))
        n3 = self.C3_p3(_beside(middle, c3))
        n4 = self.C3_n3(torch.cat([self.bu_conv2(n3), middle], dim=1))
        n5 = self.C3_n4(torch.cat([self.bu_conv1(n4), top], dim=1))
        return [n3, n4, n5]


def _beside(coarse: Tensor, fine: Tensor) -> Tensor:
    """The coarse map enlarged to the fine one's size, and the fine one, as channels of one map."""
    # To the size, not by a factor of 2: sizes that 32 does not divide then work too.
    enlarged = F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
    return torch.cat([enlarged, fine], dim=1)


class YoloxHead(nn.Module):
    """Decoupled head: a branch for classes, one for boxes and objectness; own weights a level.

    Args:
        in_channels: of each level's map.
        channels: of the branches.
        num_classes: C, without background.
        num_convs: of each branch.
        depthwise: separable convolutions in the branches.
        prior: what every point says at the start of "an object" and of each class (RetinaNet,
            arXiv:1708.02002, section 3.3; the official 0.01).
    """

    def __init__(
        self,
        in_channels: tuple[int, ...],
        channels: int,
        num_classes: int,
        num_convs: int = 2,
        depthwise: bool = False,
        prior: float = 0.01,
    ):
        super().__init__()
        self.cls_convs = nn.ModuleList()
        self.reg_convs = nn.ModuleList()
        self.cls_preds = nn.ModuleList()
        self.reg_preds = nn.ModuleList()
        self.obj_preds = nn.ModuleList()
        self.stems = nn.ModuleList()

        def branch() -> nn.Sequential:
            return nn.Sequential(
                *(spatial_conv(channels, channels, 3, 1, depthwise) for _ in range(num_convs))
            )

        # The official order of creation too: from one seed both draw the same initial weights.
        for width in in_channels:
            self.stems.append(ConvUnit(width, channels, 1))
            self.cls_convs.append(branch())
            self.reg_convs.append(branch())
            self.cls_preds.append(nn.Conv2d(channels, num_classes, 1))
            self.reg_preds.append(nn.Conv2d(channels, 4, 1))
            self.obj_preds.append(nn.Conv2d(channels, 1, 1))
        for layer in [*self.cls_preds, *self.obj_preds]:
            nn.init.constant_(cast(Tensor, layer.bias), -math.log((1 - prior) / prior))

    def forward(self, pyramid: list[Tensor]) -> RawLevels:
        """Raw outputs of each level; see `YoloxNetwork.forward`."""
        classes, boxes, objectness = [], [], []
        for level, features in enumerate(pyramid):
            stem = self.stems[level](features)
            classes.append(self.cls_preds[level](self.cls_convs[level](stem)))
            branch = self.reg_convs[level](stem)
            boxes.append(self.reg_preds[level](branch))
            objectness.append(self.obj_preds[level](branch))
        return classes, boxes, objectness


class YoloxNetwork(VisionNetwork):
    """YOLOX as published (Ge et al. 2021, arXiv:2107.08430).

    Its state dict is the official one, key for key, and so are its outputs. The official weights
    expect BGR images of 0 to 255, not normalised, letterboxed to the top left with 114.

    Args:
        size: one of `YOLOX_SIZES`, or another.
        num_classes: C, without background.

    Attributes:
        strides: input pixels per cell of each level.
    """

    def __init__(self, size: YoloxSize, num_classes: int):
        super().__init__()
        self.backbone: PathAggregationNeck = PathAggregationNeck(size)
        self.strides = self.backbone.strides
        self.head = YoloxHead(
            self.backbone.channels, int(256 * size.width), num_classes, depthwise=size.depthwise
        )

    @property
    def features(self) -> nn.Module:
        """The body alone: a frozen backbone leaves the neck to learn."""
        return self.backbone.backbone

    def forward(self, images: Tensor) -> RawLevels:
        """Raw outputs.

        Args:
            images: [B, 3, H, W], H and W even.

        Returns:
            A tensor per level: class logits [B, C, h, w]; boxes [B, 4, h, w] as `yolox_loss` and
            `yolox_logits_and_boxes` decode them; objectness logits [B, 1, h, w].
        """
        return self.head(self.backbone(images))


class TimmYoloxNetwork(VisionNetwork):
    """Any timm backbone with a feature pyramid and YOLOX's head.

    Args:
        backbone: gives the pyramid's finest maps.
        num_classes: C, without background.
        fpn_channels: of every pyramid level and of the head's branches.
        head_num_convs: of each branch.
        num_levels: of the pyramid; what the backbone lacks is added at the coarse end.
    """

    def __init__(
        self,
        backbone: FeatureBackbone,
        num_classes: int,
        fpn_channels: int = 256,
        head_num_convs: int = 4,
        num_levels: int = 5,
    ):
        super().__init__()
        self.backbone = backbone
        self.fpn = create_pyramid(backbone.channels, fpn_channels, num_levels)
        self.head = YoloxHead(
            (fpn_channels,) * num_levels, fpn_channels, num_classes, head_num_convs
        )

    def forward(self, images: Tensor) -> RawLevels:
        """Raw outputs of each level; see `YoloxNetwork.forward`."""
        return self.head(pyramid_levels(self.fpn, self.backbone(images)))


def yolox_network(model_name: str, num_classes: int) -> YoloxNetwork:
    """A published YOLOX with random weights.

    Args:
        model_name: a key of `YOLOX_SIZES`.
        num_classes: C, without background.

    Raises:
        ValueError: no such size; names those there are.
    """
    if model_name not in YOLOX_SIZES:
        raise ValueError(f"unknown model_name {model_name!r}; allowed: {', '.join(YOLOX_SIZES)}")
    return YoloxNetwork(YOLOX_SIZES[model_name], num_classes)
