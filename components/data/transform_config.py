"""One description of how images are transformed, for training, inference and export.

Names and defaults are AutoTimm's. Everything is built from torchvision's v2 transforms, on Pillow
images; a transform takes an image, or for detection also a dict of `image`, `boxes`
(`tv_tensors.BoundingBoxes`) and `labels`.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from torchvision.transforms import v2

from components.data.geometry import FILL
from components.data.input_transforms import (
    RESAMPLING,
    FitInput,
    KeepVisible,
    RandomZoom,
    ToRgb,
)

Task = Literal["classification", "detection"]
Statistics = tuple[float, float, float]

IMAGENET_MEAN: Statistics = (0.485, 0.456, 0.406)
IMAGENET_STD: Statistics = (0.229, 0.224, 0.225)

_CROP_PCT = 0.875
_UNKNOWN = {"input_size": (3, 224, 224)}  # of a backbone without a configuration: timm's defaults
_PRESETS = {
    "default": "random crop, flip, colour",
    "autoaugment": "AutoAugment, ImageNet's policy",
    "randaugment": "RandAugment with a number of operations and a magnitude",
    "trivialaugment": "TrivialAugmentWide",
    "light": "random crop and flip",
    "strong": "random crop, flip, affine, blur or noise, colour, erasing",
}
_BACKENDS = {
    "torchvision": tuple(_PRESETS),
    "albumentations": ("default", "strong", "light"),
}
# torchvision's automatic policies do not know what they do to boxes.
_DETECTION_PRESETS = ("default", "strong", "light")


@dataclass(frozen=True)
class TransformConfig:
    """How images are transformed.

    Attributes:
        preset: random changes of training images; see `list_transform_presets`.
        backend: `torchvision`, or `albumentations`, which is a name only: its presets are built
            from the same operations of torchvision.
        image_size: side of the square input, pixels.
        use_timm_config: whether what is None below is taken from the backbone's own configuration.
        mean, std: of the normalisation, of values in [0, 1]; None for the backbone's, else
            ImageNet's.
        interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`; None for the backbone's, else
            `bicubic`; in detection None is always `bilinear`, as in the pipeline.
        crop_pct: classification: the input's share of the scaled image, (0, 1]; None for the
            backbone's, else 0.875.
        min_bbox_area: detection: boxes left with less, in input pixels, are dropped in training.
        min_visibility: detection: boxes of which a smaller share is left are dropped in training.
        bbox_format: box format of custom transforms upstream; here boxes carry their format.
        ignore_index: label of pixels that do not count, in segmentation.
        randaugment_num_ops, randaugment_magnitude: of RandAugment; magnitude 0 to 30.

    Raises:
        ValueError: a field is not allowed; the message names it, its value and what is.
    """

    preset: str = "default"
    backend: Literal["torchvision", "albumentations"] = "torchvision"
    image_size: int = 224
    use_timm_config: bool = True
    mean: Statistics | None = None
    std: Statistics | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    min_bbox_area: float = 0.0
    min_visibility: float = 0.0
    bbox_format: str = "coco"
    ignore_index: int = 255
    randaugment_num_ops: int = 2
    randaugment_magnitude: int = 9

    def __post_init__(self) -> None:
        _one_of("backend", self.backend, tuple(_BACKENDS))
        _one_of("preset", self.preset, tuple(_PRESETS))
        _one_of("bbox_format", self.bbox_format, ("coco", "pascal_voc", "yolo"))
        if self.interpolation is not None:
            _one_of("interpolation", self.interpolation, tuple(RESAMPLING))
        crop_pct = _CROP_PCT if self.crop_pct is None else self.crop_pct
        for name, value, holds, allowed in (
            ("image_size", self.image_size, self.image_size > 0, "at least 1"),
            ("crop_pct", self.crop_pct, 0 < crop_pct <= 1, "in (0, 1]"),
            ("min_bbox_area", self.min_bbox_area, self.min_bbox_area >= 0, "at least 0"),
            ("min_visibility", self.min_visibility, 0 <= self.min_visibility <= 1, "in [0, 1]"),
            (
                "randaugment_num_ops",
                self.randaugment_num_ops,
                self.randaugment_num_ops >= 1,
                "at least 1",
            ),
            (
                "randaugment_magnitude",
                self.randaugment_magnitude,
                0 <= self.randaugment_magnitude <= 30,
                "from 0 to 30",
            ),
            ("mean", self.mean, self.mean is None or len(self.mean) == 3, "three numbers"),
            (
                "std",
                self.std,
                self.std is None or (len(self.std) == 3 and min(self.std) > 0),
                "three numbers above 0",
            ),
        ):
            if not holds:
                raise ValueError(f"{name} = {value}: must be {allowed}")

    def with_overrides(self, **changes: Any) -> TransformConfig:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def list_transform_presets(
    backend: str = "torchvision", verbose: bool = False
) -> list[str] | list[tuple[str, str]]:
    """Names of the presets of a backend; with `verbose`, each with what it does."""
    _one_of("backend", backend, tuple(_BACKENDS))
    names = _BACKENDS[backend]
    return [(name, _PRESETS[name]) for name in names] if verbose else list(names)


def train_transform(
    config: TransformConfig,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    task: Task = "classification",
) -> v2.Transform:
    """Random changes of a training image, then normalisation.

    Draws from torch's global generator only.

    Args:
        config: what to do; its own mean and std are not read here.
        mean, std: of the normalisation.
        task: in detection, boxes follow what is done to the image and are then filtered.

    Returns:
        Image to float [3, image_size, image_size]; in detection also a dict to a dict. Boxes in
        such a dict must have `clamping_mode=None`.

    Raises:
        ValueError: the preset cannot be used with boxes.
    """
    if task == "detection":
        _one_of("preset", config.preset, _DETECTION_PRESETS, "for detection")
        return _detection_train(config, mean, std)
    mode = v2.InterpolationMode(config.interpolation or "bicubic")
    steps: list[nn.Module] = [
        ToRgb(),
        v2.RandomResizedCrop(config.image_size, interpolation=mode, antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if config.preset == "autoaugment":
        steps.append(v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET))
    elif config.preset == "randaugment":
        steps.append(v2.RandAugment(config.randaugment_num_ops, config.randaugment_magnitude))
    elif config.preset == "trivialaugment":
        steps.append(v2.TrivialAugmentWide())
    elif config.preset == "default":
        steps.append(v2.ColorJitter(0.2, 0.2, 0.2))
    elif config.preset == "strong":
        # Magnitudes as the documentation of AutoTimm's albumentations preset gives them.
        affine = v2.RandomAffine(15, translate=(0.1, 0.1), scale=(0.8, 1.2))
        jitter = v2.ColorJitter(0.3, 0.3, 0.3, 0.1)
        steps += [v2.RandomApply([affine], p=0.5), v2.RandomApply([jitter], p=0.8)]
        blurred = v2.RandomChoice([v2.GaussianBlur(5), v2.GaussianNoise(sigma=0.03)])
        steps += [*_as_floats(), v2.RandomApply([blurred], p=0.3)]
        return v2.Compose(
            [*steps, *_normalized(mean, std), v2.RandomErasing(p=0.3, scale=(0.005, 0.05))]
        )
    return v2.Compose([*steps, *_as_floats(), *_normalized(mean, std)])


def _detection_train(config: TransformConfig, mean: Statistics, std: Statistics) -> v2.Transform:
    size = config.image_size
    interpolation = config.interpolation or "bilinear"
    zoom = {"light": (1.0, 1.0), "default": (0.8, 1.0), "strong": (0.5, 1.5)}[config.preset]
    steps: list[nn.Module] = [
        ToRgb(),
        FitInput(size, "letterbox", interpolation=interpolation, pad=False),
        RandomZoom(*zoom),
        # The window falls anywhere; where it is larger than the image, grey fills it.
        v2.RandomCrop(size, pad_if_needed=True, fill=FILL),
        v2.RandomHorizontalFlip(),
    ]
    if config.preset == "default":
        steps.append(v2.RandomApply([v2.ColorJitter(0.2, 0.2, 0.2)], p=0.5))
    elif config.preset == "strong":
        affine = v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=5, fill=FILL)
        steps += [
            v2.RandomApply([affine], p=0.3),
            v2.RandomApply([v2.GaussianBlur(5)], p=0.2),
            v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.3, 0.1)], p=0.8),
        ]
    steps.append(KeepVisible(config.min_bbox_area, config.min_visibility))
    return v2.Compose([*steps, *_as_floats(), *_normalized(mean, std)])


def eval_transform(
    config: TransformConfig,
    mean: Statistics = IMAGENET_MEAN,
    std: Statistics = IMAGENET_STD,
    task: Task = "classification",
) -> v2.Transform:
    """What measuring and inference do to an image: nothing random.

    Classification scales the image to cover the input and cuts out the centre; detection puts it,
    scaled to fit, at the top left of a grey square (`geometry`). `letterbox_scale` and
    `to_original` lead back to the image's own pixels.

    Args:
        config: what to do; its own mean and std are not read here.
        mean, std: of the normalisation.
        task: in detection, boxes are scaled along.

    Returns:
        Image to float [3, image_size, image_size]; in detection also a dict to a dict.
    """
    if task == "detection":
        fitted = FitInput(
            config.image_size, "letterbox", interpolation=config.interpolation or "bilinear"
        )
    else:
        fitted = FitInput(
            config.image_size,
            "crop",
            config.crop_pct or _CROP_PCT,
            config.interpolation or "bicubic",
        )
    return v2.Compose([ToRgb(), fitted, *_as_floats(), *_normalized(mean, std)])


def _as_floats() -> list[nn.Module]:
    return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def _normalized(mean: Statistics, std: Statistics) -> list[nn.Module]:
    return [v2.Normalize(mean, std), v2.ToPureTensor()]


def resolve_backbone_data_config(
    backbone: str | nn.Module,
    override_mean: Statistics | None = None,
    override_std: Statistics | None = None,
    override_input_size: tuple[int, int, int] | None = None,
    override_interpolation: str | None = None,
    override_crop_pct: float | None = None,
) -> dict[str, Any]:
    """What a timm model expects of its input.

    Args:
        backbone: timm's name, with or without `hf-hub:timm/` before it, or a model. Nothing is
            built or downloaded for a name.
        override_mean, override_std, override_input_size, override_interpolation,
            override_crop_pct: win over the model's, where given.

    Returns:
        `mean`, `std`, `input_size` (channels, height, width), `interpolation`, `crop_pct`.

    Raises:
        ValueError: timm knows no model of this name; names the nearest.
    """
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=_pretrained_cfg(backbone))
    overrides = {
        "mean": override_mean,
        "std": override_std,
        "input_size": override_input_size,
        "interpolation": override_interpolation,
        "crop_pct": override_crop_pct,
    }
    return {
        key: (tuple(found[key]) if isinstance(found[key], list) else found[key])
        if value is None
        else value
        for key, value in overrides.items()
    }


def _pretrained_cfg(backbone: str | nn.Module) -> dict[str, Any]:
    if isinstance(backbone, nn.Module):
        for module in (backbone, *backbone.children()):  # the timm model may be wrapped
            config = getattr(module, "pretrained_cfg", None)
            if isinstance(config, dict):
                return config
        return _UNKNOWN
    import timm

    name = backbone.removeprefix("hf-hub:").removeprefix("hf_hub:").rsplit("/", 1)[-1]
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"backbone = {backbone!r}: timm has no such model{hint}")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return config.to_dict() if config is not None else _UNKNOWN


def get_transforms_from_backbone(
    backbone: str | nn.Module,
    transform_config: TransformConfig,
    is_train: bool = False,
    task: Task = "classification",
) -> v2.Transform:
    """The transform of a configuration, with a backbone's normalisation where it asks for that."""
    config = transform_config
    if config.use_timm_config and task == "classification":
        found = resolve_backbone_data_config(
            backbone,
            override_interpolation=config.interpolation,
            override_crop_pct=config.crop_pct,
        )
        known = found["interpolation"] if found["interpolation"] in RESAMPLING else "bicubic"
        config = replace(config, interpolation=known, crop_pct=found["crop_pct"])
    make = train_transform if is_train else eval_transform
    return make(config, *resolve_statistics(config, backbone), task)


def resolve_statistics(
    config: TransformConfig, backbone: str | nn.Module | None
) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation: the configuration's, else the backbone's, else ImageNet's."""
    if backbone is None or not config.use_timm_config:
        return config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD
    found = resolve_backbone_data_config(backbone, config.mean, config.std)
    return found["mean"], found["std"]


def create_inference_transform(
    backbone: str | nn.Module, transform_config: TransformConfig | None = None
) -> v2.Transform:
    """The transform of one image for inference with a classifier."""
    return get_transforms_from_backbone(backbone, transform_config or TransformConfig())


def _one_of(field: str, value: object, allowed: tuple[str, ...], suffix: str = "") -> None:
    if value not in allowed:
        text = f"{field} = {value!r} {suffix}".rstrip()
        raise ValueError(f"{text}: allowed: {', '.join(allowed)}")
