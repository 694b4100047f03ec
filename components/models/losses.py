"""Losses as pure functions. All compute in float32 and stay differentiable on empty input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from components.models.processes import mean_over_processes


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sum of the sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002).

    Args:
        logits: any shape.
        targets: same shape, 0 or 1.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: how much easy examples are discounted.
    """
    return sigmoid_focal_loss(
        logits.float(), targets.float(), alpha=alpha, gamma=gamma, reduction="sum"
    )


def giou_loss(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """1 - GIoU of each pair of boxes [N, 4] (Rezatofighi et al. 2019, arXiv:1902.09630): [N]."""
    return generalized_box_iou_loss(boxes_xyxy.float(), targets_xyxy.float(), reduction="none")


def centerness(ltrb: Tensor) -> Tensor:
    """How central a point lies in its box, 0 to 1 (FCOS, arXiv:1904.01355, equation 3).

    Args:
        ltrb: distances to the left, top, right and bottom side, [N, 4], positive.
    """
    horizontal, vertical = ltrb[:, [0, 2]], ltrb[:, [1, 3]]
    ratio = horizontal.amin(1) / horizontal.amax(1) * (vertical.amin(1) / vertical.amax(1))
    return torch.sqrt(ratio)


def centerness_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the binary cross-entropy between logits [N] and soft targets [N]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="sum")


def over_devices(values: Tensor) -> Tensor:
    """The mean over all processes of a training step, so that all divide by the same number.

    Without gradients the values stay the process's own: in validation each has as many batches as
    there are for it, and would wait for the others for ever.
    """
    return mean_over_processes(values) if torch.is_grad_enabled() else values
