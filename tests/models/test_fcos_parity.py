"""FCOS here and in torchvision: same boxes, same points; same weights, same detections."""

from types import SimpleNamespace

import pytest
import torch
from fcos_oracle import grid, random_boxes
from torchvision.models.detection import FCOS, fcos_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.fcos_from_torchvision import (
    TORCHVISION_RANGES,
    TORCHVISION_RULES,
    convert_torchvision_fcos,
)
from components.models.fcos_loss import decode_boxes, flatten_levels
from components.models.fcos_network import FcosNetwork
from components.models.fcos_targets import BACKGROUND, assign_batch, level_points
from components.models.postprocess import select_from_logits

STRIDES = TORCHVISION_RULES["strides"]
OFFSET = TORCHVISION_RULES["point_offset"]


def their_matches(boxes, height, width):
    """`matched_idxs` of each image as torchvision computes them inside its loss."""
    shapes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    anchors = AnchorGenerator(tuple((s,) for s in STRIDES), ((1.0,),) * len(STRIDES))(
        ImageList(torch.zeros(len(boxes), 3, height, width), [(height, width)] * len(boxes)),
        [torch.zeros(1, 1, *shape) for shape in shapes],
    )
    model = SimpleNamespace(
        center_sampling_radius=1.5,
        head=SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: matched),
    )
    counts = [h * w for h, w in shapes]
    matched = FCOS.compute_loss(model, [{"boxes": b} for b in boxes], {}, anchors, counts)
    return torch.stack(matched), (anchors[0][:, :2] + anchors[0][:, 2:]) / 2


def test_torchvisions_targets_are_reproduced_but_for_its_ties():
    """It takes the largest of 1e8 - area in float32, where areas up to 8 px² apart are equal."""
    generator = torch.Generator().manual_seed(0)
    positives = ties = 0
    for _ in range(25):
        height, width = (128 * int(n) for n in torch.randint(1, 6, (2,), generator=generator))
        points, strides, ranges = grid(height, width, ranges=TORCHVISION_RANGES, offset=OFFSET)
        boxes = [random_boxes(generator, int(n), height, width) for n in (1, 10, 50, 200)]
        # Beside the last image's boxes, before them in the list, ones a quarter pixel higher.
        boxes[-1] = torch.cat([boxes[-1] + torch.tensor([0, 0, 0, 0.25]), boxes[-1]])
        theirs, their_points = their_matches(boxes, height, width)
        assert torch.equal(points, their_points)
        ours = assign_batch(points, strides, ranges, boxes, 1.5)
        assert torch.equal(ours == BACKGROUND, theirs == BACKGROUND)
        for row, other, image in zip(ours, theirs, boxes, strict=True):
            areas = (image[:, 2] - image[:, 0]) * (image[:, 3] - image[:, 1])
            differ = row != other
            small, large = areas[row[differ]], areas[other[differ]]
            assert (1e8 - small == 1e8 - large).all()
            assert (small <= large).all() and (large - small <= 8).all()
            positives, ties = positives + int((row >= 0).sum()), ties + int(differ.sum())
    assert positives > 7000
    assert ties > 50


def test_torchvisions_bounds():
    """On a bound of a range torchvision's FCOS assigns nothing; ours the finer level."""
    box = torch.tensor([[0.0, 40, 128, 80]])  # 64 pixels to both sides of the point (64, 64)
    theirs, points = their_matches([box], 128, 128)
    here = (points == 64).all(1)
    assert (theirs[0, here] == BACKGROUND).all()
    for ranges, expected in ((TORCHVISION_RANGES, [-1, -1, -1, -1]), (None, [0, -1, -1, -1])):
        arguments = {} if ranges is None else {"ranges": ranges}
        ours = assign_batch(*grid(128, 128, offset=0.0, **arguments), [box], 1.5)
        assert ours[0, here].tolist() == expected


@pytest.fixture(scope="module")
def pair():
    """torchvision's FCOS with weights that have opinions, and the same converted."""
    torch.manual_seed(0)
    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=7).eval()
    for name, value in theirs.state_dict().items():
        if name.endswith(("running_mean", "bn1.bias", "bn2.bias")):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif "conv" in name and "head" in name and name.endswith("bias"):
            value.normal_(std=0.05)
    head = theirs.head
    torch.nn.init.normal_(head.classification_head.cls_logits.weight, std=0.15)
    torch.nn.init.constant_(head.classification_head.cls_logits.bias, -7.0)
    torch.nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.1)
    torch.nn.init.constant_(head.regression_head.bbox_reg.bias, 1.5)
    torch.nn.init.normal_(head.regression_head.bbox_ctrness.weight, std=0.05)
    options, state = convert_torchvision_fcos(theirs.state_dict())
    backbone = create_feature_backbone(FeatureBackboneConfig("resnet50", pretrained=False))
    ours = FcosNetwork(backbone, **options).eval()
    ours.load_state_dict(state)
    return theirs, ours


