"""The FCOS loss: losses of one's own, extreme input, batch against single images."""

import pytest
import torch
from fcos_oracle import grid, random_boxes

from components.models.fcos_loss import fcos_loss
from components.models.losses import focal_loss, giou_loss


def outputs(num_images, num_points, num_classes):
    torch.manual_seed(0)
    return (
        torch.randn(num_images, num_points, num_classes).requires_grad_(),
        torch.rand(num_images, num_points, 4).add(0.1).requires_grad_(),
        torch.randn(num_images, num_points).requires_grad_(),
    )


def scene(counts, num_classes, height=64, width=96):
    generator = torch.Generator().manual_seed(1)
    boxes = [random_boxes(generator, count, height, width) for count in counts]
    return boxes, [torch.arange(count) % num_classes for count in counts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("counts", "num_classes"), [((0, 0), 3), ((1, 0), 1), ((500, 2), 80), ((40, 7), 1000)]
)
def test_extreme_input_gives_finite_losses_and_gradients(counts, num_classes, dtype):
    at = grid(64, 96)
    raw = outputs(len(counts), len(at[0]), num_classes)
    boxes, labels = scene(counts, num_classes)
    if counts[1] == 2:  # of one pixel on a point, and outside the image
        boxes[1] = torch.tensor([[11.5, 11.5, 12.5, 12.5], [-90.0, -90, -80, -80]])
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = fcos_loss(*(tensor.to(dtype) for tensor in raw), *at, boxes, labels)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(tensor.grad).all() for tensor in raw)
    assert raw[0].grad.abs().sum() > 0
    assert (losses["reg_loss"] > 0) == (sum(counts) > 0)


def test_losses_of_ones_own_stand_in_for_the_defaults():
    at = grid(64, 96)
    boxes, labels = scene((3, 0, 9), 4)
    raw = outputs(3, len(at[0]), 4)
    default = fcos_loss(*raw, *at, boxes, labels)
    given = fcos_loss(*raw, *at, boxes, labels, cls_loss_fn=focal_loss, reg_loss_fn=giou_loss)
    for name, value in default.items():
        torch.testing.assert_close(given[name], value)
    # Elementwise classification losses are summed; `focal_alpha` is for the default only.
    bce = torch.nn.BCEWithLogitsLoss(reduction="none")
    summed = torch.nn.BCEWithLogitsLoss(reduction="sum")
    one, other = (
        fcos_loss(*raw, *at, boxes, labels, focal_alpha=alpha, cls_loss_fn=loss)["cls_loss"]
        for alpha, loss in ((0.25, bce), (0.75, summed))
    )
    torch.testing.assert_close(one, other)
    assert one > default["cls_loss"]
    zero = fcos_loss(*raw, *at, boxes, labels, reg_loss_fn=lambda p, t: (p - t).abs().sum(1) * 0)
    assert zero["reg_loss"] == 0 and zero["cls_loss"] == default["cls_loss"]


def test_a_box_loss_already_summed_is_refused():
    at = grid(64, 96)
    boxes, labels = scene((9,), 2)
    with pytest.raises(ValueError, match=r"reg_loss_fn gave shape \[\] for \d+ boxes; allowed"):
        fcos_loss(
            *outputs(1, len(at[0]), 2),
            *at,
            boxes,
            labels,
            reg_loss_fn=lambda predicted, target: giou_loss(predicted, target).sum(),
        )


def test_boxes_in_another_order_give_the_same_loss():
    at = grid(64, 96)
    boxes, labels = scene((12, 5), 3)
    raw = outputs(2, len(at[0]), 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    areas = (boxes[0][:, 2:] - boxes[0][:, :2]).prod(1)
    assert len(areas.unique()) == 12  # of equal areas the first would win
    straight = fcos_loss(*raw, *at, boxes, labels)
    mixed = fcos_loss(*raw, *at, [boxes[0][order], boxes[1]], [labels[0][order], labels[1]])
    for name, value in straight.items():
        torch.testing.assert_close(mixed[name], value)
