"""SimOTA against its rule written with loops, on ties the original leaves open, and at the edges.

Against the original itself: `test_yolox_parity.py`.
"""

import math

import pytest
import torch

from components.models.fcos_targets import BACKGROUND, level_points
from components.models.simota import simota, simota_batch

SHAPES, STRIDES = [(8, 10), (4, 5), (2, 3)], (8, 16, 32)
NUM_POINTS = sum(h * w for h, w in SHAPES)


def random_input(
    num_boxes: int, num_classes: int = 4, seed: int = 0, dtype=torch.float64, trained: bool = False
):
    """Boxes, some centred off the image; predictions at random, or near a box if `trained`."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(number: int):
        center = torch.rand(number, 2, generator=generator, dtype=dtype) * 110 - 15
        half = torch.rand(number, 2, generator=generator, dtype=dtype) * 25 + 0.1
        return torch.cat([center - half, center + half], dim=1)

    truth, predicted = boxes(num_boxes), boxes(NUM_POINTS)
    if trained:
        near = truth[torch.randint(0, num_boxes, (NUM_POINTS,), generator=generator)]
        predicted = near + torch.rand(NUM_POINTS, 4, generator=generator, dtype=dtype) * 0.1
    labels = torch.randint(0, num_classes, (num_boxes,), generator=generator)
    classes = torch.randn(NUM_POINTS, num_classes, generator=generator, dtype=dtype)
    objectness = torch.randn(NUM_POINTS, generator=generator, dtype=dtype)
    return truth, labels, predicted, classes, objectness


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def oracle(truth, labels, predicted, classes, objectness) -> list[int]:
    """The rule of `simota`'s docstring, one pair at a time."""
    points, levels = level_points(SHAPES, STRIDES)
    truth, predicted, points = truth.tolist(), predicted.tolist(), points.tolist()
    reach = [1.5 * STRIDES[level] for level in levels]

    def owns(g, p):
        x, y = (truth[g][0] + truth[g][2]) / 2, (truth[g][1] + truth[g][3]) / 2
        return abs(points[p][0] - x) < reach[p] and abs(points[p][1] - y) < reach[p]

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def cost(g, p):
        total = -3 * math.log(iou(truth[g], predicted[p]) + 1e-8)
        for number, logit in enumerate(classes[p].tolist()):
            score = math.sqrt(sigmoid(logit) * sigmoid(float(objectness[p])))
            total -= math.log(score if number == labels[g] else 1 - score)
        return total

    candidates = [p for p in range(len(points)) if any(owns(g, p) for g in range(len(truth)))]
    takers: dict[int, list[int]] = {}
    for g in range(len(truth)):
        best = sorted((iou(truth[g], predicted[p]) for p in candidates), reverse=True)[:10]
        order = sorted(candidates, key=lambda p: (not owns(g, p), cost(g, p), p))
        for p in order[: max(1, int(sum(best)))]:
            takers.setdefault(p, []).append(g)
    matched = [BACKGROUND] * len(points)
    for p, boxes in takers.items():
        owners = [g for g in range(len(truth)) if owns(g, p)]
        matched[p] = boxes[0] if len(boxes) == 1 else min(owners, key=lambda g: (cost(g, p), g))
    return matched


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("num_boxes", [1, 2, 5, 12])
def test_equals_the_loop_written_oracle(num_boxes, trained):
    for seed in range(6):
        given = random_input(num_boxes, seed=seed, trained=trained)
        matched, ious = simota(SHAPES, STRIDES, *given)
        assert matched.tolist() == oracle(*given)
        for p in (matched >= 0).nonzero().squeeze(1).tolist():
            wanted = iou(given[0][matched[p]].tolist(), given[2][p].tolist())
            assert ious[p].item() == pytest.approx(wanted, abs=1e-12)


def flat(truth, labels=None):
    """4 x 4 points that predict the same; costs differ by nothing but what a test then changes."""
    truth = torch.tensor(truth, dtype=torch.float32)
    labels = torch.tensor(labels or [0] * len(truth))
    predicted = torch.tensor([[900.0, 900, 910, 910]]).repeat(16, 1)
    return truth, labels, predicted, torch.zeros(16, int(labels.max()) + 1), torch.zeros(16)


def test_of_equal_costs_the_lower_point_goes_first():
    # Centre (16, 16) on a 4 x 4 map of stride 8: cells 1 and 2 each way, of all costs the same.
    matched, _ = simota([(4, 4)], (8,), *flat([[6, 6, 26, 26]]))
    assert (matched == 0).nonzero().tolist() == [[5]]


def test_a_contested_point_of_equal_costs_goes_to_the_first_box():
    truth, labels, predicted, classes, objectness = flat([[6.0, 6, 26, 26]] * 3)
    predicted[:] = truth[0]  # IoU 1 everywhere: each box takes all four points it owns
    matched, _ = simota([(4, 4)], (8,), truth, labels, predicted, classes, objectness)
    assert (matched == 0).nonzero().squeeze(1).tolist() == [5, 6, 9, 10]
    assert not (matched > 0).any()


def test_a_box_takes_its_own_points_before_cheaper_ones_of_others():
    # The second box owns only the corner point, of its wanted two; all points it does not own are
    # cheaper by far.
    truth, labels, predicted, classes, objectness = flat(
        [[6, 6, 26, 26], [-8.0, -8, -4, -4]], labels=[0, 1]
    )
    predicted[:] = torch.tensor([-8.0, -8, -4, -4])  # IoU 1 with the second box
    classes[1:, 1] = 9.0
    matched, _ = simota([(4, 4)], (8,), truth, labels, predicted, classes, objectness)
    assert matched[0] == 1