@torch.inference_mode()
def test_converted_weights_give_the_same_outputs_and_detections(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 128, 256)
    features = list(theirs.backbone(images).values())
    expected = theirs.head(features)
    levels = ours(images)
    classes, sides, centers = (flatten_levels(outputs) for outputs in levels)
    for raw, name in (
        (classes, "cls_logits"),
        (sides, "bbox_regression"),
        (centers, "bbox_ctrness"),
    ):
        torch.testing.assert_close(raw, expected[name], rtol=1e-5, atol=1e-5)

    shapes = [tuple(level.shape[-2:]) for level in levels[0]]
    points, of_level = level_points(shapes, STRIDES, OFFSET)
    strides = torch.tensor(STRIDES, dtype=torch.float32)[of_level]
    found = select_from_logits(
        classes,
        centers.squeeze(-1),
        decode_boxes(points, sides, strides),
        (128, 256),
        "geometric_mean",
        TORCHVISION_RULES["score_thresh"],
        TORCHVISION_RULES["nms_thresh"],
        TORCHVISION_RULES["max_detections_per_image"],
    )
    counts = [h * w for h, w in shapes]
    anchors = theirs.anchor_generator(ImageList(images, [(128, 256)] * 2), features)
    theirs_found = theirs.postprocess_detections(
        {name: list(output.split(counts, dim=1)) for name, output in expected.items()},
        [list(image.split(counts)) for image in anchors],
        [(128, 256)] * 2,
    )
    # Fewer candidates than either side's limit: torchvision's holds for each level, ours for all.
    scores = (classes.sigmoid() * centers.sigmoid()).sqrt()
    assert (scores > TORCHVISION_RULES["score_thresh"]).flatten(1).sum(1).max() < 1000
    for boxes, own_scores, labels, other in zip(*found, theirs_found, strict=True):
        count = int((own_scores > 0).sum())
        assert count == len(other["scores"]) > 20
        torch.testing.assert_close(own_scores[:count], other["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(labels[:count], other["labels"])
        torch.testing.assert_close(boxes[:count], other["boxes"], rtol=1e-5, atol=1e-3)
        assert len(other["labels"].unique()) > 2


def test_frozen_batch_norms_convert_too(pair):
    """As in torchvision's published weights: their norms are frozen and count no batches."""
    state = {k: v for k, v in pair[0].state_dict().items() if not k.endswith("batches_tracked")}
    converted = convert_torchvision_fcos(state)[1]
    assert converted.keys() == pair[1].state_dict().keys()
    frozen, trained = FrozenBatchNorm2d(1), torch.nn.BatchNorm2d(1)
    assert frozen.eps == trained.eps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("head.classification_head.cls_logits.weight"), "has no head.cls"),
        (lambda state: state.pop("backbone.fpn.extra_blocks.p7.weight"), "has no fpn.extra_blocks"),
        (lambda state: state.update(other=torch.zeros(1)), "other is not a part of torchvision's"),
        (
            lambda state: state.update(
                {"head.classification_head.cls_logits.weight": torch.zeros(7, 128, 3, 3)}
            ),
            "pyramid of 128 channels; allowed: 256",
        ),
    ],
)
def test_what_does_not_convert_says_why(pair, change, message):
    state = pair[0].state_dict()
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_torchvision_fcos(state)


def test_relu_distances_may_be_zero_and_other_names_are_refused():
    backbone = create_feature_backbone(
        FeatureBackboneConfig("mobilenetv3_small_050", pretrained=False)
    )
    network = FcosNetwork(backbone, 2, 32, 1, distance="relu")
    assert (torch.cat([s.flatten() for s in network(torch.randn(1, 3, 64, 64))[1]]) >= 0).all()
    with pytest.raises(ValueError, match="unknown distance 'tanh'; allowed: exp, relu"):
        FcosNetwork(backbone, 2, 32, 1, distance="tanh")
