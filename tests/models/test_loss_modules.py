"""Loss modules against formulas written out with loops, and losses by name."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from components.models.loss_modules import (
    CenternessLoss,
    CIoULoss,
    DIoULoss,
    FCOSLoss,
    FocalLoss,
    GIoULoss,
    IoULoss,
)
from components.models.loss_registry import (
    LossRegistry,
    as_classification_loss,
    as_cls_loss,
    as_reg_loss,
    get_loss,
    get_loss_registry,
    list_available_losses,
    list_losses,
    register_custom_loss,
    register_loss,
)

BOX_LOSSES = (IoULoss, GIoULoss, DIoULoss, CIoULoss)


@pytest.fixture
def own_names(monkeypatch):
    """Names registered in this test are forgotten after it."""
    registry = get_loss_registry()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(registry, "_aliases", dict(registry._aliases))


def slow_focal(logits, targets, alpha, gamma):
    """The loss of each row."""
    rows = []
    for row, target_row in zip(logits.tolist(), targets.tolist(), strict=True):
        total = 0.0
        for logit, target in zip(row, target_row, strict=True):
            p = 1 / (1 + math.exp(-logit))
            p_true, weight = (p, alpha) if target else (1 - p, 1 - alpha)
            total -= weight * (1 - p_true) ** gamma * math.log(p_true)
        rows.append(total)
    return rows


def slow_box_losses(a, b):
    """IoU, GIoU, DIoU and CIoU loss of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    union = sum(areas) - width * height
    iou = width * height / union
    hull_w, hull_h = max(a[2], b[2]) - min(a[0], b[0]), max(a[3], b[3]) - min(a[1], b[1])
    giou = iou - (hull_w * hull_h - union) / (hull_w * hull_h)
    apart = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diou = iou - apart / (hull_w**2 + hull_h**2)
    angles = [math.atan((c[2] - c[0]) / (c[3] - c[1])) for c in (a, b)]
    v = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
    ciou = diou - v * (v / (1 - iou + v) if iou < 1 else 0)
    return [1 - value for value in (iou, giou, diou, ciou)]


def some_boxes(count):
    corners = torch.rand(count, 2) * 50
    return torch.cat([corners, corners + 2 + torch.rand(count, 2) * 40], dim=1)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
@pytest.mark.parametrize("kind", ["dense", "ids"])
def test_focal_loss_equals_its_formula(alpha, gamma, kind):
    torch.manual_seed(0)
    logits, ids = torch.randn(9, 4), torch.tensor([0, 1, 2, 3, -1, -1, 2, 0, 1])
    dense = torch.zeros(9, 4)
    for row, label in enumerate(ids.tolist()):
        if label >= 0:
            dense[row, label] = 1
    rows = slow_focal(logits, dense, alpha, gamma)
    targets = dense if kind == "dense" else ids
    for reduction, expected in (("none", rows), ("sum", sum(rows)), ("mean", sum(rows) / 9)):
        loss = FocalLoss(alpha, gamma, reduction)(logits, targets)
        assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_of_maps_is_that_of_their_rows():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 4, 5), torch.randint(-1, 3, (2, 4, 5))
    rows, labels = logits.permute(0, 2, 3, 1).reshape(-1, 3), ids.flatten()
    torch.testing.assert_close(FocalLoss()(logits, ids), FocalLoss()(rows, labels))


def test_focal_loss_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"targets of shape \[4\] fit logits of shape \[3, 2\]"):
        FocalLoss()(torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64))


def test_box_losses_equal_their_formulas():
    torch.manual_seed(0)
    predicted, true = some_boxes(40), some_boxes(40)
    predicted[0] = true[0]  # the same box
    predicted[1] = true[1] + 200  # far apart
    expected = [
        slow_box_losses(a, b) for a, b in zip(predicted.tolist(), true.tolist(), strict=True)
    ]
    for column, kind in enumerate(BOX_LOSSES):
        values = [row[column] for row in expected]
        assert kind(reduction="none")(predicted, true).tolist() == pytest.approx(values, abs=1e-4)
        assert kind()(predicted, true).item() == pytest.approx(sum(values) / 40, abs=1e-4)


def test_box_loss_weights_divide_a_mean_by_their_sum():
    predicted, true = some_boxes(4), some_boxes(4)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5])
    each = GIoULoss(reduction="none")(predicted, true)
    assert GIoULoss()(predicted, true, weights).item() == pytest.approx(
        ((each * weights).sum() / 3.5).item()
    )
    assert GIoULoss("none")(predicted, true, weights)[1] == 0


