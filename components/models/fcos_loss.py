"""The FCOS loss over a batch, from raw outputs and boxes.

Shapes: B images, P points over all levels, G boxes of one image, N positive points, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from components.models.fcos_targets import BACKGROUND, assign_batch
from components.models.losses import (
    centerness,
    centerness_loss,
    focal_loss,
    giou_loss,
    over_devices,
)

# (logits [M, C], targets [M, C]) to a loss for each element, or to their sum.
ClsLoss = Callable[[Tensor, Tensor], Tensor]
# (predicted xyxy [N, 4], target xyxy [N, 4]) to a loss for each box, [N].
RegLoss = Callable[[Tensor, Tensor], Tensor]


def flatten_levels(outputs: list[Tensor]) -> Tensor:
    """Maps [B, K, h, w] of all levels as one [B, P, K], points in the order of `level_points`."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in outputs], dim=1)


def decode_boxes(points: Tensor, sides: Tensor, strides: Tensor) -> Tensor:
    """Boxes xyxy [..., P, 4] in pixels, from side distances [..., P, 4] in strides."""
    # All four sides at once: halves of a box take several times as long.
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=strides.dtype, device=strides.device)
    return torch.cat([points, points], dim=-1) + sides * (strides[:, None] * signs)


def fcos_loss(
    cls_logits: Tensor,
    sides: Tensor,
    center_logits: Tensor,
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes_xyxy: list[Tensor],
    labels: list[Tensor],
    center_sampling_radius: float = 1.5,
    focal_alpha: float = 0.25,
    focal_gamma: float = 2.0,
    cls_loss_fn: ClsLoss | None = None,
    reg_loss_fn: RegLoss | None = None,
) -> dict[str, Tensor]:
    """Classification, box and centerness loss, each normalised once over the whole batch.

    Background points take part in the focal loss; an image without objects has nothing else. The
    class and centerness terms are divided by the number of positive points, the box term, weighted
    by centerness, by the sum of its weights (FCOS). A batch without a positive is divided by 1.

    Args:
        cls_logits: [B, P, C].
        sides: [B, P, 4], strides.
        center_logits: [B, P].
        points, strides, ranges: [P, 2], [P], [P, 2]; see `assign_batch`.
        boxes_xyxy: of each image, [G, 4], pixels.
        labels: of each image, [G], class ids.
        center_sampling_radius: see `assign_batch`.
        focal_alpha, focal_gamma: see `focal_loss`; a `cls_loss_fn` of one's own ignores them.
        cls_loss_fn: takes logits and targets (0 or 1), both [B * P, C], gives a loss for each
            element or their sum; None for the focal loss.
        reg_loss_fn: takes predicted and target boxes xyxy, both [N, 4] and in strides of their
            point's level, gives a loss for each box, [N]; None for GIoU.

    Returns:
        `cls_loss`, `reg_loss`, `centerness_loss`: scalars.

    Raises:
        ValueError: `reg_loss_fn` gives something else than one loss for each box.
    """
    matched = assign_batch(points, strides, ranges, boxes_xyxy, center_sampling_radius)
    positive = matched != BACKGROUND
    image, point = positive.nonzero(as_tuple=True)
    # One list of all boxes of the batch, and where each image's begin.
    starts = torch.tensor(
        [0, *[len(boxes) for boxes in boxes_xyxy[:-1]]], device=matched.device
    ).cumsum(0)
    chosen = starts[image] + matched[positive]
    targets = torch.cat(boxes_xyxy)[chosen]
    classes = torch.cat(labels)[chosen]

    class_targets = torch.zeros_like(cls_logits)
    class_targets[image, point, classes] = 1

    center = points[point]
    target_sides = torch.cat([center - targets[:, :2], targets[:, 2:] - center], dim=1)
    target_centerness = centerness(target_sides)
    predicted = decode_boxes(center, sides[image, point].float(), strides[point])
    # In units of the stride, as the network predicts them: a loss that does not grow with size.
    scale = strides[point][:, None]
    box_losses = (reg_loss_fn or giou_loss)(predicted / scale, targets / scale)
    if box_losses.shape != target_centerness.shape:
        # A sum or mean would be multiplied by the weights without a complaint.
        raise ValueError(
            f"reg_loss_fn gave shape {list(box_losses.shape)} for {len(targets)} boxes; allowed: "
            f"one loss for each, [{len(targets)}] (reduction='none')"
        )
    box_terms = box_losses * target_centerness
    if cls_loss_fn is None:
        class_term = focal_loss(cls_logits, class_targets, focal_alpha, focal_gamma)
    else:
        class_term = cls_loss_fn(cls_logits.flatten(0, 1), class_targets.flatten(0, 1)).sum()

    num_positive, weight = over_devices(
        torch.stack([positive.sum().float(), target_centerness.sum()])
    )
    return {
        "cls_loss": class_term / num_positive.clamp(min=1),
        "reg_loss": box_terms.sum() / weight.clamp(min=1e-6),
        "centerness_loss": centerness_loss(center_logits[image, point], target_centerness)
        / num_positive.clamp(min=1),
    }
