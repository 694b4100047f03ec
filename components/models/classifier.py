"""`ImageClassifier`: a timm backbone, dropout, a linear layer."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from components.models.backbones import BackboneConfig, create_backbone
from components.models.vision_module import Batch, VisionModule, VisionNetwork


class ClassifierNetwork(VisionNetwork):
    """Images [B, 3, H, W], normalised, to logits [B, C]."""

    def __init__(self, backbone: nn.Module, num_classes: int, head_dropout: float):
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(head_dropout) if head_dropout > 0 else nn.Identity()
        # Some families (MobileNetV3) have a hidden layer between the last features and the head.
        width = cast(int, getattr(backbone, "head_hidden_size", None) or backbone.num_features)
        self.head = nn.Linear(width, num_classes)
        # Zero logits at the start: every class equally likely, and a first loss of log C.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits."""
        return self.head(self.dropout(self.backbone(images)))


class ImageClassifier(VisionModule):
    """A classifier over any timm backbone.

    Args:
        backbone: timm's name, or a config.
        num_classes: C.
        lr, weight_decay, optimizer, optimizer_kwargs: see `create_optimizer`.
        scheduler: `cosine` or `none`; `scheduler_kwargs` may hold `warmup_epochs`.
        head_dropout: before the linear layer.
        label_smoothing: share of the target spread evenly over the classes.
        freeze_backbone: train the head only; batch-norm statistics stay as they are too.
        backbone_lr_scale: the backbone's learning rate as a share of `lr`.

    A batch is `{"images": [B, 3, H, W] normalised, "labels": [B]}`. Logs `{stage}/loss`,
    `{stage}/accuracy`, `{stage}/f1`.
    """

    main_metric = "accuracy"

    def __init__(
        self,
        backbone: str | BackboneConfig,
        num_classes: int,
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        optimizer: str = "adamw",
        optimizer_kwargs: dict[str, Any] | None = None,
        scheduler: str | None = "cosine",
        scheduler_kwargs: dict[str, Any] | None = None,
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        freeze_backbone: bool = False,
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
        if num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}: a classifier needs at least 2")
        self.label_smoothing = label_smoothing
        self.network = ClassifierNetwork(create_backbone(backbone), num_classes, head_dropout)
        metrics = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(num_classes, average="micro"),
                "f1": MulticlassF1Score(num_classes, average="macro"),
            }
        )
        self.val_metrics: MetricCollection = metrics.clone()
        self.test_metrics: MetricCollection = metrics.clone()
        self.finish_init()

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, 3, H, W]."""
        return self.network(images)

    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of a batch."""
        return self._losses(self(batch["images"]), batch)

    def _losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        smoothing = self.label_smoothing if self.training else 0.0
        return {"loss": F.cross_entropy(logits.float(), batch["labels"], label_smoothing=smoothing)}

    def update_metrics(self, metrics: Metric | MetricCollection, batch: Batch) -> dict[str, Tensor]:
        """Update accuracy and F1; gives the loss."""
        logits = self(batch["images"])
        metrics.update(logits, batch["labels"])
        return self._losses(logits, batch)

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities [B, C] of normalised images, without gradients."""
        return torch.softmax(self.evaluating(images).float(), dim=1)
