"""`YOLOXDetector`: the published YOLOX networks with the official recipe."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.models.detection_methods import YoloxMethod
from components.models.detector import DetectorModule
from components.models.vision_module import own_arguments
from components.models.yolox_network import yolox_network
from components.models.yolox_weights import load_official_weights


class YOLOXDetector(DetectorModule):
    """YOLOX nano to x (Ge et al. 2021, arXiv:2107.08430).

    The recipe: SGD with Nesterov momentum 0.9, quadratic warm-up, cosine, and a flat end in which
    the L1 term is added (and the data module shows plain images: `augment.plain_epochs`).

    Args:
        model_name: `yolox-nano`, `-tiny`, `-s`, `-m`, `-l` or `-x`.
        num_classes: C, without background.
        total_epochs: that the recipe spans; a shorter training gets the recipe shortened to it.
        warmup_epochs, no_aug_epochs: of `total_epochs`.
        pretrained: path of official weights (`.pth` or `.safetensors`); False for random ones. A
            class head of another number of classes is left random.
        cls_loss_weight, reg_loss_weight, obj_loss_weight: of the terms of the loss; the box term's
            is the official 5.
        score_thresh, nms_thresh, max_detections_per_image: see `DetectorModule`.
        lr_reference_batch: `lr` is for so many images a step and scaled to those there are, over
            all devices; None takes `lr` as it is.
        options: training and logging; see `ModuleOptions`. `scheduler="yolox"` by default.

    Images are expected as the official weights want them: BGR, 0 to 255, not normalised.
    """

    channels = "bgr"
    fixed_input = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # noqa: RUF012 - as above
    default_options = {  # noqa: RUF012 - see VisionModule
        "lr": 0.01,
        "weight_decay": 5e-4,
        "optimizer": "sgd",
        "scheduler": "yolox",
    }

    def __init__(
        self,
        model_name: str = "yolox-s",
        num_classes: int = 80,
        total_epochs: int = 300,
        warmup_epochs: int = 5,
        no_aug_epochs: int = 15,
        pretrained: bool | str | Path = False,
        cls_loss_weight: float = 1.0,
        reg_loss_weight: float = 5.0,
        obj_loss_weight: float = 1.0,
        score_thresh: float = 0.01,
        nms_thresh: float = 0.65,
        max_detections_per_image: int = 100,
        lr_reference_batch: int | None = 64,
        **options: Any,
    ):
        arguments = own_arguments(locals())
        super().__init__(options)
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}: a detector needs at least 1")
        if warmup_epochs + no_aug_epochs > total_epochs:
            raise ValueError(
                f"warmup_epochs + no_aug_epochs = {warmup_epochs + no_aug_epochs}: must not exceed "
                f"total_epochs = {total_epochs}"
            )
        self.num_classes = num_classes
        self.total_epochs = total_epochs
        self.warmup_epochs, self.no_aug_epochs = warmup_epochs, no_aug_epochs
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.lr_reference_batch = lr_reference_batch
        network = yolox_network(model_name, num_classes)
        if pretrained is True:
            raise ValueError("pretrained = True: YOLOX has no hub; give the path of a weights file")
        if pretrained:
            load_official_weights(network, pretrained)
        self.network = network
        # The weights are on top of the method's own, which are the official ones.
        self.method: YoloxMethod = YoloxMethod(
            network.strides, (cls_loss_weight, reg_loss_weight / 5.0, obj_loss_weight)
        )
        self.finish_init(arguments, num_classes)

    def _share(self, num_epochs: float) -> float:
        """How much of the recipe fits into a training."""
        return min(1.0, num_epochs / self.total_epochs)

    def schedule_options(self, num_epochs: float) -> dict[str, Any]:
        """The recipe's lengths, shortened with the training; explicit arguments go first."""
        given = super().schedule_options(num_epochs)
        if self.options.scheduler != "yolox":
            return given
        share = self._share(num_epochs)
        recipe = {
            "warmup_epochs": self.warmup_epochs * share,
            "no_aug_epochs": self.no_aug_epochs * share,
        }
        return {**recipe, **given}

    def peak_lr(self) -> float:
        """`lr`, for the images of a step."""
        if self.lr_reference_batch is None:
            return self.options.lr
        loader = self.trainer.train_dataloader
        batch_size = getattr(loader, "batch_size", None)
        if batch_size is None:
            batch_size = getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
        if batch_size is None:
            warnings.warn(
                "the training loader has no batch_size, so lr is not scaled by it; set "
                "lr_reference_batch=None and lr to the rate wanted",
                stacklevel=2,
            )
            return self.options.lr
        images = batch_size * self.trainer.world_size * self.trainer.accumulate_grad_batches
        return self.options.lr * images / self.lr_reference_batch

    def on_train_epoch_start(self) -> None:
        """In the last epochs the L1 term joins in."""
        super().on_train_epoch_start()
        epochs = self.num_epochs
        last = round(self.no_aug_epochs * self._share(epochs))
        self.method = replace(self.method, use_l1=self.current_epoch >= epochs - last)
