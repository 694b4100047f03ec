"""Post-processing against the same formula without its short cut, and its limits."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch

from components.export.write_onnx import _onnx_nms_keep
from components.models.postprocess import (
    NO_LABEL,
    nms_keep,
    select_detections,
    select_from_logits,
)

SIZE = (120, 200)


def every_pair(
    scores,
    boxes,
    size,
    score_threshold=0.05,
    nms_threshold=0.6,
    max_detections=100,
    candidates=1000,
):
    """The rule with every (point, class) pair a candidate from the start."""
    num_classes = scores.shape[2]
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    count = min(candidates, scores[0].numel())
    strongest, flat = scores.flatten(1).topk(count)
    labels = flat % num_classes
    boxes = boxes.gather(1, (flat // num_classes)[..., None].expand(-1, -1, 4))
    apart = boxes + labels[..., None] * (2.0 * max(size))
    kept = strongest * nms_keep(apart, strongest, nms_threshold, score_threshold, count)
    top, order = kept.topk(min(max_detections, count))
    present = top > 0
    top_boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4)) * present[..., None]
    return top_boxes, top, labels.gather(1, order).masked_fill(~present, NO_LABEL)


def raw(seed, num_images=3, num_points=400, num_classes=5, spread=2.0, bias=-2.0):
    """Logits, no two alike, and boxes that overlap and stick out of the image."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).float()

    corner = torch.rand(num_images, num_points, 2, generator=generator) * 220 - 20
    extent = torch.rand(num_images, num_points, 2, generator=generator) * 60 + 1
    boxes = torch.cat([corner, corner + extent], dim=2)
    cls_logits = spread * normal(num_images, num_points, num_classes) + bias
    return cls_logits, normal(num_images, num_points), boxes


CASES = {
    "as usual": ({}, {}),
    "fewer candidates than points": ({}, {"num_candidates": 37}),
    "more candidates than pairs": ({"num_points": 20}, {}),
    "fewer points than candidates": ({"num_points": 60}, {"num_candidates": 100}),
    "one class": ({"num_classes": 1}, {"num_candidates": 50}),
    "many classes at few points": ({"num_points": 30, "num_classes": 1000}, {}),
    "few strong": ({"bias": -7.0}, {}),
    "none strong": ({"bias": -30.0}, {}),
    "all strong": ({"bias": 3.0}, {"nms_threshold": 0.9, "max_detections": 1000}),
    "low threshold": ({}, {"score_threshold": 0.0, "nms_threshold": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("combine", ["geometric_mean", "product"])
def test_equals_the_rule_on_all_pairs(case, combine):
    inputs, arguments = CASES[case]
    cls_logits, other, boxes = raw(len(case), **inputs)
    scores = cls_logits.sigmoid() * other.sigmoid()[..., None]
    scores = scores if combine == "product" else scores.sqrt()
    limits = dict(arguments)
    if "num_candidates" in limits:
        limits["candidates"] = limits.pop("num_candidates")
    expected = every_pair(scores, boxes, SIZE, **limits)
    assert ((expected[1] > 0).sum() > 10) == (case != "none strong")

    from_scores = select_detections(scores, boxes, SIZE, **arguments)
    assert all(torch.equal(a, b) for a, b in zip(from_scores, expected, strict=True))
    from_logits = select_from_logits(cls_logits, other, boxes, SIZE, combine, **arguments)
    assert torch.equal(from_logits[0], expected[0])
    torch.testing.assert_close(from_logits[1], expected[1], rtol=1e-6, atol=0)
    assert torch.equal(from_logits[2], expected[2])


def test_scores_that_are_all_alike_still_give_full_lists():
    boxes = torch.cat([torch.arange(300.0)[None, :, None].expand(2, -1, 2)] * 2, dim=2)
    boxes[..., 2:] += 0.5
    scores = torch.full((2, 300, 4), 0.5)
    _, found, labels = select_detections(
        scores, boxes, (400, 400), num_candidates=200, max_detections=50
    )
    assert (found == 0.5).all() and (labels >= 0).all()


def test_a_batch_gives_what_its_images_give_alone():
    cls_logits, other, boxes = raw(1, num_images=5)
    together = select_from_logits(cls_logits, other, boxes, SIZE, num_candidates=90)
    for i in range(5):
        one = slice(i, i + 1)
        alone = select_from_logits(cls_logits[one], other[one], boxes[one], SIZE, num_candidates=90)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


def test_low_precision_logits_give_float32_scores():
    cls_logits, other, boxes = (tensor.bfloat16() for tensor in raw(2))
    low = select_from_logits(cls_logits, other, boxes, SIZE)
    high = select_from_logits(cls_logits.float(), other.float(), boxes.float(), SIZE)
    assert all(a.dtype == b.dtype for a, b in zip(low, high, strict=True))
    torch.testing.assert_close(low[1], high[1])


def test_an_unknown_combination_is_refused():
    with pytest.raises(ValueError, match="unknown combine 'sum'; allowed: geometric_mean, product"):
        select_from_logits(*raw(3), SIZE, "sum")


class FromLogits(torch.nn.Module):
    """What is exported: the whole way from raw outputs."""

    def forward(self, cls_logits, other_logits, boxes):
        return select_from_logits(
            cls_logits, other_logits, boxes, SIZE, num_candidates=80, max_detections=30
        )


def test_the_onnx_graph_takes_any_batch_and_gives_the_same():
    names = ("cls_logits", "other_logits", "boxes")
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, about its internals
        program = torch.onnx.export(
            FromLogits(),
            raw(4, num_images=2),
            input_names=list(names),
            dynamic_shapes={name: {0: batch} for name in names},
            custom_translation_table={torch.ops.timmflow.nms_keep.default: _onnx_nms_keep},
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for num_images in (1, 2, 7):
        inputs = raw(5, num_images=num_images)
        found = session.run(None, dict(zip(names, (t.numpy() for t in inputs), strict=True)))
        expected = FromLogits()(*inputs)
        assert (expected[1] > 0).sum() > 20 * num_images
        np.testing.assert_allclose(found[0], expected[0].numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1], expected[1].numpy(), rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(found[2], expected[2].numpy())
