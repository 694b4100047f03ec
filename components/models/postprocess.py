"""From dense scores and boxes to detections; the same code runs in PyTorch and in the ONNX graph.

Shapes: B images, P points, C classes, K candidates, D detections (padded to a fixed number).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

NO_LABEL = -1


@torch.library.custom_op("timmflow::nms_keep", mutates_args=())
def nms_keep(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Which candidates survive greedy non-maximum suppression, image by image.

    An operator of its own because its result, unlike NMS's, has a fixed shape: it exports as ONNX
    NonMaxSuppression with a free batch dimension (`components.export.write_onnx`).

    Args:
        boxes_xyxy: [B, K, 4].
        scores: [B, K].
        iou_threshold: of two boxes that overlap more, the weaker goes.
        score_threshold: candidates at or below it do not survive.

    Returns:
        bool [B, K].
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        strong = (scores[row] > score_threshold).nonzero().squeeze(1)
        keep[row, strong[nms(boxes_xyxy[row, strong], scores[row, strong], iou_threshold)]] = True
    return keep


@nms_keep.register_fake
def _(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def select_detections(
    scores: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    score_threshold: float = 0.05,
    nms_threshold: float = 0.6,
    max_detections: int = 100,
    num_candidates: int = 1000,
) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest detections of each image after non-maximum suppression within each class.

    Args:
        scores: [B, P, C], 0 to 1.
        boxes_xyxy: [B, P, 4], pixels.
        image_size: (height, width) to which boxes are clipped.
        score_threshold: weaker ones are dropped.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        max_detections: D; fewer are padded.
        num_candidates: K strongest (point, class) pairs that suppression looks at.

    Returns:
        boxes [B, D, 4], scores [B, D] falling, labels [B, D]. Padding: zeros, 0 and `NO_LABEL`.
    """
    _, num_points, num_classes = scores.shape
    height, width = image_size
    limit = torch.tensor([width, height, width, height], dtype=boxes_xyxy.dtype)
    boxes_xyxy = torch.minimum(boxes_xyxy.clamp(min=0), limit.to(boxes_xyxy.device))

    count = min(num_candidates, num_points * num_classes)
    candidate_scores, flat = scores.flatten(1).topk(count)
    labels = flat % num_classes
    points = torch.div(flat, num_classes, rounding_mode="floor")
    boxes = boxes_xyxy.gather(1, points[..., None].expand(-1, -1, 4))

    # Classes are moved apart by more than an image, so that one pass does not mix them. The step is
    # fixed, not taken from the batch: an image's result does not depend on its neighbours.
    apart = boxes + labels[..., None].to(boxes.dtype) * (2 * max(image_size))
    keep = nms_keep(apart, candidate_scores, nms_threshold, score_threshold)

    kept_scores = torch.where(keep, candidate_scores, torch.zeros_like(candidate_scores))
    top_scores, order = kept_scores.topk(min(max_detections, count))
    top_labels = labels.gather(1, order)
    top_boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    present = top_scores > 0
    return (
        top_boxes * present[..., None],
        top_scores,
        torch.where(present, top_labels, torch.full_like(top_labels, NO_LABEL)),
    )
