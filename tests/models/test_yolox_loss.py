"""The YOLOX loss and decoding on cases with a known answer, and at the edges.

Against the original: `test_yolox_parity.py`.
"""

import math

import pytest
import torch

from components.models.postprocess import select_detections
from components.models.yolox_loss import (
    YOLOX_LOSS_WEIGHTS,
    iou_squared_loss,
    yolox_logits_and_boxes,
    yolox_loss,
)
from components.models.yolox_network import yolox_network

STRIDES = (8, 16, 32)


def raw_levels(batch: int = 2, num_classes: int = 3, size: int = 96, fill: float | None = None):
    """Random raw outputs, or all of one value."""
    generator = torch.Generator().manual_seed(0)
    return [
        [
            torch.randn(batch, channels, size // s, size // s, generator=generator)
            if fill is None
            else torch.full((batch, channels, size // s, size // s), fill)
            for s in STRIDES
        ]
        for channels in (num_classes, 4, 1)
    ]


def truth(number: int, num_classes: int = 3, size: int = 96, side: float = 30.0):
    generator = torch.Generator().manual_seed(number)
    low = torch.rand(number, 2, generator=generator) * (size - side)
    boxes = torch.cat([low, low + side], dim=1)
    return boxes, torch.randint(0, num_classes, (number,), generator=generator)


def gradients_of(levels, boxes, labels, **kwargs):
    for part in levels:
        for level in part:
            level.requires_grad_()
    losses = yolox_loss(*levels, STRIDES, boxes, labels, use_l1=True, **kwargs)
    assert set(losses) == set(YOLOX_LOSS_WEIGHTS)
    assert all(value.isfinite() and value.ndim == 0 for value in losses.values()), losses
    sum(losses.values()).backward()
    gradients = [[level.grad for level in part] for part in levels]
    assert all(grad.isfinite().all() for part in gradients for grad in part)
    return losses, gradients


def test_a_batch_without_boxes_teaches_objectness_only():
    losses, (cls, reg, obj) = gradients_of(
        raw_levels(), [torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    )
    assert losses["reg_loss"] == losses["cls_loss"] == losses["l1_loss"] == 0
    assert losses["obj_loss"] > 0
    assert all((grad == 0).all() for grad in [*cls, *reg])
    assert all((grad > 0).all() for grad in obj)  # every point is to say less


def test_a_perfect_prediction_costs_nothing():
    # One box of 16 x 24 pixels, centred on the corner of cell (6, 5) of the finest level.
    levels = raw_levels(batch=1, fill=-20.0)
    cls, reg, obj = levels
    reg[0][0, :, 5, 6] = torch.tensor([0.0, 0.0, math.log(2), math.log(3)])
    cls[0][0, 2, 5, 6] = obj[0][0, 0, 5, 6] = 20.0
    box = torch.tensor([[48.0 - 8, 40 - 12, 48 + 8, 40 + 12]])
    losses = yolox_loss(*levels, STRIDES, [box], [torch.tensor([2])], use_l1=True)
    assert all(value < 1e-5 for value in losses.values()), losses
    classes, objectness, boxes = yolox_logits_and_boxes(*levels, STRIDES)
    scores = classes.sigmoid() * objectness.sigmoid()[..., None]
    found = select_detections(scores, boxes, (96, 96))
    assert torch.allclose(found[0][0, 0], box[0], atol=1e-4)
    assert found[2][0, :2].tolist() == [2, -1]


def test_scores_are_class_times_objectness_in_the_order_of_points():
    cls, reg, obj = raw_levels()
    classes, objectness, boxes = yolox_logits_and_boxes(cls, reg, obj, STRIDES)
    scores = classes.sigmoid() * objectness.sigmoid()[..., None]
    assert scores.shape == (2, 144 + 36 + 9, 3) and boxes.shape == (2, 189, 4)
    point = 144 + 2 * 6 + 4  # row 2, column 4 of the second level
    wanted = cls[1][1, :, 2, 4].sigmoid() * obj[1][1, 0, 2, 4].sigmoid()
    assert torch.allclose(scores[1, point], wanted)
    x, y, w, h = reg[1][1, :, 2, 4].tolist()
    center = torch.tensor([(4 + x) * 16, (2 + y) * 16])
    half = torch.tensor([w, h]).exp() * 8
    assert torch.allclose(boxes[1, point], torch.cat([center - half, center + half]), rtol=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [0, 5, 10, 10], 0.5),
        ([0, 0, 10, 10], [10, 0, 20, 10], 0.0),  # side by side
        ([0, 0, 10, 10], [90, 90, 99, 99], 0.0),  # apart both ways: not a positive area
        ([0, 0, 0, 0], [0, 0, 0, 0], 0.0),
    ],
)
def test_iou_squared_loss_of_boxes_drawn_by_hand(a, b, iou):
    a = torch.tensor([a]).float().requires_grad_()
    loss = iou_squared_loss(a, torch.tensor([b]).float())
    assert loss.item() == pytest.approx(1 - iou**2, abs=1e-6)
    loss.sum().backward()
    assert a.grad.isfinite().all()


def test_order_of_boxes_changes_nothing():
    boxes, labels = truth(12)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    other = truth(3)
    straight, _ = gradients_of(raw_levels(), [boxes, other[0]], [labels, other[1]])
    mixed, _ = gradients_of(raw_levels(), [boxes[order], other[0]], [labels[order], other[1]])
    for name, value in straight.items():
        assert torch.allclose(value, mixed[name]), name


def test_an_image_twice_costs_what_it_costs_once():
    one = [[level[:1] for level in part] for part in raw_levels()]
    two = [[level.repeat(2, 1, 1, 1) for level in part] for part in one]
    boxes, labels = truth(5)
    single, _ = gradients_of(one, [boxes], [labels])
    double, _ = gradients_of(two, [boxes, boxes], [labels, labels])
    for name, value in single.items():
        assert torch.allclose(value, double[name]), name


@pytest.mark.parametrize(
    ("number", "num_classes", "side"),
    [(500, 3, 30.0), (4, 3, 1.0), (4, 1, 30.0), (4, 1000, 30.0), (1, 3, 95.0), (4, 3, 0.0)],
    ids=["500 boxes", "one pixel", "one class", "1000 classes", "whole image", "no area"],
)
def test_losses_and_gradients_are_finite(number, num_classes, side):
    boxes, labels = truth(number, num_classes, side=side)
    empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    gradients_of(raw_levels(num_classes=num_classes), [boxes, empty[0]], [labels, empty[1]])


@pytest.mark.parametrize("fill", [-200.0, 200.0])
def test_raw_outputs_out_of_all_bounds_give_finite_losses(fill):
    boxes, labels = truth(4)
    gradients_of(raw_levels(fill=fill), [boxes, boxes], [labels, labels])


def test_bfloat16_autocast_reaches_every_weight():
    torch.manual_seed(0)
    network = yolox_network("yolox-nano", 3)
    boxes, labels = truth(4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(torch.rand(2, 3, 96, 96) * 255)
        losses = yolox_loss(*outputs, STRIDES, [boxes, boxes[:1]], [labels, labels[:1]], True)
    assert outputs[0][0].dtype == torch.bfloat16
    assert all(value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_other_losses_can_be_plugged_in():
    seen = {}

    def class_loss(logits, targets):
        seen["targets"] = targets
        return (logits - targets) ** 2  # elementwise: summed by the caller

    def box_loss(predicted, target):
        seen["boxes"] = target
        return torch.full((len(predicted),), 2.0)

    boxes, labels = truth(4)
    losses = yolox_loss(
        *raw_levels(1), STRIDES, [boxes], [labels], cls_loss_fn=class_loss, reg_loss_fn=box_loss
    )
    assert losses["reg_loss"] == 2
    assert all(any(torch.equal(row, box) for box in boxes) for row in seen["boxes"])
    # One class of each row is wanted, as strongly as prediction and box overlap.
    assert ((seen["targets"] > 0).sum(1) <= 1).all() and seen["targets"].max() > 0


def test_distributed_processes_divide_by_their_mean(monkeypatch):
    boxes, labels = truth(5)
    alone = yolox_loss(*raw_levels(1), STRIDES, [boxes], [labels])
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    # The other process has three times as many points: the mean is twice ours.
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda value: value.mul_(4))
    together = yolox_loss(*raw_levels(1), STRIDES, [boxes], [labels])
    for name, value in alone.items():
        assert together[name].item() == pytest.approx(value.item() / 2)
