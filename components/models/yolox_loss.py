"""The YOLOX loss over a batch, and scores and boxes for prediction, from raw outputs.

Shapes: B images, P points over all levels, G boxes of one image, C classes, F points that answer
for a box, over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from components.models.fcos_loss import flatten_levels
from components.models.fcos_targets import BACKGROUND, level_points
from components.models.losses import over_devices
from components.models.simota import simota_batch

# What each term of `yolox_loss` is multiplied by before they are added up (official code).
YOLOX_LOSS_WEIGHTS = {"reg_loss": 5.0, "obj_loss": 1.0, "cls_loss": 1.0, "l1_loss": 1.0}

_MAX_LOG_SIZE = 20.0  # wider than any image; keeps areas within float32

PairLoss = Callable[[Tensor, Tensor], Tensor]


def decode_yolox(raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Boxes from raw outputs.

    Args:
        raw: [..., P, 4]: the centre's distance from the cell's top left corner in strides, and the
            logarithm of width and height in strides.
        points: [P, 2], cell centres, pixels.
        strides: [P], pixels.

    Returns:
        xyxy [..., P, 4], pixels.
    """
    centers = points + (raw[..., :2] - 0.5) * strides[:, None]
    half = raw[..., 2:].clamp(max=_MAX_LOG_SIZE).exp() * (strides[:, None] / 2)
    return torch.cat([centers - half, centers + half], dim=-1)


def yolox_logits_and_boxes(
    cls_levels: list[Tensor],
    reg_levels: list[Tensor],
    obj_levels: list[Tensor],
    strides: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:
    """What `select_from_logits` takes, from the raw outputs of a YOLOX network.

    Returns:
        Class logits [B, P, C], objectness logits [B, P], boxes xyxy [B, P, 4] in pixels.
    """
    _, points, point_strides = _points(cls_levels, strides)
    classes, raw, objectness = map(flatten_levels, (cls_levels, reg_levels, obj_levels))
    boxes = decode_yolox(_at_least_float32(raw), points, point_strides)
    return classes, objectness.squeeze(-1), boxes


def iou_squared_loss(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """1 - IoU² of each pair of boxes [F, 4] (official code): [F]."""
    low = torch.maximum(boxes_xyxy[:, :2], targets_xyxy[:, :2])
    high = torch.minimum(boxes_xyxy[:, 2:], targets_xyxy[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes_xyxy, targets_xyxy)]
    return 1 - (common / (areas[0] + areas[1] - common + 1e-16)) ** 2


def bce_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the binary cross-entropy between logits and soft targets of one shape."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")


def yolox_loss(
    cls_levels: list[Tensor],
    reg_levels: list[Tensor],
    obj_levels: list[Tensor],
    strides: tuple[int, ...],
    boxes_xyxy: list[Tensor],
    labels: list[Tensor],
    use_l1: bool = False,
    cls_loss_fn: PairLoss = bce_loss,
    reg_loss_fn: PairLoss = iou_squared_loss,
    center_radius: float = 1.5,
    iou_weight: float = 3.0,
    num_top_ious: int = 10,
    l1_eps: float = 1e-8,
) -> dict[str, Tensor]:
    """Box, objectness and class loss, each over the number of points that answer for a box.

    The target of the class is the IoU of prediction and box. All points take part in objectness; an
    image without boxes has nothing else. A batch without such a point is divided by 1; distributed
    processes all divide by their mean. `YOLOX_LOSS_WEIGHTS` are not applied here. Computed in
    float32 at least; defaults are the official values.

    Args:
        cls_levels, reg_levels, obj_levels: raw outputs, a tensor per level; see
            `YoloxNetwork.forward`.
        strides: input pixels per cell of each level.
        boxes_xyxy: of each image, [G, 4], pixels.
        labels: of each image, [G], class ids.
        use_l1: add `l1_loss` on the raw box outputs (official: in the last, unaugmented epochs).
        cls_loss_fn: logits [F, C] and targets [F, C] to a tensor, whose sum is taken.
        reg_loss_fn: boxes xyxy [F, 4] and targets [F, 4], pixels, to a tensor, whose sum is taken.
        center_radius, iou_weight, num_top_ious: see `simota`.
        l1_eps: added to width and height in strides before their logarithm.

    Returns:
        Scalars `reg_loss`, `obj_loss`, `cls_loss`, and with `use_l1` `l1_loss`.
    """
    shapes, points, point_strides = _points(cls_levels, strides)
    classes, raw, objectness = (
        _at_least_float32(flatten_levels(levels)) for levels in (cls_levels, reg_levels, obj_levels)
    )
    objectness = objectness.squeeze(2)
    boxes = decode_yolox(raw, points, point_strides)
    matched, ious = simota_batch(
        shapes,
        strides,
        boxes_xyxy,
        labels,
        boxes,
        classes,
        objectness,
        center_radius=center_radius,
        iou_weight=iou_weight,
        num_top_ious=num_top_ious,
    )
    positive = matched != BACKGROUND
    image, point = positive.nonzero(as_tuple=True)
    # One list of all boxes of the batch, and where each image's begin.
    starts = torch.tensor([0, *map(len, boxes_xyxy[:-1])], device=matched.device).cumsum(0)
    chosen = starts[image] + matched[positive]
    targets = torch.cat(boxes_xyxy).to(boxes.dtype)[chosen]
    class_targets = torch.zeros_like(classes[image, point])
    class_targets.scatter_(
        1, torch.cat(labels)[chosen, None], ious[positive, None].to(classes.dtype)
    )

    num_positive = over_devices(positive.sum().to(boxes.dtype)).clamp(min=1)
    losses = {
        "reg_loss": reg_loss_fn(boxes[image, point], targets),
        "obj_loss": bce_loss(objectness, positive.to(objectness.dtype)),
        "cls_loss": cls_loss_fn(classes[image, point], class_targets),
    }
    if use_l1:
        encoded = _encode(targets, points[point], point_strides[point], l1_eps)
        losses["l1_loss"] = (raw[image, point] - encoded).abs()
    return {name: value.sum() / num_positive for name, value in losses.items()}


def _encode(boxes_xyxy: Tensor, points: Tensor, strides: Tensor, eps: float) -> Tensor:
    """The raw output that `decode_yolox` would turn into each box: [F, 4]."""
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    strides = strides[:, None]
    centers = ((low + high) / 2 - points) / strides + 0.5
    return torch.cat([centers, torch.log((high - low) / strides + eps)], dim=1)


def _points(
    levels: list[Tensor], strides: tuple[int, ...]
) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """Shape of each level's map; points [P, 2] and their strides [P] on the maps' device."""
    shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
    points, level_of = level_points(shapes, strides)
    dtype = torch.promote_types(levels[0].dtype, torch.float32)
    point_strides = torch.tensor(strides, dtype=dtype)[level_of]
    return shapes, points.to(levels[0].device, dtype), point_strides.to(levels[0].device)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
