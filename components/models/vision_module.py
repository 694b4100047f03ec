"""What all models share: stages, metrics, optimizer, schedule, logging, freezing, checkpoints."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import torch
from lightning import LightningModule, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor, nn
from torchmetrics import Metric

from components.models.compilation import is_compiled, why_not_compiled
from components.models.feature_backbone import FeatureBackbone
from components.models.metrics import LoggingConfig, MetricConfig, MetricManager, computed
from components.models.module_options import ModuleOptions, plain
from components.models.optimizers import FUSED, create_optimizer
from components.models.picture_log import log_pictures, matrix_picture
from components.models.processes import gathered, num_processes
from components.models.schedulers import create_scheduler

if TYPE_CHECKING:
    from PIL.Image import Image

    from components.data.transform_config import TransformConfig

Batch = dict[str, Any]


class VisionNetwork(nn.Module):
    """Holds every weight of a model; its feature extractor is apart from the rest."""

    backbone: nn.Module

    @property
    def features(self) -> nn.Module:
        """What is frozen or learns at a rate of its own: the timm model, not what stands on it."""
        return self.backbone.body if isinstance(self.backbone, FeatureBackbone) else self.backbone


class VisionModule(LightningModule):
    """A network with a loss, metrics and an optimizer; one `model_step` serves all stages.

    Subclasses build `network` and call `finish_init`.

    Attributes:
        network: holds every weight; `network.features` is what can be frozen.
        options: how it is trained.
        task: what it predicts.
        main_metric: name of the metric that decides which epoch is best.
        channels: order in which images come.
    """

    network: VisionNetwork
    task: Literal["classification", "detection"]
    main_metric: str  # of validation; higher is better
    channels: Literal["rgb", "bgr"] = "rgb"
    # Mean and std where they are the network's own and no timm model's.
    fixed_input: dict[str, Any] = {}  # noqa: RUF012 - a class's own, never changed
    default_options: dict[str, Any] = {}  # noqa: RUF012 - a class's own defaults, never changed
    always_uses_all_weights = True  # in each step; DDP waits for the gradients of all, or is told

    def __init__(self, given: dict[str, Any]):
        super().__init__()
        self.options = ModuleOptions.of(type(self).__name__, self.default_options, given)
        if self.options.seed is not None:
            seed_everything(self.options.seed, verbose=False)
            if self.options.deterministic:
                torch.backends.cudnn.deterministic = True
                torch.backends.cudnn.benchmark = False
        self._measured_losses: list[tuple[dict[str, Tensor], int]] = []
        config = self.options.logging_config
        if config is None:
            config = LoggingConfig(log_learning_rate=True, log_gradient_norm=False)
        self.logging = LoggingConfig(**config) if isinstance(config, dict) else config

    def finish_init(self, arguments: dict[str, Any], num_classes: int) -> None:
        """Metrics, freezing, and what a checkpoint needs to rebuild this module.

        Args:
            arguments: of the constructor, but for the shared options.
            num_classes: C.
        """
        given = {name: getattr(self.options, name) for name in self.options.__dataclass_fields__}
        self.save_hyperparameters(plain({**arguments, **given}), logger=False)
        self.metric_manager = self._metric_manager(num_classes)
        self.train_metrics = self.metric_manager.get_train_metrics()
        self.val_metrics = self.metric_manager.get_val_metrics()
        self.test_metrics = self.metric_manager.get_test_metrics()
        own = [c for c in self.metric_manager if "val" in c.stages]
        # Mean average precision names its numbers itself, whatever it is called: `map`, `map_50`, …
        named = {
            "map" if c.metric_class == "MeanAveragePrecision" else c.name: None
            for c in own
            if getattr(self.val_metrics[c.name], "higher_is_better", True) is not False
        }
        if named and self.main_metric not in named:
            self.main_metric = next(iter(named))
        self.transform_config = self._transform_config()
        if self.options.frozen:
            self._set_frozen(True)

    def _metric_manager(self, num_classes: int) -> MetricManager:
        metrics = self.options.metrics
        if isinstance(metrics, MetricManager):
            if not self.extra_metrics():
                return metrics
            metrics = metrics.configs
        configs = self.default_metrics() if metrics is None else metrics
        if isinstance(configs, dict):  # a manager that went through a checkpoint
            configs = configs["configs"]
        made = [MetricConfig(**c) if isinstance(c, dict) else c for c in configs]
        return MetricManager([*made, *self.extra_metrics()], num_classes)

    def _transform_config(self) -> TransformConfig | None:
        config = self.options.transform_config
        if isinstance(config, dict):
            from components.data.transform_config import TransformConfig

            return TransformConfig(**config)
        return config

    # AutoTimm's pages read `model.backbone` and put a `model.head` of their own in place.
    def __getattr__(self, name: str) -> Any:
        if name in ("backbone", "head"):
            return getattr(super().__getattr__("network"), name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("backbone", "head"):
            setattr(self.network, name, value)
        else:
            super().__setattr__(name, value)

    @abstractmethod
    def default_metrics(self) -> list[MetricConfig]:
        """What is measured where the user names nothing."""

    def extra_metrics(self) -> list[MetricConfig]:
        """What the logging config asks for besides."""
        return []

    @abstractmethod
    def model_step(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch: a dict of scalars that holds `loss`."""

    @abstractmethod
    def measured_step(self, batch: Batch, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
        """Losses as `model_step` gives them; feeds predictions to the metrics on the way."""

    @abstractmethod
    def drawn_predictions(self, batch: Batch, count: int) -> list[Tensor]:
        """Up to `count` of a batch's images, uint8 [3, H, W], with what the model says of them."""

    # Freezing ---------------------------------------------------------------------------------

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone learns now."""
        return not any(p.requires_grad for p in self.network.features.parameters())

    def _set_frozen(self, frozen: bool) -> None:
        self.network.features.requires_grad_(not frozen)
        # Lightning leaves each submodule in the mode it finds it in; see also `train`.
        self.network.features.train(self.training and not frozen)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but a frozen backbone's batch-norm statistics stay frozen too."""
        super().train(mode)
        if mode and "network" in self._modules and self.frozen:
            self.network.features.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Thaw the backbone when its epochs are over."""
        self.freeze_as_in(self.current_epoch)

    def freeze_as_in(self, epoch: int) -> None:
        """Freeze or thaw the backbone as that epoch of a training has it, from 0."""
        if not self.options.frozen and self.options.freeze_epochs:
            frozen = epoch < self.options.freeze_epochs
            if frozen != self.frozen:
                self._set_frozen(frozen)

    def on_fit_start(self) -> None:
        """Compile, where that pays."""
        if self.options.freeze_epochs and self.trainer.world_size > 1:
            ddp = getattr(self.trainer.strategy, "_ddp_kwargs", {})
            if not ddp.get("find_unused_parameters"):
                raise ValueError(
                    f"freeze_epochs = {self.options.freeze_epochs}: with several devices the "
                    "trainer needs strategy='ddp_find_unused_parameters_true'"
                )
        if is_compiled(self.options.compile_model, self.device.type, self.num_steps):
            if reason := why_not_compiled(self.device.type):
                warnings.warn(f"the network is not compiled: {reason}", stacklevel=2)
            else:
                # In place: a wrapper would put `_orig_mod.` before the name of every weight.
                self.network.compile(**(self.options.compile_kwargs or {}))

    # Stages -----------------------------------------------------------------------------------

    def images_of(self, batch: Any) -> Tensor:
        """The images of whatever a loader for prediction gives."""
        if isinstance(batch, list | tuple):
            return batch[0]
        return batch["images"] if isinstance(batch, dict) else batch

    def as_batch(self, batch: Any) -> Batch:
        """A batch as a dict; `(images, labels)` is one too."""
        if isinstance(batch, dict):
            return batch
        images, labels = batch
        return {"images": images, "labels": labels}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of training."""
        batch = self.as_batch(batch)
        metrics = self._metrics("train")
        losses = self.measured_step(batch, metrics) if metrics else self.model_step(batch)
        self._log_losses("train", losses, batch)
        self._log_metrics("train", on_step=True)
        if self.logging.log_learning_rate and self.logging.verbosity:
            rate = max(group["lr"] for group in self.optimizers().param_groups)  # type: ignore[union-attr]
            self.log("train/lr", rate, on_step=True, on_epoch=False)
        return losses["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics on a validation batch."""
        self._measure("val", self.as_batch(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Loss and metrics on a test batch."""
        self._measure("test", self.as_batch(batch))

    def _measure(self, stage: str, batch: Batch) -> None:
        self._log_losses(stage, self.measured_step(batch, self._metrics(stage)), batch)
        self._log_metrics(stage, on_step=True)
        wanted = self.logging.log_predictions and self.logging.verbosity
        if stage == "val" and wanted and not self.trainer.sanity_checking:
            self._collect_pictures(batch)

    def on_train_epoch_end(self) -> None:
        """Log the metrics over the training batches, as they were when seen."""
        self._log_metrics("train", on_step=False)

    def on_validation_epoch_end(self) -> None:
        """Log losses and metrics over the whole validation split."""
        self._log_measured_losses()
        self._log_metrics("val", on_step=False)
        if self.logging.log_predictions and self._pictures and self.trainer.is_global_zero:
            log_pictures(self.loggers, "val/predictions", self._pictures, self.global_step)

    def on_test_epoch_end(self) -> None:
        """Log losses and metrics over the whole test split."""
        self._log_measured_losses()
        self._log_metrics("test", on_step=False)

    # Logging ----------------------------------------------------------------------------------

    def _metrics(self, stage: str) -> dict[str, Metric]:
        metrics = cast(nn.ModuleDict, getattr(self, f"{stage}_metrics"))
        return {name: cast(Metric, metric) for name, metric in metrics.items()}

    def _log_losses(self, stage: str, losses: dict[str, Tensor], batch: Batch) -> None:
        values = {f"{stage}/{name}": value.detach() for name, value in losses.items()}
        num_images = len(batch["images"])
        if stage != "train" and num_processes() > 1:
            self._measured_losses.append((values, num_images))
        else:
            self.log_dict(values, batch_size=num_images, on_step=False, on_epoch=True)

    def _log_measured_losses(self) -> None:
        """Log the mean losses over all processes' images.

        Lightning's own mean cuts the mean number of images off to an integer, and waits for ever
        where a process has had no batch.
        """
        if num_processes() == 1:
            return
        own = [({k: float(v) for k, v in values.items()}, n) for values, n in self._measured_losses]
        self._measured_losses = []
        measured = [pair for pairs in gathered(own) for pair in pairs]
        total = sum(num_images for _, num_images in measured)
        for name in measured[0][0] if measured else ():
            self.log(name, sum(values[name] * n for values, n in measured) / total)

    def _log_metrics(self, stage: str, on_step: bool) -> None:
        """Log a stage's metrics: those wanted at each step, or at the end of the epoch all others.

        A metric is computed over all batches of the epoch at once, never averaged over them.
        """
        for name, metric in self._metrics(stage).items():
            config = self.metric_manager.get_metric_config(stage, name)
            assert config is not None
            if not metric.update_called or (on_step and not config.log_on_step):
                continue  # a mixed batch, for one, has no labels that could be counted
            if not on_step and not config.log_on_epoch:
                metric.reset()
                continue
            value = computed(metric, everywhere=not on_step)
            if isinstance(value, Tensor) and value.ndim == 2:
                if not on_step:
                    if self.trainer.is_global_zero and self.logging.verbosity:
                        picture = matrix_picture(value)
                        log_pictures(self.loggers, f"{stage}/{name}", [picture], self.global_step)
                    metric.reset()
                continue
            for key, scalar in _scalars(name, value):
                self.log(
                    f"{stage}/{key}_step" if on_step else f"{stage}/{key}",
                    scalar.float(),
                    prog_bar=config.prog_bar,
                    on_step=on_step,
                    on_epoch=not on_step,
                )
            if not on_step:
                metric.reset()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the norm of all gradients, before they are clipped, and of all weights."""
        logging = self.logging
        if logging.verbosity and (logging.log_gradient_norm or logging.log_weight_norm):
            for part, module in self._logged_parts():
                gradients = [p.grad for p in module.parameters() if p.grad is not None]
                if logging.log_gradient_norm and gradients:
                    self._log_step(f"train/grad_norm{part}", nn.utils.get_total_norm(gradients))
                if logging.log_weight_norm:
                    norm = nn.utils.get_total_norm([p.detach() for p in module.parameters()])
                    self._log_step(f"train/weight_norm{part}", norm)

    def _logged_parts(self) -> list[tuple[str, nn.Module]]:
        parts: list[tuple[str, nn.Module]] = [("", self.network)]
        if self.logging.verbosity == 2:
            parts += [
                (f"/{name}", child)
                for name, child in self.network.named_children()
                if any(True for _ in child.parameters())
            ]
        return parts

    def _log_step(self, name: str, value: Tensor) -> None:
        self.log(name, value, on_step=True, on_epoch=False)

    def on_validation_epoch_start(self) -> None:
        """No pictures yet."""
        self._pictures: list[Tensor] = []

    def _collect_pictures(self, batch: Batch) -> None:
        missing = self.logging.predictions_per_epoch - len(self._pictures)
        if missing > 0:
            self._pictures += self.drawn_predictions(batch, missing)

    # Optimizer --------------------------------------------------------------------------------

    def _training_length(self) -> tuple[int, float]:
        """Steps and epochs of the whole training, however the trainer was told."""
        self.trainer.fit_loop.setup_data()  # until then the trainer does not know its loader
        num_steps = self.trainer.estimated_stepping_batches
        batches = self.trainer.num_training_batches
        if 0 < num_steps < float("inf") and batches < float("inf"):
            steps_per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
            return int(num_steps), num_steps / steps_per_epoch
        if self.options.scheduler in (None, "none") and not self.options.scheduler_kwargs:
            return 1, 1.0
        raise ValueError(
            f"scheduler = {self.options.scheduler!r} needs to know how long the training is, but "
            f"the trainer has max_epochs = {self.trainer.max_epochs}, max_steps = "
            f"{self.trainer.max_steps} and a loader of {batches} batches: give it an end and a "
            "loader with a length, or scheduler=None"
        )

    @property
    def backbone_name(self) -> str:
        """timm's name of the backbone."""
        backbone = self.hparams.get("backbone", "")  # a whole detector has none
        return backbone["model_name"] if isinstance(backbone, dict) else backbone

    @property
    def lr(self) -> float:
        """`options.lr`; Lightning's learning-rate finder sets it."""
        return self.options.lr

    @lr.setter
    def lr(self, value: float) -> None:
        self.options = replace(self.options, lr=value)

    def peak_lr(self) -> float:
        """The learning rate that the schedule multiplies."""
        return self.options.lr

    def schedule_options(self, num_epochs: float) -> dict[str, Any]:
        """Arguments of the schedule for a training of so many epochs."""
        return dict(self.options.scheduler_kwargs or {})

    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule."""
        options = self.options
        if options.freeze_epochs and not options.frozen:
            self._set_frozen(False)  # an earlier fit may have ended before the thaw
        num_steps, num_epochs = self._training_length()
        self.num_steps, self.num_epochs = num_steps, num_epochs
        lr = self.peak_lr()
        optimizer = create_optimizer(
            self.network,
            options.optimizer,
            lr,
            options.weight_decay,
            self.network.features,
            options.backbone_lr_scale,
            options.layer_decay,
            **self._optimizer_arguments(),
        )
        schedule = create_scheduler(
            optimizer,
            options.scheduler,
            lr,
            num_steps,
            num_epochs,
            **self.schedule_options(num_epochs),
        )
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _optimizer_arguments(self) -> dict[str, Any]:
        """Those given; and what the trainer's precision asks for."""
        given = dict(self.options.optimizer_kwargs or {})
        if self.trainer.precision == "16-mixed" and self.options.optimizer in FUSED:
            # A fused one takes the loss's scale out itself, too late for gradients to be clipped.
            given.setdefault("fused", None)
        return given

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning does, but also of a fused optimizer in bfloat16.

        Lightning refuses that since a fused one could take the loss's scale out only later; without
        a scaler there is none.
        """
        plugin, value = self.trainer.precision_plugin, gradient_clip_val
        if value and type(plugin) is MixedPrecision and plugin.scaler is None:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            super(MixedPrecision, plugin).clip_gradients(optimizer, value, kind)
        else:
            self.clip_gradients(optimizer, value, gradient_clip_algorithm)

    # Use --------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluating(self, images: Tensor) -> Any:
        """Raw outputs in evaluation mode, leaving the mode as it was."""
        training = self.training
        self.eval()
        try:
            return self.network(images)
        finally:
            self.train(training)

    def get_data_config(self) -> dict[str, Any]:
        """How pictures come to this model: `input_size`, `mean`, `std`, and how they are resized.

        Raises:
            ValueError: the module was made without a `transform_config`.
        """
        from components.data.transform_config import resolve_backbone_data_config

        config = self._required_config()
        facts = resolve_backbone_data_config(
            self.backbone_name if config.use_timm_config and self.backbone_name else nn.Identity(),
            config.mean,
            config.std,
            (3, config.image_size, config.image_size),
            config.interpolation,
            config.crop_pct,
        )
        return facts | self.fixed_input

    def preprocess(self, images: Image | list[Image]) -> Tensor:
        """Pictures as this model takes them: normalised, [B, 3, H, W].

        Raises:
            ValueError: the module was made without a `transform_config`.
        """
        from components.data.transform_config import get_transforms_from_backbone

        config = self._required_config()
        if self.fixed_input:
            config = config.with_overrides(use_timm_config=False, **self.fixed_input)
        transform = get_transforms_from_backbone(self.backbone_name, config, task=self.task)
        several = images if isinstance(images, list) else [images]
        batch = torch.stack([transform(image) for image in several]).to(self.device)
        return batch.flip(1) if self.channels == "bgr" else batch

    def _required_config(self) -> TransformConfig:
        if self.transform_config is None:
            raise ValueError(
                f"this {type(self).__name__} was made without a transform_config, so it does not "
                "know how pictures come to its input: give it one, or hand it normalised tensors"
            )
        return self.transform_config

    def to_onnx(  # type: ignore[override]
        self, file_path: str | Path, input_sample: Tensor | None = None, **kwargs: Any
    ) -> str:
        """Write this model as an ONNX file; see `components.export_to_onnx`."""
        # Found by name: models know nothing of export, and training does not depend on it.
        export: Any = import_module("components.export.onnx_api")
        return export.export_to_onnx(self, file_path, input_sample, **kwargs)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        strict: bool = True,
        **arguments: Any,
    ) -> Self:
        """A module as a checkpoint holds it, rebuilt from the arguments stored there.

        Args:
            checkpoint_path: as Lightning's `ModelCheckpoint` or `Trainer.save_checkpoint` wrote it.
            map_location: device of the weights.
            strict: every weight has to be there.
            arguments: replace stored ones. A loss that was given as a module is not stored: give it
                again.
        """
        state = torch.load(checkpoint_path, map_location=map_location, weights_only=True)
        stored = {**state["hyper_parameters"], **arguments}
        wanted = plain(stored.get("backbone"))
        # The weights come from the checkpoint: nothing is to be fetched for them.
        if wanted is not None:
            named = wanted if isinstance(wanted, dict) else {"model_name": wanted}
            stored["backbone"] = {**named, "pretrained": False}
        if "pretrained" in stored:
            stored["pretrained"] = False
        module = cls(**stored)
        if wanted is not None:
            module.hparams["backbone"] = wanted
        module.load_state_dict(state["state_dict"], strict=strict)
        return module


def own_arguments(scope: dict[str, Any]) -> dict[str, Any]:
    """A constructor's arguments but for the shared options, from its `locals()` at the start."""
    return {k: v for k, v in scope.items() if k not in ("self", "options", "__class__")}


def _scalars(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """A metric's value as named scalars: one, one a class, or those that it names itself."""
    if isinstance(value, Mapping):
        named = {str(key): item for key, item in value.items() if key != "classes"}
        return [scalar for key, item in named.items() for scalar in _scalars(key, item)]
    if not isinstance(value, Tensor) or value.ndim > 1:
        raise ValueError(f"metric {name!r} gives no numbers that could be logged: {type(value)}")
    if value.ndim == 0:
        return [(name, value)]
    return [(f"{name}_{number}", item) for number, item in enumerate(value)]
