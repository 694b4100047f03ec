"""Losses against formulas written out with loops."""

import math

import pytest
import torch

from components.models.losses import centerness, centerness_loss, focal_loss, giou_loss


def test_focal_loss_equals_its_formula():
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 3), (torch.rand(7, 3) > 0.7).float()
    total = 0.0
    for logit, target in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        p_true, alpha = (p, 0.25) if target else (1 - p, 0.75)
        total -= alpha * (1 - p_true) ** 2 * math.log(p_true)
    assert focal_loss(logits, targets).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("a", "b", "giou"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], 1.0),
        ([0, 0, 10, 10], [0, 0, 10, 5], 0.5),  # one inside the other: the hull is the larger
        ([0, 0, 1, 1], [9, 0, 10, 1], -0.8),  # apart: hull 10, union 2
    ],
)
def test_giou_of_boxes_drawn_by_hand(a, b, giou):
    loss = giou_loss(torch.tensor([a], dtype=torch.float32), torch.tensor([b]).float())
    assert loss.item() == pytest.approx(1 - giou, abs=1e-5)


def test_centerness_is_one_in_the_middle_and_falls_to_the_side():
    sides = torch.tensor([[5.0, 5, 5, 5], [1.0, 5, 9, 5], [2.0, 3, 8, 12]])
    expected = [1.0, math.sqrt(1 / 9), math.sqrt(2 / 8 * 3 / 12)]
    assert centerness(sides).tolist() == pytest.approx(expected, rel=1e-6)


def test_empty_input_is_zero_and_differentiable():
    logits = torch.zeros(0, requires_grad=True)
    total = focal_loss(logits, torch.zeros(0)) + centerness_loss(logits, torch.zeros(0))
    boxes = torch.zeros(0, 4, requires_grad=True)
    total = total + giou_loss(boxes, torch.zeros(0, 4)).sum()
    total.backward()
    assert total.item() == 0


def test_low_precision_is_computed_in_float32():
    logits = torch.tensor([40.0, -40.0], dtype=torch.bfloat16)
    assert focal_loss(logits, torch.tensor([0.0, 1.0])).dtype == torch.float32
