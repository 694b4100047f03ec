"""`ImageClassifier`: a timm backbone, dropout, a linear layer.

Shapes: B images, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from components.data.mixup import mix_batch
from components.models.backbones import BackboneConfig, create_backbone
from components.models.loss_registry import ClassificationLoss, as_classification_loss, not_zero
from components.models.losses import over_devices
from components.models.memory_layout import has_grouped_convolutions, laid_out
from components.models.metrics import MetricConfig
from components.models.picture_log import unnormalized, with_caption
from components.models.processes import num_processes
from components.models.vision_module import (
    Batch,
    VisionModule,
    VisionNetwork,
    own_arguments,
)

if TYPE_CHECKING:
    from PIL.Image import Image


class ClassifierNetwork(VisionNetwork):
    """Images [B, 3, H, W], normalised, to logits [B, C]."""

    def __init__(self, backbone: nn.Module, num_classes: int, head_dropout: float):
        super().__init__()
        self.backbone = backbone
        self.grouped = has_grouped_convolutions(backbone)
        self.dropout = nn.Dropout(head_dropout) if head_dropout > 0 else nn.Identity()
        # Some families (MobileNetV3) have a hidden layer between the last features and the head.
        width = cast(int, getattr(backbone, "head_hidden_size", None) or backbone.num_features)
        self.head = nn.Linear(width, num_classes)
        # Zero logits at the start: every class equally likely, and a first loss of log C.
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits."""
        return self.head(self.dropout(self.backbone(laid_out(images, self.grouped))))


