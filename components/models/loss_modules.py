"""The losses as modules, for those who configure a loss as an object.

Thin layers over pure functions: computed in float32, and zero but differentiable on empty input.
Shapes: N boxes or points, C classes, H x W positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import (
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from components.models.fcos_targets import BACKGROUND
from components.models.losses import centerness_loss, focal_loss, giou_loss

REDUCTIONS = ("none", "mean", "sum")


class FocalLoss(nn.Module):
    """Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002), summed over the classes.

    Args:
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: how much easy examples are discounted.
        reduction: over the positions: `mean`, `sum`, or `none`.
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma
        self.reduction = _checked_reduction(reduction)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss.

        Args:
            inputs: logits [N, C] or [N, C, H, W].
            targets: of the same shape, 0 to 1; or class ids [N] or [N, H, W], where -1 is
                background, a position that belongs to no class.

        Returns:
            A scalar; for `none` one value a position, [N] or [N, H, W].
        """
        dense = one_hot_targets(inputs, targets)
        loss = sigmoid_focal_loss(inputs.float(), dense, self.alpha, self.gamma)
        return _reduced(loss.sum(dim=1), self.reduction)


def one_hot_targets(inputs: Tensor, targets: Tensor) -> Tensor:
    """Targets shaped like the logits [N, C, ...], float32; class ids become 0 and 1.

    Raises:
        ValueError: neither dense targets nor ids of that shape; gives both shapes.
    """
    if targets.shape == inputs.shape:
        return targets.float()
    if targets.shape != inputs.shape[:1] + inputs.shape[2:]:
        raise ValueError(
            f"targets of shape {list(targets.shape)} fit logits of shape {list(inputs.shape)} "
            "neither as class ids nor as dense targets"
        )
    # One class more, for the background, which is then left out.
    num_classes = inputs.shape[1]
    ids = torch.where(targets == BACKGROUND, num_classes, targets.long())
    return F.one_hot(ids, num_classes + 1)[..., :-1].movedim(-1, 1).float()


class BoxLoss(nn.Module):
    """One minus a kind of IoU for each pair of boxes; the subclasses say which.

    Args:
        reduction: over the pairs: `mean`, `sum`, or `none`.
        eps: keeps divisions by an area finite.
    """

    def __init__(self, reduction: str = "mean", eps: float = 1e-7):
        super().__init__()
        self.reduction = _checked_reduction(reduction)
        self.eps = eps

    def forward(
        self, pred_boxes: Tensor, target_boxes: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """The loss.

        Args:
            pred_boxes: [N, 4] xyxy.
            target_boxes: [N, 4] xyxy, in the same unit.
            weights: [N]; a mean is then divided by their sum.

        Returns:
            A scalar; for `none` [N].
        """
        loss = self.per_box(pred_boxes.float(), target_boxes.float())
        return _reduced(loss, self.reduction, weights)

    def per_box(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair, [N]."""
        raise NotImplementedError


class IoULoss(BoxLoss):
    """1 - IoU; no gradient where boxes do not touch."""

    def per_box(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair, [N]."""
        low = torch.maximum(boxes[:, :2], targets[:, :2])
        high = torch.minimum(boxes[:, 2:], targets[:, 2:])
        overlap = (high - low).clamp(min=0).prod(dim=1)
        areas = [(b[:, 2:] - b[:, :2]).prod(dim=1) for b in (boxes, targets)]
        return 1 - overlap / (areas[0] + areas[1] - overlap + self.eps)


class GIoULoss(BoxLoss):
    """1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630)."""

    def per_box(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair, [N]."""
        return generalized_box_iou_loss(boxes, targets, eps=self.eps)


