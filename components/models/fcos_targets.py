"""FCOS target assignment: which box, if any, each point of the feature maps answers for.

Not every point is tested against every box: each box names, level by level, the window of points
that could answer for it, and only those are tested. The work grows with the number of positives,
not with points times boxes.

Shapes: B images, P points over all levels, L levels, G boxes of one image, N boxes of the batch,
M candidates (pairs of a box and a point).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND = -1

# Largest side distance, input pixels, that each level answers for (arXiv:1904.01355, section 3.2).
REGRESS_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, float("inf")))

# Windows are cut in float64 and made wider by this share of a cell and of a range, far more than
# float32 can err: a point too many costs nothing, since all are tested; one too few would be wrong.
_CELL_SLACK, _RELATIVE_SLACK = 0.01, 1e-6


def level_points(
    shapes: list[tuple[int, int]], strides: tuple[int, ...], offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """The points of all cells of all levels, row by row.

    Args:
        shapes: (height, width) of each level's map, cells.
        strides: input pixels per cell.
        offset: where in its cell a point lies, in strides: 0.5 is the centre (FCOS), 0 the corner
            (torchvision).

    Returns:
        points [P, 2] as (x, y) in input pixels, and each point's level [P].
    """
    points, levels = [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        y = (torch.arange(height, dtype=torch.float32) + offset) * stride
        x = (torch.arange(width, dtype=torch.float32) + offset) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([grid_x.flatten(), grid_y.flatten()], dim=1))
        levels.append(torch.full((height * width,), level))
    return torch.cat(points), torch.cat(levels)


def assign_points(
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes_xyxy: Tensor,
    center_sampling_radius: float = 1.5,
) -> Tensor:
    """The box each point answers for, of one image: [P]; see `assign_batch`."""
    return assign_batch(points, strides, ranges, [boxes_xyxy], center_sampling_radius)[0]


@torch.no_grad()
def assign_batch(
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes_xyxy: list[Tensor],
    center_sampling_radius: float = 1.5,
) -> Tensor:
    """The box each point of each image answers for.

    A point answers for a box if it lies strictly inside it, strictly nearer to its centre than
    `center_sampling_radius` strides (the larger of the two axes' distances), and its distance to
    the farthest side is above the lower and at most the upper bound of the level's range. Of
    several boxes the smallest is taken, of equal ones the first. All in float32.

    Args:
        points: [P, 2] (x, y), pixels: whole grids, level after level and row by row, as
            `level_points` gives them.
        strides: [P], pixels.
        ranges: [P, 2] lower (exclusive) and upper (inclusive) bound of the farthest side, pixels.
        boxes_xyxy: of each image, [G, 4], pixels. Boxes without an area get no point.
        center_sampling_radius: in strides; 0 takes the whole box (FCOS first version), 1.5 is
            `fcos_imprv_R_50_FPN_1x`.

    Returns:
        [B, P] index into the image's boxes, or `BACKGROUND`.

    Raises:
        ValueError: `points` are not whole grids.
    """
    num_points, num_images = len(points), len(boxes_xyxy)
    boxes = torch.cat(boxes_xyxy).to(points.dtype)
    if len(boxes) == 0:
        return torch.full((num_images, num_points), BACKGROUND, device=points.device)
    grids = _grids_of(points, strides, ranges)
    box, point = _candidates(grids, boxes, center_sampling_radius)
    fits = _answers(
        points[point], strides[point], ranges[point], boxes[box], center_sampling_radius
    )
    box, point = box[fits], point[fits]

    # Whole numbers in place of areas: the smallest of them is the same in whatever order a device
    # meets them, and equal areas are told apart by their order.
    smallest_first = _areas(boxes).argsort(stable=True)
    numbers = torch.arange(len(boxes), device=boxes.device)
    rank = torch.empty_like(numbers)
    rank[smallest_first] = numbers
    sizes = torch.tensor([len(image_boxes) for image_boxes in boxes_xyxy], device=boxes.device)
    image = torch.repeat_interleave(sizes, output_size=len(boxes))
    nobody = torch.full((num_images * num_points,), len(boxes), device=boxes.device)
    winners = nobody.scatter_reduce(0, image[box] * num_points + point, rank[box], "amin")

    own_number = numbers - (sizes.cumsum(0) - sizes)[image]
    by_rank = torch.cat([own_number[smallest_first], own_number.new_full((1,), BACKGROUND)])
    return by_rank[winners].view(num_images, num_points)


def _areas(boxes_xyxy: Tensor) -> Tensor:
    left, top, right, bottom = boxes_xyxy.unbind(-1)
    return (right - left) * (bottom - top)


def _answers(
    points: Tensor, strides: Tensor, ranges: Tensor, boxes_xyxy: Tensor, radius: float
) -> Tensor:
    """Which candidates [M] are positive: the rule itself, in float32."""
    top_left, bottom_right = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    sides = torch.cat([points - top_left, bottom_right - points], dim=1)
    farthest = sides.amax(1)
    answers = sides.amin(1) > 0
    if radius > 0:
        off_center = (points - (top_left + bottom_right) / 2).abs().amax(1)
        answers &= off_center < strides * radius
    return answers & (farthest > ranges[:, 0]) & (farthest <= ranges[:, 1])


@dataclass(frozen=True)
class _Grids:
    """The levels' grids, L of them; pairs are (x, y).

    Attributes:
        start: index of the first point, [L].
        count: points along each axis, [L, 2].
        origin: coordinates of the first point, pixels, float64 [L, 2].
        step: pixels from one point to the next, float64 [L, 2].
        stride: pixels, float64 [L].
        low, high: bounds of the range, pixels, float64 [L].
    """

    start: Tensor
    count: Tensor
    origin: Tensor
    step: Tensor
    stride: Tensor
    low: Tensor
    high: Tensor


def _grids_of(points: Tensor, strides: Tensor, ranges: Tensor) -> _Grids:
    """Find the levels and their grids in a list of points."""
    x, y = points.unbind(1)
    first = torch.ones(1, dtype=torch.bool, device=points.device)
    new_row = torch.cat([first, y[1:] != y[:-1]])
    # Row by row both coordinates only grow; where they fall back, or the stride changes, the next
    # level begins.
    back = (y[1:] < y[:-1]) | ((y[1:] == y[:-1]) & (x[1:] <= x[:-1]))
    new_level = torch.cat([first, back | (strides[1:] != strides[:-1])])
    start = new_level.nonzero().squeeze(1)
    rows = (new_row | new_level).nonzero().squeeze(1)
    end = torch.cat([start[1:], start.new_tensor([len(points)])])
    height = torch.searchsorted(rows, end) - torch.searchsorted(rows, start)
    width = torch.div(end - start, height, rounding_mode="floor")
    if not torch.equal(rows.diff(append=end[-1:]), width.repeat_interleave(height)):
        raise ValueError("points: not whole grids, level after level and row by row")
    count = torch.stack([width, height], dim=1)
    origin, corner = points[start].double(), points[end - 1].double()
    own_stride = strides[start].double()
    step = (corner - origin) / (count - 1).clamp(min=1)
    step = torch.where(count > 1, step, own_stride[:, None])
    low, high = ranges[start].double().unbind(1)
    return _Grids(start, count, origin, step, own_stride, low, high)


def _candidates(grids: _Grids, boxes_xyxy: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Pairs of a box [M] and a point [M] among which are all that answer."""
    top_left, bottom_right = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    side = (bottom_right - top_left).double().amax(1)[:, None]  # [N, 1], the longer one
    center = ((top_left + bottom_right) / 2).double()[:, None]  # [N, 1, 2]
    low, high = top_left.double()[:, None], bottom_right.double()[:, None]

    # A point inside has its farthest side at half the longer side or more, and within it.
    reachable, nearest = side, side / 2
    near_high = (grids.high * (1 + _RELATIVE_SLACK))[:, None]  # [L, 1]
    window_low = torch.maximum(low, high - near_high)  # [N, L, 2]
    window_high = torch.minimum(high, low + near_high)
    if radius > 0:
        reach = grids.stride * radius  # [L]
        largest = boxes_xyxy.abs().amax(1).double()[:, None]
        reachable = nearest + reach + grids.stride * _CELL_SLACK + largest * _RELATIVE_SLACK
        window_low = torch.maximum(window_low, center - reach[:, None])
        window_high = torch.minimum(window_high, center + reach[:, None])
    possible = (nearest <= grids.high) & (reachable > grids.low)  # [N, L]
    possible &= _areas(boxes_xyxy).isfinite()[:, None]

    first = ((window_low - grids.origin) / grids.step - _CELL_SLACK).ceil().clamp(min=0)
    last = ((window_high - grids.origin) / grids.step + _CELL_SLACK).floor()
    wide = torch.minimum(last, grids.count - 1.0) - first + 1  # [N, L, 2]
    wide = torch.where(possible[..., None], wide.clamp(min=0), 0.0).long()
    # Where nothing is possible, `first` may be anything; it is not used there.
    corner = torch.minimum(first, grids.count.double()).nan_to_num().long()
    width = grids.count[:, 0]
    base = grids.start + corner[..., 1] * width + corner[..., 0]  # [N, L], window's first point

    sizes = (wide[..., 0] * wide[..., 1]).flatten()
    pair = torch.repeat_interleave(sizes)  # [M] index into N x L
    place = torch.arange(len(pair), device=pair.device) - (sizes.cumsum(0) - sizes)[pair]
    row = torch.div(place, wide[..., 0].flatten()[pair], rounding_mode="floor")
    # One row down is a row of the map on, less the window's part already counted.
    skip = (width - wide[..., 0]).flatten()[pair]
    box = torch.div(pair, len(width), rounding_mode="floor")
    return box, base.flatten()[pair] + place + row * skip
