"""FCOS target assignment: which box, if any, each point of the feature maps answers for.

Shapes: P points over all levels, G boxes of one image.
"""

from __future__ import annotations

import torch
from torch import Tensor

BACKGROUND = -1

# Largest side distance, input pixels, that each level answers for (arXiv:1904.01355, section 3.2).
REGRESS_RANGES = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, float("inf")))


def level_points(shapes: list[tuple[int, int]], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Centres of all cells of all levels, row by row.

    Args:
        shapes: (height, width) of each level's map, cells.
        strides: input pixels per cell.

    Returns:
        points [P, 2] as (x, y) in input pixels, and each point's level [P].
    """
    points, levels = [], []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        # A cell's centre lies half a stride in; torchvision's grid leaves that out.
        y = (torch.arange(height) + 0.5) * stride
        x = (torch.arange(width) + 0.5) * stride
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
    """The box each point answers for.

    A point answers for a box if it lies inside it, within `center_sampling_radius` strides of its
    centre, and the farthest side lies within the level's range. Of several boxes the smallest is
    taken (of equal ones the first).

    Args:
        points: [P, 2] (x, y), pixels.
        strides: [P], pixels.
        ranges: [P, 2] lower (exclusive) and upper (inclusive) bound of the farthest side, pixels.
        boxes_xyxy: [G, 4], pixels.
        center_sampling_radius: in strides; 0 takes the whole box (FCOS first version), 1.5 is
            `fcos_imprv_R_50_FPN_1x`.

    Returns:
        [P] index into `boxes_xyxy`, or `BACKGROUND`.
    """
    num_points = len(points)
    if len(boxes_xyxy) == 0:
        return torch.full((num_points,), BACKGROUND, dtype=torch.int64, device=points.device)
    x, y = points[:, None, 0], points[:, None, 1]
    left, top, right, bottom = boxes_xyxy[None].unbind(-1)
    sides = torch.stack([x - left, y - top, right - x, bottom - y], dim=-1)  # [P, G, 4]
    farthest = sides.amax(-1)
    answers = sides.amin(-1) > 0
    if center_sampling_radius > 0:
        reach = strides[:, None] * center_sampling_radius
        off_center = torch.maximum((x - (left + right) / 2).abs(), (y - (top + bottom) / 2).abs())
        answers &= off_center < reach
    answers &= (farthest > ranges[:, :1]) & (farthest <= ranges[:, 1:])
    areas = (right - left) * (bottom - top)
    cost = torch.where(answers, areas.expand(num_points, -1), torch.inf)
    smallest, chosen = cost.min(dim=1)
    return torch.where(smallest.isfinite(), chosen, BACKGROUND)
