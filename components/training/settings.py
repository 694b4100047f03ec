"""Parameters of the `train` stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.data.settings import AugmentSettings
from components.settings import Settings


class ClassifierSettings(Settings):
    """What only a classifier has."""

    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly")


class DetectorSettings(Settings):
    """What only a detector has."""

    arch: Literal["fcos"] = Field("fcos", description="detection head and target assignment")
    fpn_channels: int = Field(96, ge=16, le=1024, multiple_of=16, description="feature pyramid")
    head_num_convs: int = Field(2, ge=0, le=8, description="convolutions of each head branch")
    center_sampling_radius: float = Field(
        1.5,
        ge=0,
        le=10,
        description="positives lie within this many strides of a box's centre; "
        "0 takes every point inside the box",
    )


class TrainSettings(Settings):
    """The model and how it is trained."""

    backbone: str = Field("tf_efficientnet_lite0", min_length=1, description="any timm model name")
    pretrained: bool | str = Field(
        True,
        description="true: ImageNet weights, from an installed weights package or timm's hub; "
        "false: random; or the path of a .safetensors or state-dict file",
    )
    epochs: int = Field(12, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(16, ge=1, le=4096, description="images a step")
    lr: float = Field(1e-3, gt=0, le=10, description="peak learning rate of the new layers")
    backbone_lr_scale: float = Field(
        1.0, ge=0, le=1, description="the backbone's learning rate as a share of lr; 0 freezes it"
    )
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="on weights with two or more dimensions only"
    )
    optimizer: Literal["adamw", "adam", "sgd", "rmsprop", "adagrad", "lamb", "radam"] = Field(
        "adamw", description="made by timm.optim"
    )
    scheduler: Literal["cosine", "none"] = Field("cosine", description="after the warm-up")
    warmup_epochs: float = Field(1.0, ge=0, description="linear warm-up, epochs")
    gradient_clip: float = Field(10.0, ge=0, description="largest gradient norm; 0 for no limit")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="moving average of the weights, a step; 0 switches it off"
    )
    patience: int = Field(
        0, ge=0, description="stop after this many epochs without a better validation; 0 never"
    )
    num_workers: int = Field(1, ge=0, le=256, description="processes that load batches")
    num_threads: int = Field(0, ge=0, description="CPU threads of torch; 0 means one per core")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="Lightning's name of the arithmetic"
    )
    augment: AugmentSettings = Field(AugmentSettings(), description="random changes of images")
    classifier: ClassifierSettings = Field(ClassifierSettings(), description="classifiers only")
    detector: DetectorSettings = Field(DetectorSettings(), description="detectors only")

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})"
            )
        return self
