"""One small model of each kind, as detector backbone, as detector and as classifier.

All of timm's names are in benchmarks/backbone_families.py; docs/backbones.md has what it found.
"""

import numpy as np
import pytest
import torch

from components.errors import ModelError
from components.export.parity import compare_detections, compare_probabilities
from components.export.predictor import OnnxPredictor
from components.export.write_onnx import write_onnx
from components.models.backbones import (
    BackboneConfig,
    FeatureBackboneConfig,
    create_backbone,
    create_feature_backbone,
    image_size_arguments,
)
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.models.feature_pyramid import Level, plan_levels
from components.models.saved_model import InferenceModel, ModelDescription

# Real families, made small where they come large.
SWIN = {"embed_dim": 24, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2)}
SHALLOW = {"depth": 2}
BEIT = {"depth": 2, "embed_dim": 48, "num_heads": 2}
KINDS = {
    # name: further arguments, size, strides timm offers
    "test_resnet": ({}, 64),  # five stages
    "test_convnext": ({}, 64),  # four stages
    "test_efficientnet": ({}, 64),  # timm's own feature class
    "test_mambaout": ({}, 64),  # channels last
    "swin_tiny_patch4_window7_224": (SWIN, 64),  # channels last, windows
    "test_maxvit": ({}, 64),
    "test_coatnet": ({}, 64),
    "test_vit": ({}, 64),  # one stride, 16
    "vit_tiny_r_s16_p8_224": (SHALLOW, 64),  # convolutions, then a ViT of stride 32
    "beit_base_patch16_224": (BEIT, 64),  # one stride, 16; windows of the whole image
    "eva02_tiny_patch14_224": (SHALLOW, 64),  # one stride, 14
    "levit_128s": ({}, 64),  # 16, 32, 64
    "nest_tiny": ({}, 64),  # 4, 8, 16
    "pit_ti_224": ({}, 64),  # parameters that nothing depends on
    "xcit_nano_12_p16_224": (SHALLOW, 64),
    "hrnet_w18_small": ({}, 64),
}


def config(kind, name):
    extra, side = KINDS[name]
    return kind(
        name,
        pretrained=False,
        extra_kwargs={**extra, **image_size_arguments(name, (side, side))},
    )


def detector(name, **options):
    return ObjectDetector(
        config(FeatureBackboneConfig, name), 3, fpn_channels=32, head_num_convs=1, **options
    )


