"""SimOTA: which points of the feature maps answer for which box, by what the network predicts.

It learns nothing and no gradient passes it (Ge et al. 2021, arXiv:2107.08430, section 2.1).

Shapes: B images, P points over all levels, G boxes of one image, C classes; N candidate points,
those near the centre of any box; W points of the windows around a box's centre, all levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from components.models.fcos_targets import BACKGROUND

_MIN_LOG = -100.0  # below it F.binary_cross_entropy, which the official cost is made of, cuts off


@dataclass(frozen=True)
class _Windows:
    """The points around each box's centre; only where `own` does a box own the point.

    Attributes:
        points: [G, W] index of the point, rising along a row; 0 where not owned.
        own: [G, W] the centre is less than the radius away in x and in y.
    """

    points: Tensor
    own: Tensor


@torch.no_grad()
def simota(
    shapes: list[tuple[int, int]],
    strides: tuple[int, ...],
    boxes_xyxy: Tensor,
    labels: Tensor,
    predicted_xyxy: Tensor,
    cls_logits: Tensor,
    obj_logits: Tensor,
    center_radius: float = 1.5,
    iou_weight: float = 3.0,
    num_top_ious: int = 10,
    eps: float = 1e-8,
) -> tuple[Tensor, Tensor]:
    """The box each point of one image answers for.

    A box *owns* the points less than `center_radius` strides from its centre, in x and in y;
    *candidates* are the points that any box owns. A box takes its k cheapest candidates, where k is
    the whole part of the sum of its `num_top_ious` highest IoUs, at least 1, and the cost of a pair
    is binary cross-entropy(sqrt(class x objectness), one-hot label) - `iou_weight` * log(IoU). A
    point that several boxes take goes to the cheapest of the boxes that own it.

    The official code adds 1e6 to the cost of a candidate the box does not own. In float32 that
    leaves steps of 0.0625, and the result is up to the sort where costs are nearer than that. Here
    such candidates come after all owned ones, then the lower cost goes first, of equal costs the
    lower index of the point; a contested point goes to the cheapest box, of equals to the first.
    In float64 both say the same, unless costs themselves come near 1e6.

    Args:
        shapes: (height, width) of each level's map, cells; P cells in the order of `level_points`.
        strides: input pixels per cell of each level.
        boxes_xyxy: [G, 4], pixels.
        labels: [G], class ids.
        predicted_xyxy: [P, 4], pixels.
        cls_logits: [P, C].
        obj_logits: [P].
        center_radius: in strides. This and all below: the official values.
        iou_weight: of the box term of the cost.
        num_top_ious: the most points a box can take.
        eps: added to the IoU in its logarithm.

    Returns:
        [P] index into `boxes_xyxy`, or `BACKGROUND`; and [P] the IoU of the point's prediction with
        that box, 0 for background. The IoU is float32, or float64 if any input is.
    """
    dtype = torch.promote_types(predicted_xyxy.dtype, boxes_xyxy.dtype)
    dtype = torch.promote_types(torch.promote_types(dtype, cls_logits.dtype), torch.float32)
    num_points = len(predicted_xyxy)
    matched = torch.full((num_points,), BACKGROUND, dtype=torch.int64, device=boxes_xyxy.device)
    matched_ious = torch.zeros(num_points, dtype=dtype, device=boxes_xyxy.device)
    boxes_xyxy = boxes_xyxy.to(dtype)
    windows = _windows(shapes, strides, boxes_xyxy, center_radius)
    is_candidate = torch.zeros(num_points, dtype=torch.bool, device=boxes_xyxy.device)
    is_candidate[windows.points[windows.own]] = True
    candidates = is_candidate.nonzero().squeeze(1)  # [N]
    if len(candidates) == 0:
        return matched, matched_ious

    ious = _pairwise_iou(boxes_xyxy, predicted_xyxy[candidates].to(dtype))  # [G, N]
    count = min(num_top_ious, len(candidates))
    num_wanted = ious.topk(count, dim=1).values.sum(1).int().clamp(1, count)
    everything_wrong, if_right = _class_cost(
        cls_logits[candidates].to(dtype), obj_logits[candidates].to(dtype)
    )

    # Place of each window's point among the candidates.
    place = (is_candidate.cumsum(0) - 1)[windows.points].clamp(min=0)  # [G, W]
    cost = everything_wrong[place] + if_right[place, labels[:, None]]
    cost -= iou_weight * torch.log(ious.gather(1, place) + eps)
    cost.masked_fill_(~windows.own, torch.inf)
    box, taken = _cheapest(cost, place, num_wanted, windows.own.sum(1))

    short = (windows.own.sum(1) < num_wanted).nonzero().squeeze(1)
    if len(short):
        # These boxes, centred off the image or at its edge, take from what others own.
        others = everything_wrong + if_right.T[labels[short]]
        others -= iou_weight * torch.log(ious[short] + eps)
        row, column = windows.own[short].nonzero(as_tuple=True)
        others[row, place[short][row, column]] = torch.inf
        missing = num_wanted[short] - windows.own[short].sum(1)
        columns = torch.arange(len(candidates), device=cost.device).expand_as(others)
        row, more = _cheapest(others, columns, missing, missing)
        box, taken = torch.cat([box, short[row]]), torch.cat([taken, more])

    winner = _settle(box, taken, cost, place, len(candidates))
    positive = winner != BACKGROUND
    matched[candidates] = winner
    matched_ious[candidates[positive]] = ious[winner[positive], positive.nonzero().squeeze(1)]
    return matched, matched_ious


def simota_batch(
    shapes: list[tuple[int, int]],
    strides: tuple[int, ...],
    boxes_xyxy: list[Tensor],
    labels: list[Tensor],
    predicted_xyxy: Tensor,
    cls_logits: Tensor,
    obj_logits: Tensor,
    **constants: float,
) -> tuple[Tensor, Tensor]:
    """`simota` of each image: a list of boxes and labels, and a leading B on the predictions.

    Returns:
        [B, P] index into the image's own boxes, or `BACKGROUND`; [B, P] IoU.
    """
    results = [
        simota(shapes, strides, *image, **constants)  # type: ignore[arg-type]
        for image in zip(boxes_xyxy, labels, predicted_xyxy, cls_logits, obj_logits, strict=True)
    ]
    matched, ious = zip(*results, strict=True)
    return torch.stack(matched), torch.stack(ious)


def _windows(
    shapes: list[tuple[int, int]], strides: tuple[int, ...], boxes_xyxy: Tensor, radius: float
) -> _Windows:
    """The few cells of each level around each centre, found without looking at the others."""

    def per_level(values: list[int]) -> Tensor:
        return torch.tensor(values, device=boxes_xyxy.device)[:, None]

    stride = per_level(list(strides))
    height, width = (per_level([shape[side] for shape in shapes]) for side in (0, 1))
    areas = [h * w for h, w in shapes]
    offset = per_level([sum(areas[:level]) for level in range(len(areas))])
    # One cell more than the radius asks for, so that rounding cannot lose one; tested below.
    reach = math.floor(radius)
    steps = torch.arange(-reach, reach + 2, device=boxes_xyxy.device)

    def near(low: Tensor, high: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        center = ((low + high) / 2)[:, None, None]
        first = torch.floor(center / stride - 0.5)
        cell = (first + steps).long()  # [G, levels, window]
        # Written as in the official code, so that both round alike.
        at = (cell + 0.5) * stride.to(center.dtype)
        inside = (at > center - radius * stride) & (at < center + radius * stride)
        return cell, inside & (cell >= 0) & (cell < limit)

    left, top, right, bottom = boxes_xyxy.unbind(1)
    column, near_x = near(left, right, width)
    row, near_y = near(top, bottom, height)
    own = (near_y[..., :, None] & near_x[..., None, :]).flatten(1)
    points = offset[..., None] + row[..., :, None] * width[..., None] + column[..., None, :]
    return _Windows(points.flatten(1).masked_fill_(~own, 0), own)


def _pairwise_iou(boxes_xyxy: Tensor, others_xyxy: Tensor) -> Tensor:
    """IoU of each of [G, 4] with each of [N, 4]: [G, N]; 0 for two boxes without area."""
    left, top, right, bottom = boxes_xyxy.T[..., None].unbind(0)
    left2, top2, right2, bottom2 = others_xyxy.T.contiguous().unbind(0)
    # In place throughout: at G x N every pass over memory counts.
    width = torch.minimum(right, right2).sub_(torch.maximum(left, left2)).clamp_(min=0)
    height = torch.minimum(bottom, bottom2).sub_(torch.maximum(top, top2)).clamp_(min=0)
    common = width.mul_(height)
    areas = (right - left) * (bottom - top), (right2 - left2) * (bottom2 - top2)
    total = torch.add(*areas, out=height).sub_(common)
    return common.div_(total.clamp_(min=torch.finfo(total.dtype).tiny))


def _class_cost(cls_logits: Tensor, obj_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class term of a point's cost, apart from what depends on the box's label.

    Returns:
        [N] the cost if no class were right; [N, C] what to add if this class is right.
    """
    p = (cls_logits.sigmoid() * obj_logits.sigmoid()[:, None]).sqrt_()
    absent = torch.log1p(-p).clamp_(min=_MIN_LOG)
    present = p.log_().clamp_(min=_MIN_LOG)
    return -absent.sum(1), absent - present


