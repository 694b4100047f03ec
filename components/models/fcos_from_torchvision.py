"""torchvision's FCOS weights in our `FcosNetwork`: the same function under other names.

Both have C3-C5 of a ResNet, a feature pyramid with P6 and P7 from P5, and two towers shared by all
levels. Where torchvision's choices differ (its points sit at cells' corners, distances come from a
ReLU, the towers' convolutions have a bias, levels' ranges leave out both ends) ours are options,
and a converted network is used with all of `TORCHVISION_RULES`. Its classes count the background as
class 0, which no box has; they are kept as they are, so that labels mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def _below(bound: float) -> float:
    """The largest float32 below a bound."""
    return torch.nextafter(torch.tensor(bound), torch.tensor(0.0)).item()


# In torchvision every bound is exclusive (0.29: a distance of exactly 64 belongs to no level). Ours
# are inclusive at the upper end, so they end one float32 earlier.
TORCHVISION_RANGES = (
    (0.0, _below(64)),
    (64.0, _below(128)),
    (128.0, _below(256)),
    (256.0, _below(512)),
    (512.0, float("inf")),
)

# How torchvision's `fcos_resnet50_fpn` places points, assigns them, and selects detections. Its
# 1000 candidates are counted on each level, ours over all levels.
TORCHVISION_RULES: dict[str, Any] = {
    "point_offset": 0.0,
    "strides": (8, 16, 32, 64, 128),
    "regress_ranges": TORCHVISION_RANGES,
    "center_sampling_radius": 1.5,
    "score_thresh": 0.2,
    "nms_thresh": 0.6,
    "max_detections_per_image": 100,
}

_PREFIXES = (
    ("backbone.body.", "backbone.body."),
    ("backbone.fpn.extra_blocks.p6.", "fpn.extra_blocks.convs.0."),
    ("backbone.fpn.extra_blocks.p7.", "fpn.extra_blocks.convs.1."),
    ("backbone.fpn.", "fpn."),
    ("head.classification_head.conv.", "head.cls_tower."),
    ("head.classification_head.cls_logits.", "head.cls_logits."),
    ("head.regression_head.conv.", "head.reg_tower."),
    ("head.regression_head.bbox_reg.", "head.box_sides."),
    ("head.regression_head.bbox_ctrness.", "head.center_logits."),
)
_GROUPS = 32  # of torchvision's GroupNorm; ours has groups of 8 channels


def convert_torchvision_fcos(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and state dict of an `FcosNetwork` equal to a torchvision FCOS.

    Args:
        state: of `torchvision.models.detection.FCOS` on a ResNet with a feature pyramid, such as
            `fcos_resnet50_fpn`.

    Returns:
        Arguments of `FcosNetwork` besides the backbone, which must be timm's ResNet of the same
        depth; and its state dict.

    Raises:
        ValueError: a tensor there that such a model does not have, one that it must have and that
            is missing, or a pyramid of other than 256 channels.
    """
    ours = {_our_name(name): tensor for name, tensor in state.items()}
    required = ("head.cls_logits.weight", "fpn.extra_blocks.convs.1.weight")
    missing = [name for name in required if name not in ours]
    if missing:
        raise ValueError(f"state: not a torchvision FCOS with P3 to P7; has no {missing[0]}")
    num_classes, channels = ours["head.cls_logits.weight"].shape[:2]
    if channels != 8 * _GROUPS:
        raise ValueError(
            f"state: pyramid of {channels} channels; allowed: {8 * _GROUPS}, where the norm's "
            "groups are the same as here"
        )
    convs = {int(found[1]) for name in ours if (found := re.match(r"head\.cls_tower\.(\d+)", name))}
    num_levels = len(TORCHVISION_RULES["strides"])
    # Frozen batch norms (of a pretrained backbone) do not count batches.
    counters = {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(0)
        for name in ours
        if name.endswith("running_mean")
    }
    options = {
        "num_classes": num_classes,
        "fpn_channels": channels,
        "head_num_convs": len(convs) // 2,  # a convolution and a norm each
        "num_levels": num_levels,
        "distance": "relu",
        "conv_bias": True,
    }
    return options, {**counters, **ours, "head.scales": torch.ones(num_levels)}


def _our_name(name: str) -> str:
    for theirs, ours in _PREFIXES:
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    raise ValueError(f"state: {name} is not a part of torchvision's FCOS on a ResNet")