@pytest.mark.parametrize("name", KINDS)
def test_maps_have_the_strides_and_channels_they_say(name):
    backbone = create_feature_backbone(config(FeatureBackboneConfig, name)).eval()
    side = KINDS[name][1]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, side, side))
    assert backbone.strides == [8, 16, 32]
    assert [tuple(m.shape) for m in maps] == [
        (1, c, side // s, side // s) for c, s in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def assert_trains(module, batch):
    module.train()
    module.model_step(batch)["loss"].backward()
    without = [
        name
        for name, p in module.network.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert without == []


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_of_a_detector_gets_a_finite_gradient(name):
    torch.manual_seed(0)
    side = KINDS[name][1]
    boxes = torch.tensor([[4.0, 4.0, 30.0, 40.0], [10.0, 10.0, 60.0, 60.0]])
    assert_trains(
        detector(name),
        {
            "images": torch.randn(2, 3, side, side),
            "boxes": [boxes, boxes[:0]],
            "labels": [torch.tensor([0, 2]), torch.zeros(0, dtype=torch.long)],
        },
    )


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_of_a_classifier_gets_a_finite_gradient(name):
    torch.manual_seed(0)
    side = KINDS[name][1]
    module = ImageClassifier(config(BackboneConfig, name), 3)
    assert_trains(
        module, {"images": torch.randn(3, 3, side, side), "labels": torch.tensor([0, 1, 2])}
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("task", ["classification", "detection"])
def test_an_exported_model_gives_the_same(name, task, tmp_path):
    torch.manual_seed(0)
    side = KINDS[name][1]
    if task == "detection":
        module = detector(name, score_thresh=0.0, nms_thresh=1.0)  # nothing hangs on a rounding
    else:
        module = ImageClassifier(config(BackboneConfig, name), 3)
    description = ModelDescription(
        task=task,
        backbone=name,
        classes=("a", "b", "c"),
        image_size=(side, side),
        resize="letterbox",
        crop_fraction=1.0,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        fingerprint="",
    )
    model = InferenceModel(module.eval(), description).eval()
    write_onnx(model, description, tmp_path / "model.onnx")
    predictor = OnnxPredictor(tmp_path / "model.onnx", num_threads=1)
    for count in (1, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)
        with torch.inference_mode():
            ours = tuple(output.numpy() for output in model(torch.from_numpy(images)))
        theirs = predictor.run(images)
        if task == "detection":
            parity = compare_detections(ours, theirs, 0.99, 1e-4, 0.0)
        else:
            parity = compare_probabilities(ours[0], theirs[0])
        assert parity.num_compared > 0
        assert parity.holds(1e-4), parity


@pytest.mark.parametrize(
    ("reductions", "levels"),
    [
        ([2, 4, 8, 16, 32], [(2, 8, 8), (3, 16, 16), (4, 32, 32)]),
        ([4, 8, 16, 32, 32], [(1, 8, 8), (2, 16, 16), (4, 32, 32)]),  # the deepest of a stride
        ([16] * 12, [(11, 16, 8), (11, 16, 16), (11, 16, 32)]),
        ([14] * 4, [(3, 14, 8), (3, 14, 16), (3, 14, 32)]),
        ([16, 32, 64], [(0, 16, 8), (0, 16, 16), (1, 32, 32)]),
        ([4, 8, 16], [(1, 8, 8), (2, 16, 16), (2, 16, 32)]),
        ([7, 14, 28], [(0, 7, 8), (1, 14, 16), (2, 28, 32)]),
    ],
)
def test_levels_come_from_the_nearest_features(reductions, levels):
    assert plan_levels(reductions) == [Level(*level) for level in levels]


def test_features_that_are_too_coarse_are_refused():
    with pytest.raises(ModelError, match=r"strides \[128\], from which .* \[8, 16, 32\]"):
        plan_levels([128])


@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224", "test_resnet"])
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_a_plain_name_takes_images_of_any_size(name, size):
    extra = SHALLOW if name.startswith("eva") else {}
    backbone = create_feature_backbone(FeatureBackboneConfig(name, False, extra_kwargs=extra))
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, *size))
    assert [tuple(m.shape[-2:]) for m in maps] == [
        (-(-size[0] // s), -(-size[1] // s)) for s in (8, 16, 32)
    ]


def test_a_square_map_as_wide_as_its_channels_is_not_turned():
    # Swin's first map has 24 channels here and, for images of 192 pixels, 24 cells a side.
    extra = {**SWIN, "embed_dim": 24, "img_size": 192}
    given = FeatureBackboneConfig(
        "swin_tiny_patch4_window7_224",
        False,
        out_indices=(1,),
        extra_kwargs=extra | {"embed_dim": 12},
    )
    backbone = create_feature_backbone(given).eval()
    images = torch.randn(1, 3, 192, 192)
    with torch.no_grad():
        (ours,) = backbone(images)
        (theirs,) = backbone.body(images)
    assert ours.shape == theirs.shape == (1, 24, 24, 24)
    assert torch.equal(ours, theirs.permute(0, 3, 1, 2))


def test_a_map_of_another_stride_is_resampled_where_its_cells_are():
    # Each cell of the stride-14 map holds the x of its centre; so must each cell of stride 16.
    from components.models.feature_pyramid import LevelFromMap

    level = LevelFromMap(1, 14, 16)
    x = (torch.arange(16) + 0.5) * 14
    given = level(x.expand(1, 1, 16, 16), (224, 224))[0, 0, 0]
    assert torch.allclose(given[:13], (torch.arange(13) + 0.5) * 16, atol=1e-3)
    assert given.shape == (14,)


def test_an_image_of_another_size_than_it_was_built_for_is_refused():
    backbone = create_feature_backbone(config(FeatureBackboneConfig, "levit_128s"))
    with pytest.raises(
        ModelError, match=r"built for images of 64.64 pixels, not 96.64.*image_size"
    ):
        backbone(torch.zeros(1, 3, 96, 64))


def test_a_size_that_timm_cannot_build_is_refused():
    with pytest.raises(ModelError, match=r"test_maxvit cannot be built .* 70 by 64 .* 160 by 160"):
        image_size_arguments("test_maxvit", (70, 64))


def test_a_model_whose_first_feature_is_none():
    with torch.device("meta"):
        backbone = create_feature_backbone(FeatureBackboneConfig("tresnet_m", pretrained=False))
    assert backbone.strides == [8, 16, 32]


def test_image_size_as_an_argument():
    backbone = create_feature_backbone(
        FeatureBackboneConfig("levit_128s", pretrained=False), image_size=(96, 64)
    )
    with torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, 96, 64))
    assert [tuple(m.shape[-2:]) for m in maps] == [(12, 8), (6, 4), (3, 2)]


class TestDropping:
    def test_zero_is_zero_also_where_timm_has_another_default(self):
        rates = [
            m.drop_prob
            for m in create_backbone(
                BackboneConfig("swin_tiny_patch4_window7_224", False, extra_kwargs=SWIN)
            ).modules()
            if type(m).__name__ == "DropPath"
        ]
        assert not any(rates)

    @pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
    def test_rates_reach_the_layers(self, create):
        kind = BackboneConfig if create is create_backbone else FeatureBackboneConfig
        model = create(kind("test_convnext", False, drop_rate=0.2, drop_path_rate=0.3))
        rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
        assert max(rates) == pytest.approx(0.3)
        if create is create_backbone:
            assert model.head.drop.p == 0.2

    # VGG's constructor has no such argument, HRNet's swallows it.
    @pytest.mark.parametrize("name", ["vgg11", "hrnet_w18_small"])
    def test_a_family_without_stochastic_depth_says_so(self, name):
        with pytest.raises(
            ValueError, match=rf"drop_path_rate = 0.1: {name} has no drop_path_rate"
        ):
            create_backbone(BackboneConfig(name, False, drop_path_rate=0.1))


@pytest.mark.parametrize("create", [create_backbone, create_feature_backbone])
def test_gradient_checkpointing_changes_no_gradient(create):
    kind = BackboneConfig if create is create_backbone else FeatureBackboneConfig
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = create(kind("test_vit", False, grad_checkpointing=checkpointing)).train()
        outputs = model(torch.linspace(-1, 1, 2 * 3 * 160 * 160).reshape(2, 3, 160, 160))
        sum(
            o.square().mean() for o in ([outputs] if create is create_backbone else outputs)
        ).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-6), name
