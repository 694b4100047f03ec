"""`RTDetrDetector`: RT-DETR, a detector without non-maximum suppression."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.detection import MeanAveragePrecision

from components.models.detector import as_dicts
from components.models.rtdetr_network import (
    RTDetrNetwork,
    RTDetrOutputs,
    normalized_targets,
    rtdetr_config,
    rtdetr_loss,
    select_queries,
)
from components.models.rtdetr_weights import load_rtdetr_weights
from components.models.vision_module import Batch, VisionModule


class RTDetrDetector(VisionModule):
    """RT-DETR (Zhao et al. 2023) through `transformers`, the extra `rtdetr`.

    Args:
        model_name: `rtdetr_r18vd`, `rtdetr_r34vd`, `rtdetr_r50vd`, `rtdetr_r50vd_m` or
            `rtdetr_r101vd`.
        num_classes: C, without background.
        pretrained: True for the hub's `PekingU/<model_name>`, False for random weights, or the path
            of a local file or folder; see `load_rtdetr_weights`.
        lr, weight_decay, optimizer, optimizer_kwargs: see `create_optimizer`. Defaults are the
            authors'; theirs also are a gradient norm of at most 0.1 and a warm-up.
        scheduler: `cosine` or `none`; `scheduler_kwargs` may hold `warmup_epochs`.
        num_queries: Q, how many objects an image may have; at most the number of places, which for
            an image of H x W is HW (1/64 + 1/256 + 1/1024).
        score_thresh: weaker detections are dropped.
        max_detections_per_image: D.
        freeze_backbone: train encoder and decoder only.
        freeze_batch_norm: keep the backbone's batch norms as they are; None for "if pretrained":
            random weights need statistics of their own.
        backbone_lr_scale: the backbone's learning rate as a share of `lr`.
        extra_config: further fields of `transformers.RTDetrConfig`; see `rtdetr_config`.

    A batch is `{"images": [B, 3, H, W] scaled to 0..1, "boxes": list of [G, 4] xyxy pixels,
    "labels": list of [G]}`; H and W are multiples of 32; images without boxes take part. Logs
    `{stage}/loss`, `cls_loss`, `l1_loss`, `giou_loss` (with those of the denoising queries in
    training only), and for val and test `map`, `map_50` and the other COCO numbers.

    Raises:
        ValueError: no such model or field.
        ModelError: transformers is not installed, or the weights cannot be had.
    """

    main_metric = "map"

    def __init__(
        self,
        model_name: str = "rtdetr_r18vd",
        num_classes: int = 80,
        pretrained: bool | str = True,
        lr: float = 1e-4,
        weight_decay: float = 1e-4,
        optimizer: str = "adamw",
        optimizer_kwargs: dict[str, Any] | None = None,
        scheduler: str | None = "cosine",
        scheduler_kwargs: dict[str, Any] | None = None,
        num_queries: int = 300,
        score_thresh: float = 0.05,
        max_detections_per_image: int = 100,
        freeze_backbone: bool = False,
        freeze_batch_norm: bool | None = None,
        backbone_lr_scale: float = 0.1,
        extra_config: dict[str, Any] | None = None,
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
        self.score_thresh = score_thresh
        self.max_detections_per_image = max_detections_per_image
        frozen = bool(pretrained) if freeze_batch_norm is None else freeze_batch_norm
        own = {"num_queries": num_queries, "freeze_backbone_batch_norms": frozen}
        config = rtdetr_config(model_name, num_classes, own | (extra_config or {}))
        self.network = RTDetrNetwork(config)
        if pretrained:
            load_rtdetr_weights(self.network, model_name, pretrained)
        self.val_metrics = MeanAveragePrecision(backend="faster_coco_eval")
        self.test_metrics = MeanAveragePrecision(backend="faster_coco_eval")
        # The cap of 100 detections an image is the metric's own; a warning of it tells nothing.
        self.val_metrics.warn_on_many_detections = False
        self.test_metrics.warn_on_many_detections = False
        self.finish_init()

    def forward(self, images: Tensor) -> RTDetrOutputs:
        """Raw outputs of images [B, 3, H, W], 0 to 1."""
        return self.network(images)

    def _outputs_and_losses(self, batch: Batch) -> tuple[RTDetrOutputs, dict[str, Tensor]]:
        size = (int(batch["images"].shape[-2]), int(batch["images"].shape[-1]))
        targets = normalized_targets(batch["boxes"], batch["labels"], size)
        outputs = self.network(batch["images"], targets)
        return outputs, rtdetr_loss(outputs, targets, self.network.config)

    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """The three losses of a batch and their sum."""
        return self._outputs_and_losses(batch)[1]

    def detections(
        self, outputs: RTDetrOutputs, image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode raw outputs: padded boxes [B, D, 4], scores, labels; see `select_queries`."""
        return select_queries(
            outputs.logits.float().sigmoid(),
            outputs.boxes.float(),
            image_size,
            self.score_thresh,
            self.max_detections_per_image,
        )

    def update_metrics(self, metrics: Metric | MetricCollection, batch: Batch) -> dict[str, Tensor]:
        """Update mean average precision; gives the losses."""
        outputs, losses = self._outputs_and_losses(batch)
        predictions = as_dicts(*self.detections(outputs, tuple(batch["images"].shape[-2:])))
        truth = [
            {"boxes": boxes, "labels": labels}
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        metrics.update(predictions, truth)
        return losses

    def computed_metrics(self, metrics: Metric | MetricCollection) -> dict[str, Tensor]:
        """The COCO numbers over all classes."""
        return {
            name: value
            for name, value in metrics.compute().items()
            if value.ndim == 0 and name != "classes"
        }

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections on images [B, 3, H, W], 0 to 1, without gradients.

        Returns:
            For each image `boxes` [N, 4] xyxy in pixels of the input, `scores` [N] falling,
            `labels` [N].
        """
        outputs = self.evaluating(images)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return as_dicts(*self.detections(outputs, size))
