"""Parameters of the `preprocess` stage and of augmentation."""

from __future__ import annotations

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
        "detection ignores it (letterbox)",
    )
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


class AugmentSettings(Settings):
    """Random changes to training images. Every one can be switched off."""

    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    vertical_flip: float = Field(0.0, ge=0, le=1, description="probability of an up-down flip")
    scale: tuple[float, float] = Field(
        (0.8, 1.0),
        description="detection: zoom range about the letterboxed size; "
        "classification: share of the image's area a random crop keeps, at most 1",
    )
    color: float = Field(
        0.2, ge=0, le=1, description="strength of brightness, contrast and saturation jitter"
    )

    @field_validator("scale")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0.05 <= low <= high <= 4:
            raise ValueError("must be [low, high] with 0.05 <= low <= high <= 4")
        return value