def test_centerness_loss_equals_its_formula():
    logits, targets = [0.3, -2.0, 4.0], [0.5, 0.0, 0.9]
    each = []
    for logit, target in zip(logits, targets, strict=True):
        p = 1 / (1 + math.exp(-logit))
        each.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
    columns = torch.tensor(logits)[:, None]
    assert CenternessLoss("none")(columns, torch.tensor(targets)).tolist() == pytest.approx(each)
    weighted = CenternessLoss()(columns, torch.tensor(targets), torch.tensor([1.0, 0, 3]))
    assert weighted.item() == pytest.approx((each[0] + 3 * each[2]) / 4)


def fcos_maps():
    torch.manual_seed(0)
    shapes = [(3, 4), (2, 2)]
    maps = {
        "cls_preds": [torch.randn(2, 3, *s) for s in shapes],
        "reg_preds": [torch.rand(2, 4, *s) * 5 + 1 for s in shapes],
        "centerness_preds": [torch.randn(2, 1, *s) for s in shapes],
        "cls_targets": [torch.randint(-1, 3, (2, *s)) for s in shapes],
        "reg_targets": [torch.rand(2, 4, *s) * 5 + 1 for s in shapes],
        "centerness_targets": [torch.rand(2, *s) for s in shapes],
    }
    maps["cls_targets"][1][:] = -1  # a level without a positive
    return maps


def test_fcos_loss_equals_a_loop_over_all_points():
    maps = fcos_maps()
    classes = boxes = centers = weights = 0.0
    count = 0
    for level in range(2):
        ids = maps["cls_targets"][level]
        for image in range(2):
            for y in range(ids.shape[1]):
                for x in range(ids.shape[2]):
                    label = int(ids[image, y, x])
                    dense = torch.zeros(3)
                    if label >= 0:
                        dense[label] = 1
                    logits = maps["cls_preds"][level][image, :, y, x]
                    classes += slow_focal(logits[None], dense[None], 0.25, 2.0)[0]
                    if label < 0:
                        continue
                    sides = [maps[k][level][image, :, y, x] for k in ("reg_preds", "reg_targets")]
                    pair = [[-s[0], -s[1], s[2], s[3]] for s in (v.tolist() for v in sides)]
                    weight = float(maps["centerness_targets"][level][image, y, x])
                    boxes += slow_box_losses(*pair)[1] * weight
                    p = torch.sigmoid(maps["centerness_preds"][level][image, 0, y, x]).item()
                    centers -= weight * math.log(p) + (1 - weight) * math.log(1 - p)
                    weights += weight
                    count += 1
    losses = FCOSLoss(3, cls_weight=2.0, centerness_weight=0.5)(**maps)
    expected = [2 * classes / count, boxes / weights, 0.5 * centers / count]
    names = ["cls_loss", "reg_loss", "centerness_loss"]
    assert [losses[name].item() for name in names] == pytest.approx(expected, rel=1e-4)
    assert losses["total_loss"].item() == pytest.approx(sum(expected), rel=1e-4)


def test_fcos_loss_without_a_positive_still_teaches_the_classes():
    maps = fcos_maps()
    maps["cls_targets"][0][:] = -1
    for logits in maps["cls_preds"]:
        logits.requires_grad_(True)
    losses = FCOSLoss(3)(**maps)
    losses["total_loss"].backward()
    assert losses["reg_loss"] == 0 and losses["centerness_loss"] == 0
    assert all(logits.grad.abs().min() > 0 for logits in maps["cls_preds"])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empty_input_is_zero_and_differentiable(reduction):
    logits = torch.zeros(0, 3, requires_grad=True)
    boxes = torch.zeros(0, 4, requires_grad=True)
    total = FocalLoss(reduction=reduction)(logits, torch.zeros(0, dtype=torch.int64))
    total = total + CenternessLoss(reduction)(logits[:, :1], torch.zeros(0), torch.zeros(0))
    for kind in BOX_LOSSES:
        total = total + kind(reduction)(boxes, torch.zeros(0, 4), torch.zeros(0))
    for as_loss in (as_cls_loss("bce"), as_cls_loss("focal")):
        total = total + as_loss(logits, torch.zeros(0, 3)).sum()
    total = total + as_reg_loss(nn.L1Loss())(boxes, torch.zeros(0, 4)).sum()
    total.backward()
    assert total.item() == 0
    assert logits.grad.shape == (0, 3) and boxes.grad.shape == (0, 4)


def test_low_precision_is_computed_in_float32():
    torch.manual_seed(0)
    logits, dense = torch.randn(6, 3).bfloat16(), torch.eye(3).repeat(2, 1)
    boxes, targets = some_boxes(6).bfloat16(), some_boxes(6)
    pairs = [
        (FocalLoss(), logits, dense),
        (CenternessLoss(), logits[:, 0], dense[:, 0]),
        *((kind(), boxes, targets) for kind in BOX_LOSSES),
        *((as_classification_loss(n), logits, dense.argmax(1)) for n in ("ce", "bce", "focal")),
        (as_cls_loss("bce"), logits, dense),
        (as_reg_loss("ciou"), boxes, targets),
    ]
    for loss, predicted, target in pairs:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = loss(predicted, target)
        assert low.dtype == torch.float32
        torch.testing.assert_close(low, loss(predicted.float(), target))


