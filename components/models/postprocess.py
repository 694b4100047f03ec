"""From dense scores and boxes to detections; the same code runs in PyTorch and in the ONNX graph.

The K strongest (point, class) pairs of an image all lie on the K points whose best class is
strongest: were a pair's point not among them, K others would each hold a pair at least as strong.
So classes are looked at one by one for these points only.

Shapes: B images, P points, C classes, K candidates, S strongest points (at most K), D
detections (padded to a fixed number).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

NO_LABEL = -1
_ROUNDING = 1e-6  # of float32 scores; a score found twice may differ by it

Combine = Literal["geometric_mean", "product"]


@torch.library.custom_op("timmflow::nms_keep", mutates_args=())
def nms_keep(
    boxes_xyxy: Tensor,
    scores: Tensor,
    iou_threshold: float,
    score_threshold: float,
    enough: int,
) -> Tensor:
    """Which candidates survive greedy non-maximum suppression, image by image.

    An operator of its own because its result, unlike NMS's, has a fixed shape: it exports as ONNX
    NonMaxSuppression with a free batch dimension (`components.export.write_onnx`).

    Args:
        boxes_xyxy: [B, K, 4].
        scores: [B, K], falling.
        iou_threshold: of two boxes that overlap more, the weaker goes.
        score_threshold: candidates at or below it do not survive.
        enough: survivors of an image that are asked for, the strongest; more may be told.

    Returns:
        bool [B, K].
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        num_strong = int((scores[row] > score_threshold).sum())
        # Whether a candidate survives depends on stronger ones only, so a part of them, from the
        # strongest on, tells enough survivors most of the time, at a fraction of the pairs.
        size = 0
        survivors = scores.new_empty(0, dtype=torch.int64)
        while size < num_strong and len(survivors) < enough:
            size = min(num_strong, max(2 * enough, 2 * size))
            survivors = nms(boxes_xyxy[row, :size], scores[row, :size], iou_threshold)
        keep[row, survivors] = True
    return keep


