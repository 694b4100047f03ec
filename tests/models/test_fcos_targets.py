"""FCOS assignment against an oracle written with loops, and on cases drawn by hand."""

import math

import pytest
import torch

from components.models.fcos_targets import (
    BACKGROUND,
    REGRESS_RANGES,
    assign_points,
    level_points,
)

STRIDES = (8, 16, 32, 64, 128)


def grid(height: int = 128, width: int = 160):
    shapes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    points, levels = level_points(shapes, STRIDES)
    strides = torch.tensor(STRIDES, dtype=torch.float32)[levels]
    ranges = torch.tensor(REGRESS_RANGES, dtype=torch.float32)[levels]
    return points, strides, ranges


def oracle(points, strides, ranges, boxes, radius):
    """The rule of the paper, one point and one box at a time."""
    chosen = []
    for (x, y), stride, (low, high) in zip(
        points.tolist(), strides.tolist(), ranges.tolist(), strict=True
    ):
        best, best_area = BACKGROUND, math.inf
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
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


@pytest.mark.parametrize("radius", [0.0, 1.5])
def test_equals_the_loop_written_oracle(radius):
    generator = torch.Generator().manual_seed(0)
    points, strides, ranges = grid()
    for case in range(40):
        # Quarter pixels: exact in float32, so that both sides decide ties alike.
        corners = torch.randint(0, 4 * 120, (case % 9, 4), generator=generator) / 4
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:] + 0.25], dim=1)
        ours = assign_points(points, strides, ranges, boxes, radius)
        assert ours.tolist() == oracle(points, strides, ranges, boxes, radius)


def test_cell_centres_lie_half_a_stride_in():
    points, levels = level_points([(2, 3), (1, 1)], (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert levels.tolist() == [0] * 6 + [1]


def test_an_image_without_boxes_is_all_background():
    points, strides, ranges = grid()
    assert (assign_points(points, strides, ranges, torch.zeros(0, 4)) == BACKGROUND).all()


def test_the_smaller_of_two_boxes_wins():
    points, strides, ranges = grid()
    boxes = torch.tensor([[0.0, 0, 60, 60], [20.0, 20, 40, 40]])
    at = (points == torch.tensor([28.0, 28.0])).all(1).nonzero()[0]
    assert assign_points(points, strides, ranges, boxes)[at] == 1
    assert assign_points(points, strides, ranges, boxes.flip(0))[at] == 0


def test_order_of_boxes_changes_nothing_but_their_numbers():
    points, strides, ranges = grid()
    boxes = torch.tensor([[3.0, 5, 40, 50], [10.0, 70, 90, 120], [60.0, 8, 75, 31]])
    order = torch.tensor([2, 0, 1])
    straight = assign_points(points, strides, ranges, boxes)
    mixed = assign_points(points, strides, ranges, boxes[order])
    assert torch.equal(torch.where(mixed >= 0, order[mixed.clamp(min=0)], mixed), straight)


def test_a_shift_by_the_coarsest_stride_shifts_the_answer():
    points, strides, ranges = grid(256, 256)
    box = torch.tensor([[10.0, 12, 50, 44]])
    here = points[assign_points(points, strides, ranges, box) == 0]
    there = points[assign_points(points, strides, ranges, box + 128) == 0]
    assert torch.equal(here + 128, there)