@pytest.mark.parametrize("kind", [FocalLoss, CenternessLoss, *BOX_LOSSES])
def test_an_unknown_reduction_is_named(kind):
    with pytest.raises(ValueError, match="reduction = 'avg'; allowed: none, mean, sum"):
        kind(reduction="avg")


def test_the_registry_lists_by_task():
    assert list_losses("detection") == [
        *("centerness", "ciou", "diou", "fcos", "focal", "giou", "iou")
    ]
    assert list_losses("classification") == [
        *("bce", "bce_with_logits", "cross_entropy", "focal", "mse", "nll")
    ]
    assert list_available_losses() == sorted({*list_losses("detection"), *list_losses()})
    assert get_loss_registry().get_loss_info()["detection"] == list_losses("detection")
    with pytest.raises(ValueError, match="task = 'speech'; allowed: classification, detection"):
        list_losses("speech")


def test_the_registry_builds_by_name_and_alias():
    focal = get_loss("focal", alpha=0.3, gamma=1.0)
    assert isinstance(focal, FocalLoss) and (focal.alpha, focal.gamma) == (0.3, 1.0)
    assert isinstance(get_loss("ce", label_smoothing=0.1), nn.CrossEntropyLoss)
    assert get_loss_registry().has_loss("ce") and not get_loss_registry().has_loss("dice")
    with pytest.raises(ValueError, match=r"loss = 'focl'; allowed: bce, .*did you mean 'focal'\?"):
        get_loss("focl")
    with pytest.raises(ValueError, match=r"loss = 'fcos': FCOSLoss: missing .*'num_classes'"):
        get_loss("fcos")


class Squared(nn.Module):
    def forward(self, logits, targets):
        return (logits - targets).square()


def test_own_losses_are_known_everywhere_by_name(own_names):
    register_loss("squared", alias="sq")(Squared)
    register_custom_loss("squared", Squared)  # as a notebook's cell that is run twice
    assert "squared" in list_losses("detection") and "squared" in list_losses("classification")
    for as_loss in (as_cls_loss, as_classification_loss):
        assert as_loss("sq")(torch.ones(2, 2), torch.zeros(2, 2)).tolist() == [[1, 1], [1, 1]]
    assert as_reg_loss("sq")(torch.ones(2, 4), torch.zeros(2, 4)).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("name", "loss_class", "alias", "error"),
    [
        ("focal", Squared, None, "'focal' is a loss that is built in; choose another name"),
        ("squared", Squared, "ce", "'ce' is a loss that is built in"),
        ("squared", Squared(), None, r"loss_class = Squared\(\); must be a subclass of nn.Module"),
    ],
)
def test_the_registry_refuses(name, loss_class, alias, error):
    with pytest.raises(ValueError, match=error):
        LossRegistry().register_loss(name, loss_class, alias)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: as_classification_loss("giou"), "loss_fn = 'giou'; allowed: bce, .*, nll"),
        (lambda: as_cls_loss("giou"), "cls_loss_fn = 'giou'; allowed: bce, bce_with_logits, focal"),
        (lambda: as_reg_loss("focal"), "reg_loss_fn = 'focal'; allowed: ciou, diou, giou, iou"),
        (lambda: as_reg_loss("gio"), r"did you mean 'giou'\?"),
        (lambda: as_reg_loss(GIoULoss), "reg_loss_fn = <class .*; allowed: a name, or a loss obj"),
        (lambda: as_cls_loss(3), "cls_loss_fn = 3; allowed: a name, or a loss object"),
        (
            lambda: as_classification_loss("cross_entropy", multi_label=True),
            "loss_fn = 'cross_entropy'; allowed: bce, bce_with_logits, focal, mse",
        ),
        (
            lambda: as_classification_loss("bce", label_smoothing=0.1),
            "label_smoothing with loss_fn = 'bce'; allowed with: cross_entropy",
        ),
        (
            lambda: as_classification_loss("focal", class_weights=torch.ones(2)),
            "class_weights with loss_fn = 'focal'; allowed with: bce, bce_with_logits",
        ),
        (
            lambda: as_classification_loss(nn.CrossEntropyLoss(), label_smoothing=0.1),
            "label_smoothing with a loss_fn of one's own: build it into the loss",
        ),
    ],
)
def test_a_loss_that_does_not_fit_is_named(make, error):
    with pytest.raises(ValueError, match=error):
        make()