class DIoULoss(BoxLoss):
    """1 - DIoU: the distance of the centres counts (Zheng et al. 2020, arXiv:1911.08287)."""

    def per_box(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair, [N]."""
        return distance_box_iou_loss(boxes, targets, eps=self.eps)


class CIoULoss(BoxLoss):
    """1 - CIoU: the shape counts too (Zheng et al. 2020, arXiv:1911.08287)."""

    def per_box(self, boxes: Tensor, targets: Tensor) -> Tensor:
        """The loss of each pair, [N]."""
        return complete_box_iou_loss(boxes, targets, eps=self.eps)


class CenternessLoss(nn.Module):
    """Binary cross-entropy between centerness logits and soft targets.

    Args:
        reduction: over the points: `mean`, `sum`, or `none`.
    """

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        self.reduction = _checked_reduction(reduction)

    def forward(self, pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            pred: logits [N] or [N, 1].
            target: [N], 0 to 1.
            weights: [N]; a mean is then divided by their sum.

        Returns:
            A scalar; for `none` [N].
        """
        loss = F.binary_cross_entropy_with_logits(
            pred.float().flatten(), target.float().flatten(), reduction="none"
        )
        return _reduced(loss, self.reduction, weights)


class FCOSLoss(nn.Module):
    """The three FCOS losses from targets laid out as maps, a tensor per level.

    Normalised once over all levels: the class and centerness terms by the number of positive
    points, the box term, weighted by centerness, by the sum of its weights; without a positive by
    1. `ObjectDetector` does the same from boxes; see `components.models.fcos_loss`.

    Args:
        num_classes: C, without background.
        focal_alpha, focal_gamma: see `FocalLoss`.
        cls_weight, reg_weight, centerness_weight: of the three terms.
    """

    def __init__(
        self,
        num_classes: int,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_weight: float = 1.0,
        reg_weight: float = 1.0,
        centerness_weight: float = 1.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.cls_weight = cls_weight
        self.reg_weight = reg_weight
        self.centerness_weight = centerness_weight

    def forward(
        self,
        cls_preds: list[Tensor],
        reg_preds: list[Tensor],
        centerness_preds: list[Tensor],
        cls_targets: list[Tensor],
        reg_targets: list[Tensor],
        centerness_targets: list[Tensor],
    ) -> dict[str, Tensor]:
        """The losses of a batch of B images.

        Args:
            cls_preds: logits [B, C, h, w].
            reg_preds: distances to the left, top, right, bottom side [B, 4, h, w], positive.
            centerness_preds: logits [B, 1, h, w].
            cls_targets: class ids [B, h, w], -1 for background.
            reg_targets: [B, 4, h, w], in the unit of `reg_preds`; read at positives only.
            centerness_targets: [B, h, w], 0 to 1; read at positives only.

        Returns:
            `cls_loss`, `reg_loss`, `centerness_loss`, each with its weight, and `total_loss`.
        """
        logits = _rows(cls_preds)
        ids = torch.cat([level.flatten() for level in cls_targets])
        positive = ids != BACKGROUND
        num_positive = positive.sum().clamp(min=1)
        weights = torch.cat([level.flatten() for level in centerness_targets])[positive].float()
        # Both boxes belong to the same point, so that point can be the origin.
        boxes = [_around_origin(_rows(levels)[positive]) for levels in (reg_preds, reg_targets)]
        centers = _rows(centerness_preds)[positive].flatten()

        dense = one_hot_targets(logits, ids)
        class_term = focal_loss(logits, dense, self.focal_alpha, self.focal_gamma)
        losses = {
            "cls_loss": self.cls_weight * class_term / num_positive,
            "reg_loss": self.reg_weight
            * (giou_loss(boxes[0], boxes[1]) * weights).sum()
            / weights.sum().clamp(min=1e-6),
            "centerness_loss": self.centerness_weight
            * centerness_loss(centers, weights)
            / num_positive,
        }
        return {**losses, "total_loss": torch.stack(list(losses.values())).sum()}


def _rows(levels: list[Tensor]) -> Tensor:
    """Maps [B, K, h, w] of all levels as rows [-1, K], in the order of flattened [B, h, w]."""
    return torch.cat([level.movedim(1, -1).flatten(0, 2) for level in levels])


def _around_origin(ltrb: Tensor) -> Tensor:
    return torch.cat([-ltrb[:, :2], ltrb[:, 2:]], dim=1).float()


def _checked_reduction(reduction: str) -> str:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction = {reduction!r}; allowed: {', '.join(REDUCTIONS)}")
    return reduction


def _reduced(loss: Tensor, reduction: str, weights: Tensor | None = None) -> Tensor:
    if weights is not None:
        loss = loss * weights.flatten()
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    # The mean of nothing is zero here, not NaN: an image without objects is no error.
    if weights is not None:
        return total / weights.sum().clamp(min=1e-7)
    return total / max(loss.numel(), 1)
