"""`ObjectDetector`: FCOS over any timm backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from components.models.backbones import FeatureBackboneConfig, create_feature_backbone
from components.models.fcos_loss import decode_boxes, fcos_loss, flatten_levels
from components.models.fcos_network import FcosNetwork
from components.models.fcos_targets import REGRESS_RANGES, level_points
from components.models.postprocess import select_detections
from components.models.vision_module import Batch, VisionModule

RawOutputs = tuple[list[Tensor], list[Tensor], list[Tensor]]


class ObjectDetector(VisionModule):
    """FCOS (Tian et al. 2019): backbone, FPN P3-P7, shared head, NMS.

    Args:
        backbone: timm's name, or a config.
        num_classes: C, without background.
        detection_arch: `fcos`.
        lr, weight_decay, optimizer, optimizer_kwargs: see `create_optimizer`.
        scheduler: `cosine` or `none`; `scheduler_kwargs` may hold `warmup_epochs`.
        fpn_channels: of every pyramid level.
        head_num_convs: of each of the head's two towers.
        focal_alpha, focal_gamma: see `focal_loss`.
        cls_loss_weight, reg_loss_weight, centerness_loss_weight: of the terms of the loss.
        score_thresh, nms_thresh, max_detections_per_image: see `select_detections`.
        freeze_backbone: train pyramid and head only.
        strides: of the pyramid's levels, pixels; begins with the backbone's.
        regress_ranges: farthest side each level answers for, pixels; None for the paper's.
        center_sampling_radius: in strides; 0 takes every point inside a box.
        backbone_lr_scale: the backbone's learning rate as a share of `lr`.

    A batch is `{"images": [B, 3, H, W] normalised, "boxes": list of [G, 4] xyxy pixels, "labels":
    list of [G]}`; images without boxes take part. Logs `{stage}/loss`, `cls_loss`, `reg_loss`,
    `centerness_loss`, and for val and test `map`, `map_50` and the other COCO numbers.
    """

    main_metric = "map"

    def __init__(
        self,
        backbone: str | FeatureBackboneConfig,
        num_classes: int,
        detection_arch: str = "fcos",
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        optimizer: str = "adamw",
        optimizer_kwargs: dict[str, Any] | None = None,
        scheduler: str | None = "cosine",
        scheduler_kwargs: dict[str, Any] | None = None,
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
        freeze_backbone: bool = False,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        regress_ranges: tuple[tuple[float, float], ...] | None = None,
        center_sampling_radius: float = 1.5,
        backbone_lr_scale: float = 1.0,
    ):
        super().__init__(
            lr,
            weight_decay,
            optimizer,
            optimizer_kwargs,
            scheduler,
            scheduler_kwargs,
            freeze_backbone,
            backbone_lr_scale,
        )
        if detection_arch != "fcos":
            raise ValueError(f"unknown detection_arch {detection_arch!r}; allowed: fcos")
        self.strides = tuple(strides)
        self.regress_ranges = tuple(regress_ranges or REGRESS_RANGES)
        if len(self.regress_ranges) != len(self.strides):
            raise ValueError(
                f"regress_ranges has {len(self.regress_ranges)} entries, strides "
                f"{len(self.strides)}: one range is needed for each stride"
            )
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.loss_weights = {
            "cls_loss": cls_loss_weight,
            "reg_loss": reg_loss_weight,
            "centerness_loss": centerness_loss_weight,
        }
        self.center_sampling_radius = center_sampling_radius
        self.score_thresh = score_thresh
        self.nms_thresh = nms_thresh
        self.max_detections_per_image = max_detections_per_image
        features = create_feature_backbone(backbone)
        if tuple(features.strides) != self.strides[: len(features.strides)]:
            raise ValueError(
                f"strides = {self.strides} do not begin with the backbone's {features.strides}"
            )
        self.network = FcosNetwork(
            features, num_classes, fpn_channels, head_num_convs, len(self.strides)
        )
        self.val_metrics = MeanAveragePrecision(backend="faster_coco_eval")
        self.test_metrics = MeanAveragePrecision(backend="faster_coco_eval")
        # The cap of 100 detections an image is the metric's own; a warning of it tells nothing.
        self.val_metrics.warn_on_many_detections = False
        self.test_metrics.warn_on_many_detections = False
        self.finish_init()

    def forward(self, images: Tensor) -> RawOutputs:
        """Raw outputs, a tensor per level; see `FcosNetwork.forward`."""
        return self.network(images)

    def _points(self, outputs: RawOutputs) -> tuple[Tensor, Tensor, Tensor]:
        """Points [P, 2], their strides [P] and ranges [P, 2]."""
        device = outputs[0][0].device
        shapes = [(int(level.shape[-2]), int(level.shape[-1])) for level in outputs[0]]
        points, levels = level_points(shapes, self.strides)
        strides = torch.tensor(self.strides, dtype=torch.float32)[levels]
        ranges = torch.tensor(self.regress_ranges, dtype=torch.float32)[levels]
        return points.to(device), strides.to(device), ranges.to(device)

    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """The three losses of a batch and their weighted sum."""
        return self._losses(self(batch["images"]), batch)

    def _losses(self, outputs: RawOutputs, batch: Batch) -> dict[str, Tensor]:
        classes, sides, centers = (flatten_levels(levels) for levels in outputs)
        losses = fcos_loss(
            classes.float(),
            sides.float(),
            centers.float().squeeze(-1),
            *self._points(outputs),
            batch["boxes"],
            batch["labels"],
            self.center_sampling_radius,
            self.focal_alpha,
            self.focal_gamma,
        )
        total = torch.stack([self.loss_weights[name] * term for name, term in losses.items()]).sum()
        return {"loss": total, **losses}

    def detections(
        self, outputs: RawOutputs, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode raw outputs: padded boxes [B, D, 4], scores, labels; see `select_detections`."""
        points, strides, _ = self._points(outputs)
        classes, sides, centers = (flatten_levels(levels).float() for levels in outputs)
        # The geometric mean of "which class" and "how central", as in the authors' later code.
        scores = torch.sqrt(classes.sigmoid() * centers.sigmoid())
        return select_detections(
            scores,
            decode_boxes(points, sides, strides),
            image_size,
            self.score_thresh,
            self.nms_thresh,
            self.max_detections_per_image,
        )

    def update_metrics(self, metrics: Metric | MetricCollection, batch: Batch) -> dict[str, Tensor]:
        """Update mean average precision; gives the losses."""
        outputs = self(batch["images"])
        predictions = as_dicts(*self.detections(outputs, tuple(batch["images"].shape[-2:])))
        truth = [
            {"boxes": boxes, "labels": labels}
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        metrics.update(predictions, truth)
        return self._losses(outputs, batch)

    def computed_metrics(self, metrics: Metric | MetricCollection) -> dict[str, Tensor]:
        """The COCO numbers over all classes."""
        return {
            name: value
            for name, value in metrics.compute().items()
            if value.ndim == 0 and name != "classes"
        }

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections on normalised images [B, 3, H, W], without gradients.

        Returns:
            For each image `boxes` [N, 4] xyxy in pixels of the input, `scores` [N] falling,
            `labels` [N].
        """
        outputs = self.evaluating(images)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return as_dicts(*self.detections(outputs, size))


def as_dicts(boxes: Tensor, scores: Tensor, labels: Tensor) -> list[dict[str, Tensor]]:
    """Padded detections of a batch as one dict an image, without the padding."""
    return [
        {"boxes": b[s > 0], "scores": s[s > 0], "labels": n[s > 0]}
        for b, s, n in zip(boxes, scores, labels, strict=True)
    ]
