"""Parameters of the `train` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.data.settings import AugmentParams
from components.models.schedule_arguments import SCHEDULE_ARGUMENTS
from components.settings import Settings


class ClassifierSettings(Settings):
    """What only a classifier has."""

    loss_fn: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="cross_entropy (of each label by itself, where there may be several), or "
        "focal: the better an image is known the less it counts, which helps rare classes",
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread evenly")
    mixup_alpha: float = Field(
        0.0, ge=0, le=10, description="images are blended in pairs, by Beta(alpha, alpha); 0: never"
    )
    cutmix_alpha: float = Field(
        0.0, ge=0, le=10, description="a rectangle of each image is another's, likewise; 0: never"
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: the loss counts a class more the rarer it is"
    )
    balanced_sampling: bool = Field(
        False, description="training shows each class equally often, whatever its share"
    )


class DetectorSettings(Settings):
    """What only a detector has."""

    arch: Literal["fcos", "yolox"] = Field(
        "fcos",
        description="head and target assignment over a timm backbone; a whole detector named as "
        "backbone has its own",
    )
    fpn_channels: int = Field(96, ge=16, le=1024, multiple_of=16, description="feature pyramid")
    head_num_convs: int = Field(2, ge=0, le=8, description="convolutions of each head branch")
    repeat_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="images with a class that is on a smaller share of the images than this are "
        "shown more often (repeat-factor sampling); 0: never; LVIS's is 0.001",
    )
    center_sampling_radius: float = Field(
        1.5,
        ge=0,
        le=10,
        description="positives lie within this many strides of a box's centre; "
        "0 takes every point inside the box",
    )


class TrainSettings(Settings):
    """The model and how it is trained."""

    recipe: Literal["finetune", "linear_probe", "two_phase", "yolox", "from_scratch"] = Field(
        "finetune",
        description="named values of the keys of this section that are left out or null; "
        "`python -m tasks.params --recipe NAME` prints them",
    )
    backbone: str = Field(
        "tf_efficientnet_lite0",
        min_length=1,
        description="any timm model name; or a whole detector: yolox-nano -tiny -s -m -l -x, "
        "rtdetr_r18vd r34vd r50vd r50vd_m r101vd",
    )
    pretrained: bool | str = Field(
        True,
        description="true: published weights, from an installed weights package or the hub; "
        "false: random; or the path of a .safetensors or state-dict file (YOLOX: false or a path)",
    )
    epochs: int = Field(12, ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(
        16, ge=1, le=65_536, description="images a step; several processes share them out"
    )
    lr: float = Field(
        1e-3, gt=0, le=10, description="peak learning rate of the new layers at lr_batch images"
    )
    lr_batch: int = Field(
        0,
        ge=0,
        le=65_536,
        description="images a step that lr is meant for: with another batch_size it is scaled, in "
        "proportion (sgd, sgdp, lars) or by the square root (all others); 0: lr is the rate",
    )
    backbone_lr_scale: float = Field(
        1.0, ge=0, le=1, description="the backbone's learning rate as a share of lr; 0 freezes it"
    )
    freeze_epochs: int = Field(
        0, ge=0, description="first epochs in which only the new layers learn; then all do"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the rate for each backbone layer far from the head"
    )
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="on weights with two or more dimensions only"
    )
    optimizer: Literal[
        "adamw", "adam", "sgd", "rmsprop", "adagrad", "adamp", "sgdp", "adabelief", "radam", "lamb",
        "lars", "madgrad", "novograd"
    ] = Field("adamw", description="made by timm.optim")  # fmt: skip
    scheduler: Literal[
        "cosine", "step", "multistep", "exponential", "cosine_with_restarts", "onecycle", "plateau",
        "yolox", "none"
    ] = Field("cosine", description="of the learning rate, after the warm-up")  # fmt: skip
    scheduler_options: dict[str, float | str | list[float]] = Field(
        {},
        description="of that schedule, lengths in epochs, such as {milestones: [8, 11]}; see "
        "components/models/schedulers.py",
    )
    warmup_epochs: float = Field(
        1.0, ge=0, description="linear warm-up, epochs; onecycle and plateau have none"
    )
    gradient_clip: float = Field(10.0, ge=0, description="largest gradient norm; 0 for no limit")
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="moving average of the weights, a step; 0 switches it off"
    )
    ema_ramp: float = Field(
        20.0, gt=0, description="steps over which that average warms up; YOLOX's are 2000"
    )
    patience: int = Field(
        0, ge=0, description="stop after this many epochs without a better validation; 0 never"
    )
    average_best: int = Field(
        0,
        ge=0,
        le=20,
        description="so many best epochs are averaged, those of them that do not make validation "
        "worse; 0 or 1: the best epoch alone",
    )
    allow_trivial: bool = Field(
        False,
        description="true: also a model is kept that is no better than always naming the most "
        "frequent class, or than finding nothing",
    )
    checkpoint_minutes: float = Field(
        2.0, ge=0, description="longest time between checkpoints to resume from; 0: every step"
    )
    num_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        "auto",
        description="processes that load batches, 0 to 256; auto: on a GPU one less than the "
        "cores that this process may use, at most 8; on the CPU 1 from 4 cores on; 0 where an "
        "epoch has fewer than 8 steps",
    )
    deterministic: bool = Field(
        True,
        description="algorithms that give the same weights each time; a warning names an operation "
        "that has none; false: whatever is fastest, which on a GPU differs from run to run",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile of the network; auto: where it pays, on a GPU in a training of "
        "1000 steps or more",
    )
    num_threads: int = Field(0, ge=0, description="CPU threads of torch; 0 means one per core")
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that train together on each machine: one a GPU, or without GPUs on "
        "the CPU (docs/scaling.md)",
    )
    num_nodes: int = Field(
        1, ge=1, le=1024, description="machines, where torchrun or SLURM starts the processes"
    )
    share_batch_norm: bool = Field(
        True,
        description="several processes: batch norms take the statistics of the whole step; false: "
        "each of its own images",
    )
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field(
        "32-true", description="Lightning's name of the arithmetic"
    )
    augment: AugmentParams = Field(AugmentParams(), description="random changes of images")
    classifier: ClassifierSettings = Field(ClassifierSettings(), description="classifiers only")
    detector: DetectorSettings = Field(DetectorSettings(), description="detectors only")

    @model_validator(mode="after")
    def _warmup_fits(self) -> TrainSettings:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be below epochs ({self.epochs})"
            )
        if self.augment.plain_epochs > self.epochs:
            raise ValueError(
                f"augment.plain_epochs ({self.augment.plain_epochs}) must not exceed epochs "
                f"({self.epochs})"
            )
        return self

    @property
    def num_processes(self) -> int:
        """That train together, on all machines."""
        return self.devices * self.num_nodes

    @model_validator(mode="after")
    def _batch_can_be_shared_out(self) -> TrainSettings:
        if self.batch_size % self.num_processes:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of devices x num_nodes "
                f"({self.devices} x {self.num_nodes}), which share it out"
            )
        return self

    @model_validator(mode="after")
    def _scheduler_takes_its_options(self) -> TrainSettings:
        known = SCHEDULE_ARGUMENTS[self.scheduler]
        for name in self.scheduler_options:
            if name not in known:
                allowed = ", ".join(known) or "none"
                raise ValueError(
                    f"scheduler_options.{name}: scheduler {self.scheduler} takes {allowed}"
                )
        return self