def test_classification_losses_by_name():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    dense, weights = F.one_hot(labels, 3).float(), torch.tensor([1.0, 2.0, 3.0])
    plain = F.cross_entropy(logits, labels)
    cases = {
        (None,): plain,
        ("ce",): plain,
        ("nll",): plain,
        (None, False, 0.1): F.cross_entropy(logits, labels, label_smoothing=0.1),
        ("nll", False, 0.0, weights): F.cross_entropy(logits, labels, weights),
        ("bce",): F.binary_cross_entropy_with_logits(logits, dense),
        ("focal",): torch.tensor(slow_focal(logits, dense, 0.25, 2.0)).mean(),
        ("mse",): (logits.softmax(1) - dense).square().mean(),
        (nn.MultiMarginLoss(),): nn.MultiMarginLoss()(logits, labels),
    }
    for arguments, expected in cases.items():
        torch.testing.assert_close(as_classification_loss(*arguments)(logits, labels), expected)
    for name in ("cross_entropy", "nll", "bce", "focal", "mse"):
        loss = as_classification_loss(name)
        # Mixed images have shares instead of ids.
        torch.testing.assert_close(loss(logits, dense), loss(logits, labels))


def test_losses_of_several_labels():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3), (torch.rand(5, 3) > 0.5).float()
    bce = F.binary_cross_entropy_with_logits(logits, labels)
    squares = (logits.sigmoid() - labels).square().mean()
    for name, expected in ((None, bce), ("bce_with_logits", bce), ("mse", squares)):
        torch.testing.assert_close(as_classification_loss(name, True)(logits, labels), expected)


def test_smoothing_is_for_training_only():
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([0])
    loss = as_classification_loss(None, label_smoothing=0.2).eval()
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_images_that_weigh_nothing_are_no_division_by_zero(smoothing):
    logits = torch.randn(3, 2, requires_grad=True)
    weights = torch.tensor([1.0, 0.0])
    loss = as_classification_loss(None, False, smoothing, weights)
    labels = torch.tensor([1, 1, 0])
    torch.testing.assert_close(
        loss(logits, labels),
        F.cross_entropy(logits, labels, weights, label_smoothing=smoothing),
    )
    nothing = loss(logits, torch.tensor([1, 1, 1]))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.isfinite() and gradient.isfinite().all()
    if not smoothing:
        assert nothing == 0 and not gradient.any()


def test_class_weights_are_no_weights_of_the_model():
    loss = as_classification_loss(None, class_weights=torch.ones(3))
    assert loss.state_dict() == {} and len(list(loss.buffers())) == 1


def test_a_detector_gets_sums_for_classes_and_single_values_for_boxes():
    torch.manual_seed(0)
    logits, dense = torch.randn(5, 3), (torch.rand(5, 3) > 0.5).float()
    total = F.binary_cross_entropy_with_logits(logits, dense, reduction="sum")
    own = nn.BCEWithLogitsLoss()  # a mean, were it taken as it is
    for spec in ("bce", own, Squared()):
        expected = (logits - dense).square().sum() if isinstance(spec, Squared) else total
        torch.testing.assert_close(as_cls_loss(spec)(logits, dense).sum(), expected)
    assert own.reduction == "mean"
    focal = as_cls_loss(None, focal_alpha=0.4, focal_gamma=1.0)(logits, dense)
    assert focal.item() == pytest.approx(sum(slow_focal(logits, dense, 0.4, 1.0)), rel=1e-5)

    predicted, true = some_boxes(5), some_boxes(5)
    for name, kind in (("iou", IoULoss), ("giou", GIoULoss), ("ciou", CIoULoss), (None, GIoULoss)):
        torch.testing.assert_close(
            as_reg_loss(name)(predicted, true), kind("none")(predicted, true)
        )
    torch.testing.assert_close(
        as_reg_loss(nn.SmoothL1Loss())(predicted, true),
        F.smooth_l1_loss(predicted, true, reduction="none").sum(1),
    )


def test_a_mean_over_boxes_counts_for_each_of_them():
    loss = as_reg_loss(lambda boxes, targets: (boxes - targets).abs().mean())
    assert loss(torch.ones(3, 4), torch.zeros(3, 4)).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"gave the shape \[7\] for 3 boxes; allowed: one value"):
        as_reg_loss(lambda boxes, targets: torch.zeros(7))(torch.ones(3, 4), torch.zeros(3, 4))


def test_a_loss_with_weights_of_its_own_moves_with_the_model():
    loss = as_classification_loss(nn.CrossEntropyLoss(weight=torch.ones(3)))
    assert loss.to(torch.float64).loss.weight.dtype == torch.float64
