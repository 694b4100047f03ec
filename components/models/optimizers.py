"""Optimizers and learning-rate schedules, all from timm and torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from timm.optim import create_optimizer_v2, list_optimizers
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def create_optimizer(
    module: nn.Module,
    name: str,
    lr: float,
    weight_decay: float,
    backbone: nn.Module | None = None,
    backbone_lr_scale: float = 1.0,
    **kwargs: Any,
) -> Optimizer:
    """An optimizer by timm's name; norms and biases are not decayed.

    Args:
        module: whose trainable parameters are optimised.
        name: one of `timm.optim.list_optimizers()`.
        lr: learning rate of everything but `backbone`.
        weight_decay: of parameters with two or more dimensions.
        backbone: the part of `module` that learns at `lr * backbone_lr_scale`.
        backbone_lr_scale: see `backbone`.
        kwargs: passed on to the optimizer.

    Raises:
        ValueError: timm knows no such optimizer.
    """
    if name not in list_optimizers():
        raise ValueError(f"unknown optimizer {name!r}; timm.optim.list_optimizers() gives all")
    slow = {id(parameter) for parameter in backbone.parameters()} if backbone is not None else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad:
            rate = lr * (backbone_lr_scale if id(parameter) in slow else 1.0)
            decay = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return create_optimizer_v2(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ],
        opt=name,
        lr=lr,
        weight_decay=weight_decay,
        **kwargs,
    )


def warmup_cosine(
    num_steps: int, num_warmup_steps: int, floor: float = 0.01
) -> Callable[[int], float]:
    """Factor of the learning rate by step: linear up from 0, then half a cosine to `floor`."""

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            return (step + 1) / (num_warmup_steps + 1)
        progress = (step - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def create_scheduler(
    optimizer: Optimizer, name: str | None, num_steps: int, num_warmup_steps: int
) -> LambdaLR:
    """A schedule that is stepped after every batch.

    Args:
        optimizer: whose rates it sets.
        name: `cosine`, or `none` for a constant rate after the warm-up.
        num_steps: of the whole training.
        num_warmup_steps: linear warm-up from 0.

    Raises:
        ValueError: no such schedule.
    """
    if name == "cosine":
        return LambdaLR(optimizer, warmup_cosine(num_steps, num_warmup_steps))
    if name in (None, "none"):
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / (num_warmup_steps + 1)))
    raise ValueError(f"unknown scheduler {name!r}; allowed: cosine, none")