def test_costs_nearer_than_the_original_can_tell_still_decide_off_the_image():
    # The second box, centred off the image, owns nothing. Its costs at the first box's points
    # differ by 0.001; beside 1e6 in float32 the original sees no difference.
    truth, labels, predicted, classes, objectness = flat([[6, 6, 26, 26], [-90, -90, -50, -50]])
    objectness[10] = 0.001  # slightly more sure, so slightly cheaper
    predicted[5] = truth[0]  # the first box's choice
    matched, _ = simota([(4, 4)], (8,), truth, labels, predicted, classes, objectness)
    assert matched[5] == 0
    assert matched[10] == 1


def test_a_box_that_owns_nothing_loses_a_contested_point_to_the_owner():
    truth, labels, predicted, classes, objectness = flat([[6, 6, 26, 26], [-90, -90, -50, -50]])
    objectness[10] = 3.0  # cheapest for both
    matched, _ = simota([(4, 4)], (8,), truth, labels, predicted, classes, objectness)
    assert (matched >= 0).nonzero().tolist() == [[10]]
    assert matched[10] == 0


def test_points_on_the_border_of_the_radius_are_not_owned():
    # Centre (12, 12) is the centre of cell 1: cells 0 to 2 are 0 or 8 away, cell 3 is 16, over 12.
    truth, labels, predicted, classes, objectness = flat([[2.0, 2, 22, 22]])
    predicted[:] = truth[0]
    matched, _ = simota([(4, 4)], (8,), truth, labels, predicted, classes, objectness)
    assert (matched == 0).reshape(4, 4)[:3, :3].all() and (matched == 0).sum() == 9
    # Centre (16, 12): columns 1 and 2 are 4 away, 0 and 3 exactly 12, the radius.
    truth = torch.tensor([[6.0, 2, 26, 22]])
    matched, _ = simota([(4, 4)], (8,), truth, labels, truth.repeat(16, 1), classes, objectness)
    assert (matched == 0).nonzero().squeeze(1).tolist() == [1, 2, 5, 6, 9, 10]


@pytest.mark.parametrize("seed", range(5))
def test_order_of_boxes_changes_nothing_but_their_numbers(seed):
    truth, labels, *predictions = random_input(20, seed=seed)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    straight, _ = simota(SHAPES, STRIDES, truth, labels, *predictions)
    mixed, _ = simota(SHAPES, STRIDES, truth[order], labels[order], *predictions)
    assert torch.equal(torch.where(mixed >= 0, order[mixed.clamp(min=0)], mixed), straight)


def test_a_batch_says_what_its_images_say_alone():
    images = [random_input(number, seed=number) for number in (7, 0, 30)]
    truth, labels, *predictions = zip(*images, strict=True)
    matched, ious = simota_batch(SHAPES, STRIDES, truth, labels, *map(torch.stack, predictions))
    for row, image in enumerate(images):
        alone, alone_ious = simota(SHAPES, STRIDES, *image)
        assert torch.equal(matched[row], alone)
        assert torch.equal(ious[row], alone_ious)


def test_an_image_without_boxes_and_one_with_all_off_the_image_are_all_background():
    for truth in (torch.zeros(0, 4), torch.tensor([[-900.0, 0, -800, 50], [500, 500, 510, 520]])):
        _, _, *predictions = random_input(0)
        labels = torch.zeros(len(truth), dtype=torch.int64)
        matched, ious = simota(SHAPES, STRIDES, truth, labels, *predictions)
        assert (matched == BACKGROUND).all() and (ious == 0).all()


@pytest.mark.parametrize(("num_boxes", "num_classes"), [(500, 4), (3, 1), (3, 1000), (1, 2)])
def test_many_boxes_and_few_or_many_classes(num_boxes, num_classes):
    given = random_input(num_boxes, num_classes, dtype=torch.float32)
    matched, ious = simota(SHAPES, STRIDES, *given)
    assert (matched >= 0).any() and matched.max() < num_boxes
    assert ious.isfinite().all() and ious.max() <= 1 + 1e-6


@pytest.mark.parametrize("box", [[20, 20, 21, 21], [50, 40, 50, 40]])
def test_a_box_of_one_pixel_and_one_without_area_get_a_point(box):
    _, labels, *predictions = random_input(1, dtype=torch.float32)
    matched, ious = simota(SHAPES, STRIDES, torch.tensor([box]).float(), labels, *predictions)
    assert (matched == 0).sum() == 1
    assert ious.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_computed_in_float32(dtype):
    truth, labels, *predictions = random_input(10, dtype=torch.float32)
    truth, *low = (values.to(dtype) for values in (truth, *predictions))
    matched, ious = simota(SHAPES, STRIDES, truth, labels, *low)
    high = (values.float() for values in low)
    wanted, wanted_ious = simota(SHAPES, STRIDES, truth.float(), labels, *high)
    assert torch.equal(matched, wanted) and torch.equal(ious, wanted_ious)
    assert ious.dtype == torch.float32


def test_a_diverged_network_is_no_error_here():
    truth, labels, *predictions = random_input(10, dtype=torch.float32)
    for number in range(3):
        broken = [values.clone() for values in predictions]
        broken[number].fill_(torch.nan)
        matched, _ = simota(SHAPES, STRIDES, truth, labels, *broken)
        assert (matched >= 0).any()