class ImageClassifier(VisionModule):
    """A classifier over any timm backbone.

    Args:
        backbone: timm's name, or a config.
        num_classes: C.
        multi_label: an image may have any number of the classes: a sigmoid each, not one softmax.
        threshold: multi-label only; a class is predicted from this probability on.
        loss_fn: a name of `list_losses("classification")`, or a module `(logits [B, C], targets)
            -> loss`; None for cross-entropy, or binary cross-entropy for multi-label.
        head_dropout: before the linear layer.
        label_smoothing: share of the target spread evenly over the classes.
        mixup_alpha: images are blended in pairs by a share drawn from Beta(alpha, alpha) (Zhang et
            al. 2018, arXiv:1710.09412); 0 for not at all.
        cutmix_alpha: a rectangle of each image is replaced by another's (Yun et al. 2019,
            arXiv:1905.04899); with both, each batch takes one of the two.
        class_weights: C weights of the classes in the loss, or None.
        options: training and logging; see `ModuleOptions`.

    A batch is `{"images": [B, 3, H, W] normalised, "labels": [B]}`, or such a pair; labels of a
    multi-label batch are [B, C] of 0 and 1. Logs `{stage}/loss`, and by default accuracy and macro
    F1, or for multi-label mean average precision, macro F1 and accuracy over all labels.
    """

    task = "classification"
    main_metric = "accuracy"
    default_options = {"lr": 1e-3}  # noqa: RUF012 - see VisionModule

    def __init__(
        self,
        backbone: str | BackboneConfig | dict[str, Any],
        num_classes: int,
        multi_label: bool = False,
        threshold: float = 0.5,
        loss_fn: str | nn.Module | None = None,
        head_dropout: float = 0.0,
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        class_weights: Sequence[float] | None = None,
        **options: Any,
    ):
        arguments = own_arguments(locals())
        super().__init__(options)
        backbone = BackboneConfig(**backbone) if isinstance(backbone, dict) else backbone
        if num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}: a classifier needs at least 2")
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(
                f"class_weights has {len(class_weights)} values, num_classes is {num_classes}"
            )
        values = [1.0] if class_weights is None else [float(weight) for weight in class_weights]
        if not (min(values) >= 0 and 0 < sum(values) < math.inf):
            raise ValueError(f"class_weights = {values}: must be finite, 0 or above, one above 0")
        self.num_classes = num_classes
        self.multi_label = multi_label
        self.threshold = threshold
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        weights = None if class_weights is None else torch.as_tensor(class_weights).float()
        self.loss = as_classification_loss(loss_fn, multi_label, label_smoothing, weights)
        self.network = ClassifierNetwork(create_backbone(backbone), num_classes, head_dropout)
        if multi_label:
            self.main_metric = "map"
        self.finish_init(arguments, num_classes)

    def default_metrics(self) -> list[MetricConfig]:
        """Accuracy and macro F1; mean average precision comes first for multi-label."""

        def config(name: str, metric_class: str, **params: Any) -> MetricConfig:
            return MetricConfig(name, "torchmetrics", metric_class, params, ["val", "test"])

        if self.multi_label:
            return [
                config("map", "MultilabelAveragePrecision", average="macro"),
                config("f1", "MultilabelF1Score", average="macro", threshold=self.threshold),
                config("accuracy", "MultilabelAccuracy", average="micro", threshold=self.threshold),
            ]
        return [
            config("accuracy", "MulticlassAccuracy", average="micro"),
            config("f1", "MulticlassF1Score", average="macro"),
        ]

    def extra_metrics(self) -> list[MetricConfig]:
        """The confusion matrix."""
        if not self.logging.log_confusion_matrix:
            return []
        if self.multi_label:
            raise ValueError("log_confusion_matrix = True: classes of multi_label are not confused")
        kind = "MulticlassConfusionMatrix"
        return [MetricConfig("confusion_matrix", "torchmetrics", kind, {}, ["val", "test"])]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of normalised images [B, 3, H, W]."""
        return self.network(images)

    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch; a training batch is mixed first where that is wanted."""
        images, labels = batch["images"], batch["labels"]
        if self.training and (self.mixup_alpha or self.cutmix_alpha):
            images, labels = mix_batch(
                images, labels, self.num_classes, self.mixup_alpha, self.cutmix_alpha
            )
        return {"loss": self._step_loss(self(images), labels)}

    def _step_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """A process's loss such that the mean over processes is that of all images of the step."""
        if num_processes() == 1:
            return self.loss(logits, labels)
        if isinstance(self.loss, ClassificationLoss) and self.loss.weighs(labels):
            divisor = over_devices(self.loss.divisor(labels))
            return self.loss.total(logits, labels) / not_zero(divisor)
        num_images = torch.tensor(float(len(labels)), device=logits.device)
        return self.loss(logits, labels) * (num_images / over_devices(num_images.clone()))

    def measured_step(self, batch: Batch, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Update the metrics with probabilities [B, C] and labels; gives the loss."""
        if self.training and (self.mixup_alpha or self.cutmix_alpha):
            # A blend has no one label that a metric could count.
            return self.model_step(batch)
        logits, labels = self(batch["images"]), batch["labels"]
        probabilities = self.probabilities(logits.detach())
        for metric in metrics.values():
            # torchmetrics' binary metrics want the probability of class 1.
            binary = type(metric).__name__.startswith("Binary") and self.num_classes == 2
            metric.update(probabilities[:, 1] if binary else probabilities, labels.long())
        return {"loss": self._step_loss(logits, labels)}

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [B, C] as probabilities: summing to one, or for multi-label one by one."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(dim=1)

    def predict(self, images: Tensor | Image | list[Image]) -> Tensor:
        """Class probabilities [B, C], without gradients; the model's state stays as it is.

        Args:
            images: normalised [B, 3, H, W]; or pictures, for a module with a `transform_config`.
        """
        if not isinstance(images, Tensor):
            images = self.preprocess(images)
        return self.probabilities(self.evaluating(images))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class probabilities of a batch, for `Trainer.predict`."""
        return self.predict(self.images_of(batch))

    def drawn_predictions(self, batch: Batch, count: int) -> list[Tensor]:
        """Images with the class predicted, its probability, and the class it is."""
        images, labels = batch["images"][:count], batch["labels"][:count]
        pictures = []
        for image, row, label in zip(images, self.predict(images), labels, strict=True):
            if self.multi_label:
                found = (row >= self.threshold).nonzero().flatten().tolist()
                caption = f"{found}, is {label.nonzero().flatten().tolist()}"
            else:
                caption = f"{int(row.argmax())} {float(row.max()):.2f}, is {int(label)}"
            pictures.append(with_caption(unnormalized(image), caption))
        return pictures
