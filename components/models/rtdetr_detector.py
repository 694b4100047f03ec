"""`RTDetrDetector`: RT-DETR, a detector without non-maximum suppression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from components.models.detector import DetectorModule, image_size_of
from components.models.rtdetr_config import MEAN, STD, rtdetr_config
from components.models.rtdetr_loss import normalized_targets, rtdetr_loss, select_queries
from components.models.rtdetr_network import RTDetrNetwork, RTDetrOutputs
from components.models.rtdetr_weights import load_rtdetr_weights
from components.models.vision_module import Batch, own_arguments


class RTDetrDetector(DetectorModule):
    """RT-DETR (Zhao et al. 2023, arXiv:2304.08069) through `transformers`, the extra `rtdetr`.

    Args:
        model_name: `rtdetr_r18vd`, `rtdetr_r34vd`, `rtdetr_r50vd`, `rtdetr_r50vd_m` or
            `rtdetr_r101vd`.
        num_classes: C, without background.
        pretrained: True for the hub's `PekingU/<model_name>`, False for random weights, or the path
            of a local file or folder; see `load_rtdetr_weights`.
        num_queries: Q, how many objects an image may have; at most the number of places, which for
            an image of H x W is HW (1/64 + 1/256 + 1/1024).
        score_thresh: weaker detections are dropped.
        max_detections_per_image: D.
        freeze_batch_norm: keep the backbone's batch norms as they are; None for "if pretrained":
            random weights need statistics of their own.
        extra_config: further fields of `transformers.RTDetrConfig`; see `rtdetr_config`.
        options: training and logging; see `ModuleOptions`. The authors' defaults: AdamW, `lr` 1e-4,
            the backbone at a tenth of it. They also limit the gradient's norm to 0.1.

    Images are scaled to 0..1 and not normalised; their sides are multiples of 32. Losses logged:
    `cls_loss`, `l1_loss`, `giou_loss`, in training with those of the denoising queries.

    Raises:
        ValueError: no such model or field.
        ModelError: transformers is not installed, or the weights cannot be had.
    """

    default_options = {  # noqa: RUF012 - see VisionModule
        "lr": 1e-4,
        "backbone_lr_scale": 0.1,
        # Batches have different numbers of denoising queries; each would be compiled anew.
        "compile_model": False,
    }
    fixed_input = {"mean": MEAN, "std": STD}  # noqa: RUF012 - see VisionModule
    thresholds = ("score_thresh", "max_detections_per_image")
    always_uses_all_weights = False  # a batch without boxes has no denoising queries
    network: RTDetrNetwork

    def __init__(
        self,
        model_name: str = "rtdetr_r18vd",
        num_classes: int = 80,
        pretrained: bool | str | Path = True,
        num_queries: int = 300,
        score_thresh: float = 0.05,
        max_detections_per_image: int = 100,
        freeze_batch_norm: bool | None = None,
        extra_config: dict[str, Any] | None = None,
        **options: Any,
    ):
        # Settled before it is stored: a checkpoint is rebuilt with `pretrained=False`.
        freeze_batch_norm = bool(pretrained) if freeze_batch_norm is None else freeze_batch_norm
        pretrained = str(pretrained) if isinstance(pretrained, Path) else pretrained
        arguments = own_arguments(locals())
        super().__init__(options)
        if num_classes < 1:
            raise ValueError(f"num_classes = {num_classes}: a detector needs at least 1")
        self.num_classes = num_classes
        self.score_thresh = score_thresh
        self.max_detections_per_image = max_detections_per_image
        own = {"num_queries": num_queries, "freeze_backbone_batch_norms": freeze_batch_norm}
        config = rtdetr_config(model_name, num_classes, own | (extra_config or {}))
        self.network = RTDetrNetwork(config)
        if pretrained:
            load_rtdetr_weights(self.network, model_name, pretrained)
        self.finish_init(arguments, num_classes)

    def outputs_and_losses(self, batch: Batch) -> tuple[RTDetrOutputs, dict[str, Tensor]]:
        """In training the network is shown the targets: denoising queries are made from them."""
        targets = normalized_targets(
            batch["boxes"], batch["labels"], image_size_of(batch["images"])
        )
        outputs = self.network(batch["images"], targets)
        return outputs, rtdetr_loss(outputs, targets, self.network.config)

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
