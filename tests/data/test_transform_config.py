"""One description of transforms, for training, inference and export."""

import io
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import tv_tensors

from components.contract.pixels import decode
from components.data.geometry import to_input
from components.data.input_transforms import letterbox_scale, to_original
from components.data.transform_config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TransformConfig,
    create_inference_transform,
    eval_transform,
    get_transforms_from_backbone,
    list_transform_presets,
    resolve_backbone_data_config,
    train_transform,
)

NEUTRAL = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def picture(height=60, width=90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sample(pixels, boxes, labels=None):
    data = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {
        "image": Image.fromarray(pixels),
        "boxes": tv_tensors.BoundingBoxes(
            data, format="XYXY", canvas_size=pixels.shape[:2], clamping_mode=None
        ),
        "labels": torch.arange(len(data)) if labels is None else torch.tensor(labels),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "randaug"}, r"preset = 'randaug': allowed: default, autoaugment"),
        ({"backend": "opencv"}, r"backend = 'opencv': allowed: torchvision, albumentations"),
        ({"interpolation": "cubic"}, r"interpolation = 'cubic': allowed: nearest, bilinear"),
        ({"bbox_format": "voc"}, r"bbox_format = 'voc': allowed: coco, pascal_voc, yolo"),
        ({"image_size": 0}, r"image_size = 0: must be at least 1"),
        ({"crop_pct": 0.0}, r"crop_pct = 0.0: must be in \(0, 1\]"),
        ({"min_visibility": 1.5}, r"min_visibility = 1.5: must be in \[0, 1\]"),
        ({"mean": (0.5,)}, r"mean = \(0.5,\): must be three numbers"),
        ({"std": (1.0, 0.0, 1.0)}, r"std = .*: must be three numbers above 0"),
        ({"randaugment_magnitude": 31}, r"randaugment_magnitude = 31: must be from 0 to 30"),
    ],
)
def test_a_field_that_is_not_allowed_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        TransformConfig(**fields)


def test_overrides_and_dictionary_make_the_same_configuration_again():
    config = TransformConfig(preset="light").with_overrides(image_size=384)
    assert (config.preset, config.image_size) == ("light", 384)
    assert TransformConfig(**config.to_dict()) == config


def test_the_documented_presets_are_there():
    documented = ["default", "autoaugment", "randaugment", "trivialaugment", "light"]
    assert list_transform_presets()[:5] == documented
    assert list_transform_presets(backend="albumentations") == ["default", "strong", "light"]
    assert dict(list_transform_presets(verbose=True)).keys() == set(list_transform_presets())


@pytest.mark.parametrize("preset", list_transform_presets())
def test_every_preset_gives_a_normalised_image_and_draws_from_torch_alone(preset):
    transform = train_transform(TransformConfig(preset=preset, image_size=32), **NEUTRAL)
    torch.manual_seed(3)
    first = transform(Image.fromarray(picture()))
    assert first.shape == (3, 32, 32) and first.dtype == torch.float32
    assert type(first) is torch.Tensor
    torch.manual_seed(3)
    assert torch.equal(transform(Image.fromarray(picture())), first)
    assert not torch.equal(transform(Image.fromarray(picture())), first)


@pytest.mark.parametrize("task", ["classification", "detection"])
@pytest.mark.parametrize("shape", [(60, 90), (200, 50), (1, 300)])
def test_measuring_sees_the_pixels_that_predict_sees(task, shape):
    """Equal to `geometry.to_input`, which preprocess and the stand-alone predictor use."""
    config = TransformConfig(image_size=64, interpolation="bilinear", crop_pct=0.8)
    resize = "letterbox" if task == "detection" else "crop"
    pixels, _ = to_input(picture(*shape), (64, 64), resize, 0.8)
    image = eval_transform(config, **NEUTRAL, task=task)(Image.fromarray(picture(*shape)))
    assert np.array_equal((image * 255).round().byte().permute(1, 2, 0).numpy(), pixels)