def _cheapest(
    cost: Tensor, columns: Tensor, num_wanted: Tensor, num_there: Tensor
) -> tuple[Tensor, Tensor]:
    """The first `num_wanted` of each row by cost, of equals the leftmost.

    Args:
        cost: [R, K]; infinite where there is nothing to take.
        columns: [R, K] what to return for each.
        num_wanted, num_there: [R].

    Returns:
        Row and entry of `columns` of each that is taken, [T] and [T].
    """
    count = torch.minimum(num_wanted, num_there)
    order = cost.sort(dim=1, stable=True).indices
    taken = torch.arange(cost.shape[1], device=cost.device) < count[:, None]
    row, _ = taken.nonzero(as_tuple=True)
    return row, columns.gather(1, order)[taken]


def _settle(box: Tensor, taken: Tensor, cost: Tensor, place: Tensor, num: int) -> Tensor:
    """One box for each candidate: the one that took it, or the cheapest owner if several did.

    Args:
        box, taken: [T] pairs of a box and the candidate it took.
        cost, place: [G, W] of the windows; cost is infinite where not owned.
        num: N.

    Returns:
        [N] box, or `BACKGROUND`.
    """
    nobody = len(cost)

    def smallest(index: Tensor, values: Tensor, start: float) -> Tensor:
        full = torch.full((num,), start, dtype=values.dtype, device=values.device)
        return full.scatter_reduce(0, index, values, "amin")

    first = smallest(taken, box, nobody)
    last = -smallest(taken, -box, 1)
    flat_cost, flat_place = cost.flatten(), place.flatten()
    best = smallest(flat_place, flat_cost, torch.inf)
    rows = torch.arange(len(cost), device=cost.device)[:, None].expand_as(cost).flatten()
    is_best = flat_cost.isfinite() & (flat_cost == best[flat_place])
    cheapest = smallest(flat_place[is_best], rows[is_best], nobody)
    winner = torch.where(first == last, first, cheapest)
    return winner.masked_fill_(first == nobody, BACKGROUND)
