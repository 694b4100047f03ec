"""Parameters of the `preprocess` stage and of augmentation."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.settings import Settings


class PreprocessSettings(Settings):
    """Splits, and the size images are brought to."""

    image_size: tuple[int, int] = Field(
        (160, 160),
        description="model input, pixels: one number for a square, or [height, width]; "
        "multiples of 32",
    )
    val_fraction: float = Field(
        0.15, ge=0, lt=1, description="share of images for validation, where data brings no split"
    )
    test_fraction: float = Field(
        0.15, ge=0, lt=1, description="share of images for the test, where data brings no split"
    )
    crop_fraction: float = Field(
        0.875,
        gt=0,
        le=1,
        description="classification: the centre crop's share of the resized image; "
        "detection and multi_label ignore it (letterbox)",
    )
    stratify: bool = Field(
        True,
        description="where the hash leaves a class without a split, one of its images not yet "
        "accepted is lent to it",
    )
    group_near_duplicates: bool = Field(
        False, description="images that look the same go to one drawn split"
    )
    storage: Literal["auto", "raw", "jpeg"] = Field(
        "auto",
        description="prepared pixels: raw (fastest), jpeg (about a tenth of the bytes), or auto: "
        "raw up to max_raw_gigabytes",
    )
    max_raw_gigabytes: float = Field(
        8.0, gt=0, description="storage auto: raw pixels up to this size, gigabytes"
    )
    jpeg_quality: int = Field(95, ge=50, le=100, description="of storage jpeg")
    num_workers: int = Field(
        0, ge=0, le=256, description="threads that decode images; 0 means one per core"
    )

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("image_size")
    @classmethod
    def _multiples(cls, value: tuple[int, int]) -> tuple[int, int]:
        for side in value:
            if not 32 <= side <= 4096 or side % 32:
                raise ValueError("each side must be a multiple of 32 from 32 to 4096")
        return value

    @model_validator(mode="after")
    def _something_to_train_on(self) -> PreprocessSettings:
        if self.val_fraction + self.test_fraction >= 0.9:
            raise ValueError("val_fraction + test_fraction must stay below 0.9, or little is left")
        return self


Range = tuple[float, float]


def _is_range(value: Range) -> Range:
    low, high = value
    if not 0.05 <= low <= high <= 4:
        raise ValueError("must be [low, high] with 0.05 <= low <= high <= 4")
    return value


class _Changes(Settings):
    """What both forms of the augmentation settings share."""

    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability of an up-down flip")
    color: float = Field(
        0.2, ge=0, le=1, description="strength of brightness, contrast and saturation jitter"
    )
    hsv: tuple[float, float, float] = Field(
        (0.0, 0.0, 0.0),
        description="largest shift of hue, saturation and value, each a share of its whole range; "
        "YOLOX's is [0.028, 0.118, 0.118]",
    )
    trivial_augment: bool = Field(
        False,
        description="classification: one change of colour or shape an image, of any strength, by "
        "TrivialAugment (Müller and Hutter 2021, arXiv:2103.10158)",
    )
    erasing: float = Field(
        0.0, ge=0, le=1, description="classification: probability that a rectangle is painted grey"
    )
    copy_paste: float = Field(
        0.0,
        ge=0,
        le=1,
        description="detection: probability that objects of another image are pasted in, where the "
        "image is not part of a mosaic",
    )
    mosaic: float = Field(
        0.0,
        ge=0,
        le=1,
        description="detection: probability of four images joined into one; `scale` is then unused",
    )
    mosaic_scale: tuple[float, float] = Field(
        (0.1, 2.0), description="zoom range of a mosaic; YOLOX's nano and tiny take [0.5, 1.5]"
    )
    degrees: float = Field(0.0, ge=0, le=180, description="a mosaic is turned by at most this")
    translate: float = Field(
        0.0, ge=0, le=0.5, description="a mosaic is moved by at most this share of the input's side"
    )
    shear: float = Field(
        0.0, ge=0, le=30, description="a mosaic is sheared by at most this, degrees"
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=1,
        description="detection: probability that a mosaic is blended evenly with one more image",
    )
    mixup_scale: tuple[float, float] = Field(
        (0.5, 1.5), description="zoom range of the image blended into a mosaic"
    )
    plain_epochs: int = Field(
        0, ge=0, le=10_000, description="last epochs, without mosaic and mixup; YOLOX's are 15"
    )
    multi_scale: tuple[int, int] = Field(
        (0, 0),
        description="detection: the input's height changes by so many steps of 32 pixels: "
        "[fewest, most], or one number for as many each way; 0: never",
    )
    multi_scale_every: int = Field(
        10, ge=1, le=10_000, description="batches between changes of the input's size"
    )

    @field_validator("multi_scale", mode="before")
    @classmethod
    def _each_way(cls, value: object) -> object:
        return (-value, value) if isinstance(value, int) else value

    @field_validator("multi_scale")
    @classmethod
    def _steps(cls, value: tuple[int, int]) -> tuple[int, int]:
        low, high = value
        if not -127 <= low <= 0 <= high <= 127:
            raise ValueError("must be [low, high] with -127 <= low <= 0 <= high <= 127")
        return value

    @field_validator("mosaic_scale", "mixup_scale")
    @classmethod
    def _range(cls, value: Range) -> Range:
        return _is_range(value)

    @field_validator("hsv")
    @classmethod
    def _shares(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not all(0 <= share <= 1 for share in value):
            raise ValueError("must be [hue, saturation, value], each from 0 to 1")
        return value

    @model_validator(mode="after")
    def _needs_a_mosaic(self) -> Self:
        idle = [name for name in ("degrees", "translate", "shear", "mixup") if getattr(self, name)]
        if idle and not self.mosaic:
            named = ", ".join(f"{name} ({getattr(self, name):g})" for name in idle)
            raise ValueError(f"{named} change a mosaic: set mosaic above 0, or these to 0")
        if self.copy_paste and self.mosaic == 1 and not self.plain_epochs:
            raise ValueError(
                f"copy_paste ({self.copy_paste:g}) changes images outside mosaics, and mosaic 1 "
                "leaves none: lower mosaic, set plain_epochs, or copy_paste to 0"
            )
        return self


class AugmentSettings(_Changes):
    """Random changes to training images. Every one can be switched off."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    scale: Range = Field(
        (0.8, 1.0),
        description="detection: zoom range about the letterboxed size; "
        "classification: share of the image's area a random crop keeps, at most 1",
    )

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, value: Range) -> Range:
        return _is_range(value)


class AugmentParams(_Changes):
    """`AugmentSettings` as params.yaml has them: the data may decide on two of them."""

    flip: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = Field(
        0.5,
        description="probability of a left-right flip; auto: 0.5, or 0 where class names tell "
        "sides or are single characters",
    )
    scale: Range | Literal["auto"] = Field(
        (0.8, 1.0),
        description="detection: zoom range about the letterboxed size; classification: share of "
        "the image's area a random crop keeps, at most 1; auto: by the size of the objects, or of "
        "the input",
    )

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, value: Range | Literal["auto"]) -> Range | Literal["auto"]:
        return value if value == "auto" else _is_range(value)