def test_normalisation_is_by_mean_and_deviation():
    white = Image.new("RGB", (40, 40), "white")
    image = eval_transform(TransformConfig(image_size=32))(white)
    expected = (1 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(image.mean((1, 2)), expected, atol=1e-5)


def test_letterboxed_boxes_follow_and_lead_back():
    pixels = picture(100, 200)
    transform = eval_transform(TransformConfig(image_size=64), task="detection")
    item = transform(sample(pixels, [[20, 10, 180, 90], [0, 0, 200, 100]]))
    assert item["image"].shape == (3, 64, 64)
    assert item["boxes"].tolist()[1] == [0, 0, 64, 32]
    assert type(item["boxes"]) is torch.Tensor
    back = to_original(item["boxes"], letterbox_scale(100, 200, (64, 64)), (100, 200))
    assert torch.allclose(back, torch.tensor([[20.0, 10, 180, 90], [0, 0, 200, 100]]))
    beyond = torch.tensor([[-5.0, -5, 99, 99]])
    assert to_original(beyond, (0.5, 0.5), (100, 150)).tolist() == [[0, 0, 150, 100]]


@pytest.mark.parametrize("preset", ["light", "default", "strong"])
def test_augmented_boxes_stay_on_their_object(preset):
    """A red square lies where its box says, whatever was done to the image."""
    pixels = np.zeros((80, 120, 3), dtype=np.uint8)
    pixels[30:60, 40:80, 0] = 255
    config = TransformConfig(preset=preset, image_size=96)
    transform = train_transform(config, **NEUTRAL, task="detection")
    torch.manual_seed(0)
    seen = 0
    for _ in range(25):
        item = transform(sample(pixels, [[40, 30, 80, 60]]))
        assert item["image"].shape == (3, 96, 96)
        # Colourful, whatever the jitter made of the hue; the fill is not.
        red = (item["image"].amax(0) - item["image"].amin(0) > 0.25).nonzero()
        for x1, y1, x2, y2 in item["boxes"].tolist():
            assert 0 <= x1 < x2 <= 96 and 0 <= y1 < y2 <= 96
            (top, left), (bottom, right) = red.amin(0).tolist(), red.amax(0).tolist()
            # A rotated square's box is taken about its corners, hence a little larger.
            slack = 8 if preset == "strong" else 2
            assert abs(x1 - left) <= slack and abs(y1 - top) <= slack
            assert abs(x2 - right - 1) <= slack and abs(y2 - bottom - 1) <= slack
            seen += 1
    assert seen >= 15


@pytest.mark.parametrize(
    ("fields", "kept", "reason"),
    [
        ({}, [0, 1], "half a box is enough by default; a box outside the image is not kept"),
        ({"min_visibility": 0.6}, [0], "half of box 1 is seen"),
        ({"min_visibility": 1.0}, [0], "a whole box passes the strictest bound"),
        ({"min_bbox_area": 150.0}, [0], "100 square pixels are left of box 1"),
    ],
)
def test_boxes_that_are_hardly_seen_are_dropped(fields, kept, reason):
    config = TransformConfig(preset="light", image_size=64, **fields)
    transform = train_transform(config, task="detection")
    boxes = [[20, 20, 40, 40], [30, -10, 40, 10], [70, 70, 90, 90]]
    assert transform(sample(picture(64, 64), boxes))["labels"].tolist() == kept, reason


@pytest.mark.parametrize("make", [train_transform, eval_transform])
def test_an_image_without_boxes_goes_through(make):
    item = make(TransformConfig(image_size=32), task="detection")(sample(picture(), []))
    assert item["boxes"].shape == (0, 4) and item["labels"].shape == (0,)


def test_a_policy_that_knows_no_boxes_is_refused():
    with pytest.raises(ValueError, match="preset = 'randaugment' for detection: allowed: default"):
        train_transform(TransformConfig(preset="randaugment"), task="detection")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_modes_become_rgb_as_in_the_pipeline(mode):
    grey = Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64))
    image = grey if mode == "I;16" else Image.fromarray(picture(64, 64)).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    rule = decode(file.getvalue(), "image").pixels
    got = eval_transform(TransformConfig(image_size=64, crop_pct=1.0), **NEUTRAL)(image)
    assert np.array_equal((got * 255).round().byte().permute(1, 2, 0).numpy(), rule)


def test_orientation_is_honoured(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = tmp_path / "turned.png"
    Image.fromarray(picture(32, 64)).save(path, exif=exif)
    transform = eval_transform(TransformConfig(image_size=64), **NEUTRAL, task="detection")
    with Image.open(path) as image:
        upright = transform(image)  # 64 high, 32 wide
    assert torch.allclose(upright[:, :, 32:], torch.tensor(114 / 255))
    assert upright[:, :, :32].std() > 0.1


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("resnet50", "resnet50"),
        ("vit_base_patch16_224", "vit_base_patch16_224"),
        ("hf-hub:timm/tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0.in1k"),
    ],
)
def test_a_backbone_brings_its_own_statistics(name, reference):
    own = timm.get_pretrained_cfg(reference)
    found = resolve_backbone_data_config(name)
    assert found["mean"] == own.mean and found["std"] == own.std
    assert found["interpolation"] == own.interpolation and found["crop_pct"] == own.crop_pct
    overridden = resolve_backbone_data_config(name, override_mean=(0.1, 0.2, 0.3))
    assert overridden == {**found, "mean": (0.1, 0.2, 0.3)}


def test_a_module_brings_its_own_statistics():
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    assert resolve_backbone_data_config(model)["mean"] == (0.5, 0.5, 0.5)
    assert resolve_backbone_data_config(torch.nn.Linear(1, 1))["mean"] == IMAGENET_MEAN


def test_an_unknown_backbone_names_the_nearest():
    with pytest.raises(ValueError, match=r"backbone = 'resnet5O'.*nearest: .*resnet50"):
        resolve_backbone_data_config("resnet5O")


def test_the_configuration_wins_over_the_backbone():
    white = Image.new("RGB", (40, 40), "white")
    config = TransformConfig(image_size=32, mean=(0.0, 0.0, 0.0))
    image = get_transforms_from_backbone("tf_efficientnet_lite0", config)(white)
    assert torch.allclose(image, torch.tensor(2.0))  # the mean is 0, the deviation its own 0.5
    assert create_inference_transform("resnet18")(white).shape == (3, 224, 224)
