"""FCOS assignment against an oracle written with loops, and on cases drawn by hand."""

import pytest
import torch
from fcos_oracle import STRIDES, grid, oracle, random_boxes

from components.models.fcos_targets import (
    BACKGROUND,
    assign_batch,
    assign_points,
    level_points,
)

INF = float("inf")


def compare_with_oracle(num_images: int, seed: int) -> int:
    """Random batches of random sizes; gives how many points had a box."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    positives = done = 0
    while done < num_images:
        height, width = 8 * draw(1, 24), 8 * draw(1, 24)
        offset = (0.5, 0.0, 0.25)[draw(0, 3)]
        points, strides, ranges = grid(height, width, offset=offset)
        boxes = [random_boxes(generator, draw(0, 9), height, width) for _ in range(draw(1, 5))]
        for radius in (1.5, 0.0):
            ours = assign_batch(points, strides, ranges, boxes, radius)
            expected = [oracle(points, strides, ranges, image, radius) for image in boxes]
            assert ours.tolist() == expected
            positives += int((ours != BACKGROUND).sum())
        done += len(boxes)
    return positives


def test_equals_the_loop_written_oracle():
    assert compare_with_oracle(300, seed=0) > 3000


@pytest.mark.slow
def test_equals_the_loop_written_oracle_on_5000_images():
    assert compare_with_oracle(5000, seed=1) > 50_000


@pytest.mark.parametrize(
    ("strides", "ranges"),
    [
        ((4, 8, 16), ((0, 20), (10, 50), (30, INF))),  # overlapping: a box has points of two levels
        ((8, 8), ((0, 16), (40, 90))),  # the same stride twice, and a gap
        ((32, 8), ((30, INF), (-1, 30))),  # coarse before fine
        ((10, 24), ((-1, 33.5), (33.5, 1e9))),
        ((16,), ((-1, INF),)),
    ],
)
@pytest.mark.parametrize("radius", [0.0, 0.5, 1.5, 4.0])
def test_any_strides_ranges_and_radius(strides, ranges, radius):
    generator = torch.Generator().manual_seed(2)
    points, point_strides, point_ranges = grid(96, 72, strides, ranges)
    boxes = [random_boxes(generator, 12, 96, 72) for _ in range(8)]
    ours = assign_batch(points, point_strides, point_ranges, boxes, radius)
    for row, image in zip(ours.tolist(), boxes, strict=True):
        assert row == oracle(points, point_strides, point_ranges, image, radius)


def test_float32_decides_as_testing_every_pair_does():
    """Corners with all their bits: rounding must not make a window lose a point."""
    generator = torch.Generator().manual_seed(3)
    for case in range(60):
        points, strides, ranges = grid(160, 224, offset=(0.5, 0.0)[case % 2])
        corner = torch.rand(20, 2, generator=generator) * 250 - 40
        boxes = torch.cat(
            [corner, corner + torch.exp(torch.rand(20, 2, generator=generator) * 5.5)], dim=1
        )
        # Also with a side exactly on points, or a point exactly at the end of a range or reach.
        boxes[:5] = boxes[:5].round()
        boxes[5, :2] = points[case] - 64
        boxes[6] = points[case].repeat(2) + torch.tensor([-12.0, -12, 36, 36])
        for radius in (0.0, 1.5, 0.7):
            ours = assign_points(points, strides, ranges, boxes, radius)
            assert torch.equal(ours, every_pair(points, strides, ranges, boxes, radius))


def every_pair(points, strides, ranges, boxes, radius):
    """The rule in float32 on all pairs of a point and a box."""
    top_left, bottom_right = boxes[None, :, :2], boxes[None, :, 2:]
    at = points[:, None]
    sides = torch.cat([at - top_left, bottom_right - at], dim=2)
    answers = (sides > 0).all(2)
    answers &= (sides.amax(2) > ranges[:, :1]) & (sides.amax(2) <= ranges[:, 1:])
    if radius > 0:
        off_center = (at - (top_left + bottom_right) / 2).abs().amax(2)
        answers &= off_center < radius * strides[:, None]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    smallest, chosen = torch.where(answers, areas, INF).min(1)
    return torch.where(smallest < INF, chosen, BACKGROUND)


def at(points, strides, x, y, stride=8.0):
    """Index of the one point of that level at that place."""
    here = (points == torch.tensor([x, y])).all(1) & (strides == stride)
    return int(here.nonzero().squeeze())


@pytest.mark.parametrize(
    ("box", "positive", "reason"),
    [
        ((20, 20, 36, 36), True, "centre of the box"),
        ((28, 20, 40, 36), False, "on the left side: inside is strict"),
        ((27.75, 20, 40, 36), True, "a quarter of a pixel inside"),
        ((16, 16, 28, 40), False, "on the right side"),
        ((4, 4, 76, 76), False, "12 pixels off centre: reach of 1.5 strides is strict"),
        ((4, 4, 75.5, 75.5), True, "11.75 pixels off centre"),
        ((-36, 20, 92, 36), True, "farthest side at 64: the upper bound belongs to the range"),
        ((-36.5, 20, 92, 36), False, "farthest side beyond 64"),
        ((28, 28, 28, 28), False, "no area"),
        ((36, 36, 20, 20), False, "corners the wrong way round"),
        ((27.5, 27.5, 28.5, 28.5), True, "one pixel, on the point"),
        ((29, 29, 30, 30), False, "one pixel, between points"),
    ],
)
def test_bounds_of_the_rule(box, positive, reason):
    points, strides, ranges = grid()
    chosen = assign_points(points, strides, ranges, torch.tensor([box], dtype=torch.float32))
    assert (chosen[at(points, strides, 28, 28)] == 0) == positive, reason


def test_the_lower_bound_of_a_range_is_exclusive():
    points, strides, ranges = grid()
    place = at(points, strides, 40, 40, stride=16.0)
    # Farthest side 64 belongs to the first level, a quarter of a pixel more to the second.
    for right, expected in ((104, BACKGROUND), (104.25, 0)):
        box = torch.tensor([[-23.0, 30, right, 50]])
        assert assign_points(points, strides, ranges, box)[place] == expected


def test_cell_centres_lie_half_a_stride_in():
    points, levels = level_points([(2, 3), (1, 1)], (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8]]
    assert levels.tolist() == [0] * 6 + [1]


def test_the_offset_of_the_grid_is_free():
    points, _ = level_points([(1, 2)], (8,), offset=0)
    assert points.tolist() == [[0, 0], [8, 0]]
    assert points.dtype == torch.float32


def test_points_that_are_no_grid_are_refused():
    points, strides, ranges = grid()
    for end in (30, -3):
        with pytest.raises(ValueError, match="points: not whole grids"):
            assign_points(points[:end], strides[:end], ranges[:end], torch.ones(1, 4))


def test_images_without_boxes_are_all_background():
    points, strides, ranges = grid()
    nothing, box = torch.zeros(0, 4), torch.tensor([[8.0, 8, 40, 40]])
    assert (assign_points(points, strides, ranges, nothing) == BACKGROUND).all()
    for boxes in ([nothing, box], [box, nothing], [nothing, box, nothing, nothing, box]):
        chosen = assign_batch(points, strides, ranges, boxes)
        for row, own in zip(chosen, boxes, strict=True):
            assert torch.equal(row, assign_points(points, strides, ranges, own))


def test_boxes_outside_the_image_or_not_finite_get_no_point():
    points, strides, ranges = grid()
    lost = torch.tensor(
        [
            [-50.0, -50, -10, -10],
            [500.0, 10, 540, 50],
            [float("nan")] * 4,
            [0.0, 0, INF, INF],
            [-INF, 0, INF, 50],
            [-1e30, -1e30, 1e30, 1e30],
        ]
    )
    for radius in (0.0, 1.5):
        assert (assign_points(points, strides, ranges, lost, radius) == BACKGROUND).all()
        # And they do not disturb the others.
        some = torch.tensor([[8.0, 8, 40, 40]])
        alone = assign_points(points, strides, ranges, some, radius)
        beside = assign_points(points, strides, ranges, torch.cat([some, lost]), radius)
        assert torch.equal(alone, beside)


def test_a_batch_gives_what_its_images_give_alone():
    generator = torch.Generator().manual_seed(4)
    points, strides, ranges = grid(256, 320)
    boxes = [random_boxes(generator, count, 256, 320) for count in (3, 500, 0, 1, 40)]
    for radius in (0.0, 1.5):
        together = assign_batch(points, strides, ranges, boxes, radius)
        for row, image in zip(together, boxes, strict=True):
            assert torch.equal(row, assign_points(points, strides, ranges, image, radius))


def test_the_smaller_of_two_boxes_wins():
    points, strides, ranges = grid()
    boxes = torch.tensor([[0.0, 0, 60, 60], [20.0, 20, 40, 40]])
    here = at(points, strides, 28, 28)
    assert assign_points(points, strides, ranges, boxes)[here] == 1
    assert assign_points(points, strides, ranges, boxes.flip(0))[here] == 0


def test_of_equal_boxes_the_first_wins():
    points, strides, ranges = grid()
    small = torch.tensor([[20.0, 20, 40, 40]])
    boxes = torch.cat([torch.tensor([[0.0, 0, 60, 60]]), small, small, small])
    assert assign_points(points, strides, ranges, boxes).unique().tolist() == [BACKGROUND, 0, 1]


def test_order_of_boxes_changes_nothing_but_their_numbers():
    generator = torch.Generator().manual_seed(5)
    points, strides, ranges = grid()
    boxes = random_boxes(generator, 60, 128, 160)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    boxes = boxes[(areas[:, None] == areas).sum(1) == 1]  # of equal areas the order decides
    order = torch.randperm(len(boxes), generator=generator)
    for radius in (0.0, 1.5):
        straight = assign_points(points, strides, ranges, boxes, radius)
        mixed = assign_points(points, strides, ranges, boxes[order], radius)
        assert torch.equal(torch.where(mixed >= 0, order[mixed.clamp(min=0)], mixed), straight)
        assert (straight >= 0).sum() > 20


def test_a_shift_by_the_coarsest_stride_shifts_the_answer():
    points, strides, ranges = grid(256, 256)
    box = torch.tensor([[10.0, 12, 50, 44]])
    here = points[assign_points(points, strides, ranges, box) == 0]
    there = points[assign_points(points, strides, ranges, box + STRIDES[-1]) == 0]
    assert torch.equal(here + STRIDES[-1], there)
