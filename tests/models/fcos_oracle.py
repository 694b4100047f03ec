"""FCOS assignment written with loops, one point and one box at a time, and what tests feed it."""

import math

import torch

from components.models.fcos_targets import BACKGROUND, REGRESS_RANGES, level_points

STRIDES = (8, 16, 32, 64, 128)


def grid(height=128, width=160, strides=STRIDES, ranges=REGRESS_RANGES, offset=0.5):
    """Points, strides and ranges of an image's pyramid, as the detector makes them."""
    shapes = [(math.ceil(height / s), math.ceil(width / s)) for s in strides]
    points, levels = level_points(shapes, strides, offset)
    return (
        points,
        torch.tensor(strides, dtype=torch.float32)[levels],
        torch.tensor(ranges, dtype=torch.float32)[levels],
    )


def oracle(points, strides, ranges, boxes, radius):
    """The rule of the paper; exact where coordinates are, such as quarters of a pixel."""
    boxes = boxes.tolist()
    chosen = []
    for (x, y), stride, (low, high) in zip(
        points.tolist(), strides.tolist(), ranges.tolist(), strict=True
    ):
        best, best_area = BACKGROUND, math.inf
        for number, (x1, y1, x2, y2) in enumerate(boxes):
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            if min(sides) <= 0 or not low < max(sides) <= high:
                continue
            off = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            if radius > 0 and off >= radius * stride:
                continue
            area = (x2 - x1) * (y2 - y1)
            if area < best_area:
                best, best_area = number, area
        chosen.append(best)
    return chosen


def random_boxes(generator, count, height, width):
    """Boxes [count, 4] of all sizes, some half or wholly outside, with quarter-pixel corners."""
    size = torch.tensor([width, height], dtype=torch.float32)
    # From under a pixel to more than the image, evenly over orders of magnitude.
    extent = torch.exp(torch.rand(count, 2, generator=generator) * math.log(1.2 * max(size)))
    corner = torch.rand(count, 2, generator=generator) * (1.4 * size) - 0.4 * size
    extent = (4 * extent).ceil() / 4
    corner = (4 * corner).round() / 4
    return torch.cat([corner, corner + extent], dim=1)
