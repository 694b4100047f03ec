"""Detectors as Lightning modules: what they share, and `ObjectDetector` over any timm backbone.

Shapes: B images, P points over all levels, C classes, D detections, G boxes of one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import ImageOps
from torch import Tensor, nn
from torchmetrics import Metric

from components.data.input_transforms import letterbox_scale, to_original
from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.detection_methods import DetectionMethod, FcosMethod, YoloxMethod
from components.models.fcos_network import FcosNetwork
from components.models.loss_registry import as_cls_loss, as_reg_loss
from components.models.metrics import MetricConfig
from components.models.picture_log import unnormalized, with_boxes
from components.models.vision_module import (
    Batch,
    VisionModule,
    VisionNetwork,
    own_arguments,
)
from components.models.yolox_network import TimmYoloxNetwork

if TYPE_CHECKING:
    from PIL.Image import Image

ARCHITECTURES = ("fcos", "yolox")


class DetectorModule(VisionModule):
    """A detector: a network that predicts, and a method that assigns, measures and decodes.

    A batch is `{"images": [B, 3, H, W] normalised, "boxes": list of [G, 4] xyxy pixels, "labels":
    list of [G]}`; images without boxes take part. Logs `{stage}/loss` and its terms, and for val
    and test `map`, `map_50` and the other COCO numbers.

    Attributes:
        method: of the raw outputs; see `components.models.detection_methods`.
        score_thresh: weaker detections are dropped.
        nms_thresh: IoU above which the weaker of two boxes of a class goes.
        max_detections_per_image: D.
        thresholds: names of these that the detector has.
    """

    task = "detection"
    main_metric = "map"
    thresholds: tuple[str, ...] = ("score_thresh", "nms_thresh", "max_detections_per_image")
    method: DetectionMethod
    score_thresh: float
    nms_thresh: float
    max_detections_per_image: int

    def default_metrics(self) -> list[MetricConfig]:
        """Mean average precision and the rest of the COCO numbers."""
        kind = "MeanAveragePrecision"
        return [MetricConfig("map", "torchmetrics", kind, {}, ["val", "test"])]

    def extra_metrics(self) -> list[MetricConfig]:
        """None."""
        if self.logging.log_confusion_matrix:
            raise ValueError(
                "log_confusion_matrix = True: only a classifier has one while it is trained; the "
                "evaluate stage draws a detector's"
            )
        return []

    def forward(self, images: Tensor) -> Any:
        """Raw outputs, a tensor per level; see the network's `forward`."""
        return self.network(images)

    def outputs_and_losses(self, batch: Batch) -> tuple[Any, dict[str, Tensor]]:
        """Raw outputs of a batch; the terms of its loss, and `loss`, their weighted sum."""
        outputs = self(batch["images"])
        return outputs, self.method.losses(outputs, batch["boxes"], batch["labels"])

    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss of a batch, and `loss`, their weighted sum."""
        return self.outputs_and_losses(batch)[1]

    def measured_step(self, batch: Batch, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Update mean average precision; gives the losses."""
        outputs, losses = self.outputs_and_losses(batch)
        with torch.no_grad():  # or a training metric would keep every step's graph
            predictions = as_dicts(*self.detections(outputs, image_size_of(batch["images"])))
        truth = [
            {"boxes": boxes, "labels": labels}
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        for metric in metrics.values():
            metric.update(predictions, truth)
        return losses

    def detections(
        self, outputs: Any, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode raw outputs: padded boxes [B, D, 4], scores, labels; see `select_detections`."""
        return self.method.detections(
            outputs,
            image_size,
            self.score_thresh,
            self.nms_thresh,
            self.max_detections_per_image,
        )

    def predict(self, images: Tensor | Image | list[Image]) -> list[dict[str, Tensor]]:
        """Detections, without gradients; the model's state stays as it is.

        Args:
            images: normalised [B, 3, H, W]; or pictures, for a module with a `transform_config`.

        Returns:
            For each image `boxes` [N, 4] xyxy, in pixels of the tensor or of the original picture;
            `scores` [N] falling; `labels` [N].
        """
        if isinstance(images, Tensor):
            return as_dicts(*self.detections(self.evaluating(images), image_size_of(images)))
        several = images if isinstance(images, list) else [images]
        # Upright first, so that boxes are in pixels of what a viewer shows.
        pictures = [ImageOps.exif_transpose(picture) for picture in several]
        found = self.predict(self.preprocess(pictures))
        side = self._required_config().image_size
        for picture, detections in zip(pictures, found, strict=True):
            shape = (picture.height, picture.width)
            scale = letterbox_scale(*shape, (side, side))
            detections["boxes"] = to_original(detections["boxes"], scale, shape)
        return found

    def predict_step(self, batch: Any, batch_idx: int) -> list[dict[str, Tensor]]:
        """Detections of a batch, for `Trainer.predict`."""
        return self.predict(self.images_of(batch))

    def _rgb(self, image: Tensor) -> Tensor:
        return image.flip(0) if self.channels == "bgr" else image

    def drawn_predictions(self, batch: Batch, count: int) -> list[Tensor]:
        """Images with what was found."""
        images = batch["images"][:count]
        return [
            with_boxes(
                unnormalized(self._rgb(image)),
                *(found[key] for key in ("boxes", "labels", "scores")),
            )
            for image, found in zip(images, self.predict(images), strict=True)
        ]


class ObjectDetector(DetectorModule):
    """FCOS or a YOLOX head over a timm backbone and a feature pyramid.

    Args:
        backbone: timm's name, or a config.
        num_classes: C, without background.
        detection_arch: `fcos` (Tian et al. 2019), or `yolox`: decoupled head with objectness, and
            SimOTA (Ge et al. 2021).
        cls_loss_fn: a name of `list_losses()`, or a module `(logits [M, C], targets [M, C])`, for
            the class term; None for the architecture's own (focal loss; binary cross-entropy).
        reg_loss_fn: likewise `(predicted [N, 4], target [N, 4])`, xyxy, for the box term (GIoU; IoU
            squared).
        fpn_channels: of every pyramid level.
        head_num_convs: of each of the head's two towers.
        focal_alpha, focal_gamma: of the focal loss.
        cls_loss_weight, reg_loss_weight, centerness_loss_weight: of the terms of the loss; for
            `yolox` the last is objectness's.
        score_thresh, nms_thresh, max_detections_per_image: see `DetectorModule`.
        strides: of the pyramid's levels, pixels; begins with the backbone's.
        regress_ranges: fcos; farthest side each level answers for, pixels; None for the paper's.
        center_sampling_radius: in strides; for fcos 0 takes every point inside a box.
        options: training and logging; see `ModuleOptions`.
    """

    default_options = {"lr": 1e-4}  # noqa: RUF012 - see VisionModule

    def __init__(
        self,
        backbone: str | FeatureBackboneConfig | dict[str, Any],
        num_classes: int,
        detection_arch: str = "fcos",
        cls_loss_fn: str | nn.Module | None = None,
        reg_loss_fn: str | nn.Module | None = None,
        fpn_channels: int = 256,
        head_num_convs: int = 4,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_loss_weight: float = 1.0,
        reg_loss_weight: float = 1.0,
        centerness_loss_weight: float = 1.0,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        regress_ranges: Sequence[tuple[float, float]] | None = None,
        center_sampling_radius: float = 1.5,
        **options: Any,
    ):
        arguments = own_arguments(locals())
        super().__init__(options)
        backbone = FeatureBackboneConfig(**backbone) if isinstance(backbone, dict) else backbone
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}: a detector needs at least 1")
        if detection_arch not in ARCHITECTURES:
            allowed = ", ".join(ARCHITECTURES)
            raise ValueError(f"unknown detection_arch {detection_arch!r}; allowed: {allowed}")
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.max_detections_per_image = max_detections_per_image
        strides = tuple(strides)
        ranges = _ranges(regress_ranges, len(strides))
        features = create_feature_backbone(backbone)
        if list(strides[: len(features.strides)]) != features.strides:
            raise ValueError(
                f"strides = {strides} do not begin with the backbone's {features.strides}"
            )
        cls_loss = None if cls_loss_fn is None else as_cls_loss(cls_loss_fn)
        reg_loss = None if reg_loss_fn is None else as_reg_loss(reg_loss_fn)
        network = FcosNetwork if detection_arch == "fcos" else TimmYoloxNetwork
        self.network: VisionNetwork = network(
            features, num_classes, fpn_channels, head_num_convs, len(strides)
        )
        if detection_arch == "fcos":
            self.method = FcosMethod(
                strides,
                ranges,
                center_sampling_radius,
                focal_alpha,
                focal_gamma,
                (cls_loss_weight, reg_loss_weight, centerness_loss_weight),
                cls_loss,
                reg_loss,
            )
        else:
            self.method = YoloxMethod(
                strides,
                (cls_loss_weight, reg_loss_weight, centerness_loss_weight),
                center_sampling_radius,
                cls_loss,
                reg_loss,
            )
        self.finish_init(arguments, num_classes)


def _ranges(
    given: Sequence[tuple[float, float]] | None, num_levels: int
) -> tuple[tuple[float, float], ...]:
    """The range of sides each level answers for; by default the paper's, the last without end."""
    if given is None:
        doubled = [64.0 * 2**level for level in range(num_levels - 1)]
        return tuple(zip([-1.0, *doubled], [*doubled, float("inf")], strict=True))
    if len(given) != num_levels:
        raise ValueError(
            f"regress_ranges has {len(given)} entries, strides {num_levels}: one range is needed "
            "for each stride"
        )
    return tuple((float(low), float(high)) for low, high in given)


def image_size_of(images: Tensor) -> tuple[int, int]:
    """(height, width) of images [B, 3, H, W]."""
    return int(images.shape[-2]), int(images.shape[-1])


def as_dicts(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Padded detections of a batch as one dict an image, without the padding."""
    return [
        {"boxes": b[s > 0], "scores": s[s > 0], "labels": n[s > 0]}
        for b, s, n in zip(boxes, scores, labels, strict=True)
    ]
