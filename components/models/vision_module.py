"""What classifier and detector share: optimizer, schedule, logging, freezing."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from components.models.optimizers import create_optimizer, create_scheduler

Batch = dict[str, Any]


class VisionNetwork(nn.Module):
    """Holds every weight of a model; its timm model is apart from the rest."""

    backbone: nn.Module


class VisionModule(LightningModule):
    """A network with a loss, metrics and an optimizer; one `model_step` serves all stages.

    Attributes:
        network: holds every weight; `network.backbone` is the timm model.
        main_metric: name of the metric that decides which epoch is best.
    """

    network: VisionNetwork
    main_metric: str  # of validation; higher is better

    def __init__(
        self,
        lr: float,
        weight_decay: float,
        optimizer: str,
        optimizer_kwargs: dict[str, Any] | None,
        scheduler: str | None,
        scheduler_kwargs: dict[str, Any] | None,
        freeze_backbone: bool,
        backbone_lr_scale: float,
    ):
        super().__init__()
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer_name = optimizer
        self.optimizer_kwargs = optimizer_kwargs or {}
        self.scheduler_name = scheduler
        self.scheduler_kwargs = scheduler_kwargs or {}
        self.freeze_backbone = freeze_backbone or backbone_lr_scale == 0
        self.backbone_lr_scale = backbone_lr_scale
        self.val_metrics: Metric | MetricCollection
        self.test_metrics: Metric | MetricCollection

    def finish_init(self) -> None:
        """Freeze what is to be frozen; called by subclasses once `network` exists."""
        if self.freeze_backbone:
            self.network.backbone.requires_grad_(False)
            # Lightning leaves each submodule in the mode it finds it in; see also `train`.
            self.network.backbone.eval()

    def train(self, mode: bool = True) -> VisionModule:
        """As `nn.Module.train`, but a frozen backbone's batch-norm statistics stay frozen too."""
        super().train(mode)
        if self.freeze_backbone and mode:
            self.network.backbone.eval()
        return self

    @abstractmethod
    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """Loss of a batch: a dict of scalars that holds `loss`."""

    @abstractmethod
    def update_metrics(self, metrics: Metric | MetricCollection, batch: Batch) -> dict[str, Tensor]:
        """Feed predictions on a batch to the metrics; gives the losses as `model_step` does."""

    def computed_metrics(self, metrics: Metric | MetricCollection) -> dict[str, Tensor]:
        """Names and values of the metrics over a whole epoch."""
        return dict(metrics.compute())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of training."""
        losses = self.model_step(batch)
        self._log("train", losses, batch)
        return losses["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on a validation batch."""
        self._log("val", self.update_metrics(self.val_metrics, batch), batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over the whole validation split."""
        self._log_metrics("val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics on a test batch."""
        self._log("test", self.update_metrics(self.test_metrics, batch), batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics over the whole test split."""
        self._log_metrics("test", self.test_metrics)

    def _log(self, stage: str, losses: dict[str, Tensor], batch: Batch) -> None:
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in losses.items()},
            batch_size=len(batch["images"]),
            on_step=False,
            on_epoch=True,
            sync_dist=stage != "train",
        )

    def _log_metrics(self, stage: str, metrics: Metric | MetricCollection) -> None:
        for name, value in self.computed_metrics(metrics).items():
            self.log(f"{stage}/{name}", value.float())
        metrics.reset()

    def configure_optimizers(self) -> Any:
        """The optimizer, and a schedule stepped after every batch."""
        optimizer = create_optimizer(
            self.network,
            self.optimizer_name,
            self.lr,
            self.weight_decay,
            self.network.backbone,
            self.backbone_lr_scale,
            **self.optimizer_kwargs,
        )
        num_steps = int(self.trainer.estimated_stepping_batches)
        epochs = max(1, self.trainer.max_epochs or 1)
        warmup = self.scheduler_kwargs.get("warmup_epochs", 0.0) / epochs * num_steps
        scheduler = create_scheduler(optimizer, self.scheduler_name, num_steps, round(warmup))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    @torch.no_grad()
    def evaluating(self, images: Tensor) -> Any:
        """Raw outputs in evaluation mode, leaving the mode as it was."""
        training = self.training
        self.eval()
        try:
            return self.network(images)
        finally:
            self.train(training)
