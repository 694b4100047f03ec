"""`ObjectDetector`: it learns, and what must not matter does not."""

import pytest
import torch

from components.models.backbones import FeatureBackboneConfig
from components.models.detector import ObjectDetector
from components.models.fcos_loss import fcos_loss
from components.models.postprocess import NO_LABEL, select_detections

TINY = FeatureBackboneConfig("mobilenetv3_small_050", pretrained=False)


def tiny_detector(num_classes: int = 3, **arguments) -> ObjectDetector:
    torch.manual_seed(0)
    return ObjectDetector(TINY, num_classes, fpn_channels=32, head_num_convs=1, **arguments)


def batch_of(boxes: list[list[list[float]]], labels: list[list[int]], size: int = 64):
    torch.manual_seed(1)
    return {
        "images": torch.randn(len(boxes), 3, size, size),
        "boxes": [torch.tensor(b, dtype=torch.float32).reshape(-1, 4) for b in boxes],
        "labels": [torch.tensor(n, dtype=torch.int64) for n in labels],
    }


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([[], []], [[], []]),
        ([[[4, 4, 30, 40]], []], [[1], []]),
        ([[[10, 10, 11, 11]]] * 2, [[0]] * 2),
        (
            [[[8 * i % 50, i % 40, 8 * i % 50 + 12, i % 40 + 9] for i in range(500)]] * 2,
            [[0] * 500] * 2,
        ),
    ],
    ids=["no object at all", "one image without", "one pixel", "500 boxes"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_finite(boxes, labels, dtype):
    model = tiny_detector()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        losses = model.model_step(batch_of(boxes, labels))
    losses["loss"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    gradients = [p.grad for p in model.network.head.cls_tower.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients)
    # Background takes part in the loss: also an image without objects teaches something.
    assert any(g.abs().sum() > 0 for g in gradients)


def test_images_without_objects_add_to_the_class_loss_only():
    model = tiny_detector().eval()
    losses = model.model_step(batch_of([[]], [[]]))
    assert losses["cls_loss"] > 0
    assert losses["reg_loss"] == 0 and losses["centerness_loss"] == 0


def test_the_order_of_boxes_does_not_matter():
    model = tiny_detector().eval()
    boxes, labels = [[4.0, 4, 30, 40], [20.0, 10, 60, 60], [33.0, 2, 50, 20]], [0, 1, 2]
    straight = model.model_step(batch_of([boxes], [labels]))["loss"]
    mixed = model.model_step(batch_of([boxes[::-1]], [labels[::-1]]))["loss"]
    torch.testing.assert_close(straight, mixed, rtol=1e-6, atol=1e-6)


def test_the_loss_of_a_batch_is_that_of_its_images_weighted_by_positives():
    """Normalised once over the batch, not image by image or level by level."""
    model = tiny_detector().eval()
    batch = batch_of([[[4, 4, 30, 40]], [[20, 10, 60, 60], [1, 1, 20, 20]]], [[0], [1, 2]])
    from components.models.fcos_loss import flatten_levels
    from components.models.fcos_targets import assign_points

    outputs = model(batch["images"])
    classes, sides, centers = (flatten_levels(levels) for levels in outputs)
    points, strides, ranges = model.method.points(outputs)
    whole = fcos_loss(
        classes,
        sides,
        centers.squeeze(-1),
        points,
        strides,
        ranges,
        batch["boxes"],
        batch["labels"],
    )
    sums, counts = 0.0, 0
    for i in range(2):
        one = fcos_loss(
            classes[i : i + 1],
            sides[i : i + 1],
            centers[i : i + 1].squeeze(-1),
            points,
            strides,
            ranges,
            batch["boxes"][i : i + 1],
            batch["labels"][i : i + 1],
        )
        count = int((assign_points(points, strides, ranges, batch["boxes"][i]) >= 0).sum())
        sums, counts = sums + one["cls_loss"] * count, counts + count
    torch.testing.assert_close(whole["cls_loss"], sums / counts)


def test_predict_keeps_no_gradient_and_leaves_mode_and_statistics_alone():
    model = tiny_detector().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = model.predict(torch.randn(2, 3, 64, 64))
    assert model.training
    assert len(found) == 2 and set(found[0]) == {"boxes", "scores", "labels"}
    assert not found[0]["boxes"].requires_grad
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_batch_gives_what_its_images_give_alone():
    model = tiny_detector(score_thresh=0.0).eval()
    images = torch.randn(3, 3, 64, 64)
    together = model.predict(images)
    for image, expected in zip(images, together, strict=True):
        alone = model.predict(image[None])[0]
        torch.testing.assert_close(alone["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone["scores"], expected["scores"], rtol=1e-4, atol=1e-6)


def test_it_learns_four_images_by_heart():
    model = tiny_detector(num_classes=2, lr=3e-3)
    boxes = [[[6, 6, 28, 30]], [[30, 20, 60, 52]], [[2, 30, 30, 60], [36, 4, 60, 26]], []]
    labels = [[0], [1], [1, 0], []]
    batch = batch_of(boxes, labels)
    for i, (image_boxes, names) in enumerate(zip(boxes, labels, strict=True)):
        batch["images"][i] *= 0.1
        for (x1, y1, x2, y2), label in zip(image_boxes, names, strict=True):
            batch["images"][i, label, y1:y2, x1:x2] += 2
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        model.model_step(batch)["loss"].backward()
        optimizer.step()
    # Batch statistics of four images: measured with them, as they were learnt.
    with torch.no_grad():
        outputs = model(batch["images"])
    found_boxes, scores, found_labels = model.detections(outputs, (64, 64))
    for i in range(4):
        sure = scores[i] > 0.5
        order = found_boxes[i][sure][:, 0].argsort()
        expected = sorted(zip(boxes[i], labels[i], strict=True))
        assert found_labels[i][sure][order].tolist() == [label for _, label in expected]
        for found, (box, _) in zip(found_boxes[i][sure][order], expected, strict=True):
            torch.testing.assert_close(found, torch.tensor(box).float(), atol=4, rtol=0)


def test_a_frozen_backbone_keeps_its_batch_norm_too():
    model = tiny_detector(freeze_backbone=True).train()
    before = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
    model.model_step(batch_of([[[4, 4, 30, 40]]], [[1]]))["loss"].backward()
    after = model.network.backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in model.network.backbone.parameters())


def test_wrong_settings_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"regress_ranges has 1 entries, strides 5"):
        tiny_detector(regress_ranges=((-1, 64),))
    with pytest.raises(ValueError, match=r"unknown detection_arch 'ssd'; allowed: fcos"):
        tiny_detector(detection_arch="ssd")


class TestSelectDetections:
    """Post-processing on boxes drawn by hand."""

    boxes = torch.tensor([[[0.0, 0, 10, 10], [1.0, 0, 11, 10], [30.0, 30, 50, 80]]])
    scores = torch.tensor([[[0.9, 0.0], [0.8, 0.7], [0.0, 0.04]]])

    def select(self, **arguments):
        return select_detections(self.scores, self.boxes, (60, 60), **arguments)

    def test_overlap_goes_within_a_class_and_stays_across(self):
        boxes, scores, labels = self.select()
        kept = scores[0] > 0
        assert scores[0][kept].tolist() == pytest.approx([0.9, 0.7])
        assert labels[0][kept].tolist() == [0, 1]
        assert labels[0][~kept].unique().tolist() == [NO_LABEL]
        assert boxes[0][~kept].abs().sum() == 0

    def test_threshold_and_clipping(self):
        boxes, scores, _ = self.select(score_threshold=0.01)
        assert boxes[0, 2].tolist() == [30, 30, 50, 60]
        assert scores[0, 2].item() == pytest.approx(0.04)

    def test_nothing_found(self):
        boxes, scores, labels = self.select(score_threshold=0.95)
        assert scores.sum() == 0 and (labels == NO_LABEL).all() and boxes.sum() == 0

    def test_no_more_than_asked_for(self):
        assert self.select(max_detections=1)[1].tolist() == [[pytest.approx(0.9)]]
