"""What every Lightning module takes besides its own arguments: how it is trained and logged."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from torch import nn

if TYPE_CHECKING:
    from components.data.transform_config import TransformConfig
    from components.models.metrics import LoggingConfig, MetricConfig, MetricManager


@dataclass(frozen=True)
class ModuleOptions:
    """Arguments shared by `ImageClassifier`, `ObjectDetector`, `YOLOXDetector`, `RTDetrDetector`.

    Attributes:
        lr: peak learning rate.
        weight_decay: of weights with two or more dimensions.
        optimizer: a name of `list_optimizers()`, or `{"class": dotted path, "params": {…}}`.
        optimizer_kwargs: passed on to the optimizer.
        scheduler: a name of `list_schedulers()`, a dict as for `optimizer`, or None.
        scheduler_kwargs: of the schedule, lengths in epochs; `warmup_epochs` suits nearly all. See
            `components.models.schedulers.create_scheduler`.
        metrics: what is measured on each stage; None for the task's usual ones.
        logging_config: what else is logged; None for the learning rate.
        transform_config: how `preprocess` brings a picture to the model's input.
        freeze_backbone: the backbone stays as it is, batch-norm statistics too.
        freeze_epochs: the backbone is frozen so for the first epochs only (a linear probe, then
            all layers).
        backbone_lr_scale: the backbone's learning rate as a share of `lr`; 0 freezes it.
        layer_decay: factor of the rate for each layer further from the head; 1 for none.
        compile_model: `torch.compile` the network: True where that pays, which is on a GPU in a
            training of many steps (components/models/compilation.py); "always" on a CPU too. Names
            of weights stay as they are. Without a compiler there is a warning, no more.
        compile_kwargs: passed on to `torch.compile`.
        seed: of the initial weights; None leaves torch's generator alone.
        deterministic: with a seed: cuDNN's reproducible algorithms.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    optimizer: str | dict[str, Any] = "adamw"
    optimizer_kwargs: dict[str, Any] | None = None
    scheduler: str | dict[str, Any] | None = "cosine"
    scheduler_kwargs: dict[str, Any] | None = None
    metrics: MetricManager | list[MetricConfig] | list[dict[str, Any]] | None = None
    logging_config: LoggingConfig | dict[str, Any] | None = None
    transform_config: TransformConfig | dict[str, Any] | None = None
    freeze_backbone: bool = False
    freeze_epochs: int = 0
    backbone_lr_scale: float = 1.0
    layer_decay: float = 1.0
    compile_model: bool | Literal["always"] = True
    compile_kwargs: dict[str, Any] | None = None
    seed: int | None = None
    deterministic: bool = True

    def __post_init__(self) -> None:
        bounds = {
            "lr": self.lr > 0,
            "weight_decay": self.weight_decay >= 0,
            "freeze_epochs": self.freeze_epochs >= 0,
            "backbone_lr_scale": self.backbone_lr_scale >= 0,
            "layer_decay": 0 < self.layer_decay <= 1,
        }
        allowed = {"lr": "> 0", "layer_decay": "above 0, at most 1"}
        for name, holds in bounds.items():
            if not holds:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: must be {allowed.get(name, '>= 0')}"
                )

    @classmethod
    def of(cls, owner: str, defaults: dict[str, Any], given: dict[str, Any]) -> Self:
        """Options from keyword arguments.

        Args:
            owner: the module's name, for the error.
            defaults: the module's own.
            given: by the user.

        Raises:
            TypeError: an argument is not known.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"{owner}() got an unexpected argument {name!r}{hint}")
        return cls(**{**defaults, **given})

    @property
    def frozen(self) -> bool:
        """Whether the backbone never learns."""
        return self.freeze_backbone or self.backbone_lr_scale == 0


def plain(value: Any) -> Any:
    """Configurations as dicts, lists and numbers: a checkpoint then holds nothing to unpickle.

    Modules are left out (`None`): their constructors are code, which a checkpoint does not hold.
    """
    if isinstance(value, nn.Module):
        return None
    if hasattr(value, "tolist"):  # a tensor, a numpy array or number
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return [plain(item) for item in value]