@nms_keep.register_fake
def _(
    boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, enough: int
) -> Tensor:
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
        score_threshold: those at or below it are dropped.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        max_detections: D; fewer are padded.
        num_candidates: K strongest (point, class) pairs that suppression looks at.

    Returns:
        boxes [B, D, 4], scores [B, D] falling, labels [B, D]. Padding: zeros, 0 and `NO_LABEL`.
    """
    strongest = _strongest(scores.amax(-1), num_candidates, score_threshold)
    return _suppress(
        *_candidates(
            _rows(scores, strongest),
            _rows(boxes_xyxy, strongest),
            num_candidates,
            score_threshold,
        ),
        image_size,
        score_threshold,
        nms_threshold,
        min(max_detections, num_candidates, scores[0].numel()),
    )


def select_from_logits(
    cls_logits: Tensor,
    other_logits: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    combine: Combine = "geometric_mean",
    score_threshold: float = 0.05,
    nms_threshold: float = 0.6,
    max_detections: int = 100,
    num_candidates: int = 1000,
) -> tuple[Tensor, Tensor, Tensor]:
    """`select_detections` on scores that are never computed but for the strongest points.

    Args:
        cls_logits: [B, P, C], of any floating type; scores are computed in float32.
        other_logits: [B, P]: what a point says besides its classes (FCOS: centerness; YOLOX:
            objectness).
        boxes_xyxy: [B, P, 4], pixels.
        image_size: (height, width) to which boxes are clipped.
        combine: of the sigmoids: `geometric_mean` (FCOS's later code) or `product` (YOLOX).
        score_threshold, nms_threshold, max_detections, num_candidates: see `select_detections`.

    Returns:
        As `select_detections`.

    Raises:
        ValueError: `combine` is not known.
    """
    if combine not in ("geometric_mean", "product"):
        raise ValueError(f"unknown combine {combine!r}; allowed: geometric_mean, product")
    if not isinstance(cls_logits.shape[1], int):
        # Exported with a free image size: with spare points, which score nothing, K and D are fixed
        # all the same. Reasoning about the smaller of two unknowns would take minutes.
        cls_logits = F.pad(cls_logits, (0, 0, 0, num_candidates), value=-1e4)
        other_logits = F.pad(other_logits, (0, num_candidates), value=-1e4)
        boxes_xyxy = F.pad(boxes_xyxy, (0, 0, 0, num_candidates))
    # At one point a larger logit is a larger score: the best class is found among the logits.
    best = _score(_product(cls_logits.amax(-1), other_logits), combine)
    strongest = _strongest(best, num_candidates, score_threshold)
    other = other_logits.gather(1, strongest)[..., None]
    products, labels, boxes = _candidates(
        _product(_rows(cls_logits, strongest), other),
        _rows(boxes_xyxy, strongest).float(),
        num_candidates,
        _lowest_product(score_threshold, combine),
    )
    return _suppress(
        _score(products, combine),  # the root keeps their order: taken of the few that are left
        labels,
        boxes,
        image_size,
        score_threshold,
        nms_threshold,
        min(max_detections, num_candidates, cls_logits[0].numel()),
    )


def _product(cls_logits: Tensor, other_logits: Tensor) -> Tensor:
    return cls_logits.float().sigmoid() * other_logits.float().sigmoid()


def _score(products: Tensor, combine: Combine) -> Tensor:
    return products.sqrt() if combine == "geometric_mean" else products


def _lowest_product(score_threshold: float, combine: Combine) -> float:
    """Products that are not above it are no scores above the threshold."""
    lowest = score_threshold - _ROUNDING
    return lowest * max(lowest, 0.0) if combine == "geometric_mean" else lowest


def _strongest(best_scores: Tensor, num_candidates: int, score_threshold: float) -> Tensor:
    """The points [B, S] with the highest best scores, of [B, P]."""
    count = min(num_candidates, best_scores.shape[1])
    if not torch.compiler.is_compiling():
        # What cannot pass the threshold need not be looked at. An exported graph, whose shapes are
        # fixed, looks at it all the same, and drops it later.
        hopeful = (best_scores > score_threshold - _ROUNDING).sum(1)
        count = min(count, max(1, int(hopeful.max())))
    return best_scores.topk(count).indices


def _rows(values: Tensor, points: Tensor) -> Tensor:
    """Those points' rows: values [B, P, X] and points [B, S] to [B, S, X]."""
    # Whole rows are copied, several times as fast as an index of two parts or `gather` does it.
    # `len` would fix the batch size of the exported graph.
    first = torch.arange(points.shape[0], device=points.device)[:, None] * values.shape[1]
    chosen = values.flatten(0, 1).index_select(0, (points + first).flatten())
    return chosen.view(-1, points.shape[1], values.shape[2])


def _candidates(
    scores: Tensor, boxes_xyxy: Tensor, num_candidates: int, lowest: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest (point, class) pairs of points already few.

    Args:
        scores: [B, S, C], or what rises with them.
        boxes_xyxy: [B, S, 4].
        num_candidates: K.
        lowest: pairs at or below it may be left out.

    Returns:
        scores [B, K] falling, labels [B, K], boxes [B, K, 4]; fewer where there are fewer pairs.
    """
    num_classes = scores.shape[2]
    count = min(num_candidates, scores.shape[1] * num_classes)
    strongest, flat = _top_above(scores.flatten(1), count, lowest)
    points = torch.div(flat, num_classes, rounding_mode="floor")
    return strongest, flat % num_classes, _rows(boxes_xyxy, points)


def _top_above(scores: Tensor, count: int, lowest: float) -> tuple[Tensor, Tensor]:
    """`topk` of [B, N], from which those at or below `lowest` may be missing."""
    if torch.compiler.is_compiling():
        return scores.topk(count)
    above = scores > lowest
    numbers = above.sum(1)
    most = max(1, int(numbers.max()))
    if most > 4 * count:
        return scores.topk(count)
    # Few of them: picked out first, they are sorted in a fraction of the time.
    flat = above.flatten().nonzero()[:, 0]
    image = flat // scores.shape[1]
    rank = torch.arange(len(flat), device=flat.device) - (numbers.cumsum(0) - numbers)[image]
    few, places = scores.new_zeros(len(scores), most), flat.new_zeros(len(scores), most)
    few[image, rank], places[image, rank] = scores.flatten()[flat], flat % scores.shape[1]
    strongest, order = few.topk(min(count, most))
    return strongest, places.gather(1, order)


def _suppress(
    scores: Tensor,
    labels: Tensor,
    boxes_xyxy: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    nms_threshold: float,
    num_detections: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`select_detections` on candidates; see `_candidates`. `num_detections` is D itself."""
    height, width = image_size
    limit = torch.cat([boxes_xyxy.new_full((1,), side) for side in (width, height)]).repeat(2)
    boxes = torch.minimum(boxes_xyxy.clamp(min=0), limit)

    # Classes are moved apart by more than an image, so that one pass does not mix them. The step is
    # fixed, not taken from the batch: an image's result does not depend on its neighbours.
    apart = boxes + labels[..., None].to(boxes.dtype) * (2 * torch.sym_max(height, width))
    keep = nms_keep(apart, scores, nms_threshold, score_threshold, num_detections)

    kept_scores = torch.where(keep, scores, torch.zeros_like(scores))
    top_scores, order = kept_scores.topk(min(num_detections, scores.shape[1]))
    top_labels = labels.gather(1, order)
    present = top_scores > 0
    top_boxes = _rows(boxes, order) * present[..., None]
    missing = num_detections - top_scores.shape[1]
    return (
        F.pad(top_boxes, (0, 0, 0, missing)),
        F.pad(top_scores, (0, missing)),
        F.pad(top_labels.masked_fill(~present, NO_LABEL), (0, missing), value=NO_LABEL),
    )
