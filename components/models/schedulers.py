"""Learning-rate schedules by name. Milestones and step sizes are in epochs, never in batches.

Most are pure functions of the training step, so that a resumed training goes on exactly; the rate
is set after every step.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from components.models.optimizers import import_class
from components.models.schedule_arguments import SCHEDULE_ARGUMENTS
from components.models.yolox_schedule import yolox_lr

Factor = Callable[[float], float]

# torch's class names in lower case, which AutoTimm's pages use as well.
_ALIASES = {
    "cosineannealinglr": "cosine",
    "steplr": "step",
    "multisteplr": "multistep",
    "exponentiallr": "exponential",
    "cosineannealingwarmrestarts": "cosine_with_restarts",
    "onecyclelr": "onecycle",
    "reducelronplateau": "plateau",
}
# Below these a schedule would divide by zero, or never end.
_LEAST = {"T_0": 1e-6, "T_mult": 1, "step_size": 1, "gamma": 0, "patience": 0, "no_aug_epochs": 0}
_SELF_WARMED = ("onecycle", "plateau")


def list_schedulers(include_timm: bool = True) -> dict[str, list[str]]:
    """Names that `scheduler` takes: `{"torch": […], "timm": […]}`; all are stepped the same way.

    Args:
        include_timm: also those that AutoTimm takes from timm.
    """
    timm = ["cosine_with_restarts", "plateau"]
    names = {"torch": [name for name in SCHEDULE_ARGUMENTS if name not in timm]}
    return names | {"timm": timm} if include_timm else names


def cosine(floor: float) -> Factor:
    """Half a cosine from 1 down to `floor`, over progress 0 to 1."""
    return lambda progress: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def cosine_with_restarts(first: float, multiplier: float, floor: float) -> Factor:
    """A cosine over `first` epochs, then again over `multiplier` times as many, and so on."""

    def factor(epoch: float) -> float:
        length = first
        while epoch >= length:
            epoch -= length
            length *= multiplier
        return cosine(floor)(epoch / length)

    return factor


def step_factor(
    name: str, lr: float, num_steps: int, num_epochs: float, warmup_epochs: float, **options: Any
) -> Callable[[int], float]:
    """Factor of the learning rate by training step, from 0.

    Args:
        name: of a schedule that is a function of the step alone.
        lr: peak rate; only `eta_min`, an absolute rate, is measured against it.
        num_steps: of the whole training.
        num_epochs: of the whole training.
        warmup_epochs: linear warm-up (quadratic for `yolox`).
        options: of the schedule; see `create_scheduler`.
    """
    steps_per_epoch = num_steps / num_epochs
    num_warmup = round(warmup_epochs * steps_per_epoch)
    if name == "yolox":
        flat = round(options["no_aug_epochs"] * steps_per_epoch)
        least = options["min_lr_ratio"]
        return lambda step: yolox_lr(step, num_steps, num_warmup, flat, min_ratio=least)
    floor = 0.01 if options.get("eta_min") is None else options["eta_min"] / lr
    curve: Factor
    if name == "cosine":
        span = options["T_max"] or num_epochs
        length = max(1.0, span * steps_per_epoch - num_warmup)
        curve = lambda step: cosine(floor)((step - num_warmup) / length)  # noqa: E731
    else:
        by_epoch = _by_epoch(name, floor, options)
        # A millionth of an epoch: steps an epoch need not divide evenly.
        curve = lambda step: by_epoch(step / steps_per_epoch + 1e-6)  # noqa: E731
    return lambda step: (step + 1) / (num_warmup + 1) if step < num_warmup else curve(step)


def _by_epoch(name: str, floor: float, options: dict[str, Any]) -> Factor:
    if name == "step":
        return lambda epoch: options["gamma"] ** (int(epoch) // options["step_size"])
    if name == "multistep":
        return lambda epoch: options["gamma"] ** sum(epoch >= m for m in options["milestones"])
    if name == "exponential":
        return lambda epoch: options["gamma"] ** int(epoch)
    if name == "cosine_with_restarts":
        return cosine_with_restarts(options["T_0"], options["T_mult"], floor)
    return lambda epoch: 1.0


def create_scheduler(
    optimizer: Optimizer,
    scheduler: str | dict[str, Any] | None,
    lr: float,
    num_steps: int,
    num_epochs: float,
    warmup_epochs: float = 0.0,
    **options: Any,
) -> dict[str, Any]:
    """A schedule as Lightning takes it.

    Args:
        optimizer: whose rates it sets.
        scheduler: a name; None is `none`, a constant rate; or `{"class":
            "torch.optim.lr_scheduler.StepLR", "params": {…}, "interval": "epoch"}`.
        lr: peak rate.
        num_steps, num_epochs: of the whole training.
        warmup_epochs: linear warm-up.
        options: arguments of the named schedule, with torch's names; lengths in epochs:
            `cosine` T_max eta_min, `step` step_size gamma, `multistep` milestones gamma,
            `exponential` gamma, `cosine_with_restarts` T_0 T_mult eta_min, `onecycle` max_lr
            pct_start div_factor final_div_factor, `plateau` monitor mode factor patience (mode
            None: a loss is to fall, all else to rise), `yolox` no_aug_epochs min_lr_ratio.

    Raises:
        ValueError: no such schedule, or it takes no such argument.
    """
    if isinstance(scheduler, dict):
        if "class" not in scheduler:
            raise ValueError(f"scheduler = {scheduler}: needs a key 'class', a dotted path")
        if warmup_epochs:
            raise ValueError("scheduler_kwargs.warmup_epochs: only a schedule by name has one")
        kind = import_class(scheduler["class"], LRScheduler)
        made = kind(optimizer, **{**options, **scheduler.get("params", {})})
        how: dict[str, Any] = {
            key: scheduler[key] for key in ("monitor", "frequency", "strict") if key in scheduler
        }
        return {"scheduler": made, "interval": scheduler.get("interval", "epoch"), **how}
    name = _ALIASES.get((scheduler or "none").lower(), scheduler or "none")
    if name not in SCHEDULE_ARGUMENTS:
        near = difflib.get_close_matches(name, SCHEDULE_ARGUMENTS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"unknown scheduler {name!r}; {hint}allowed: {', '.join(SCHEDULE_ARGUMENTS)}"
        )
    unknown = sorted(set(options) - set(SCHEDULE_ARGUMENTS[name]))
    if unknown:
        allowed = ", ".join(
            [*SCHEDULE_ARGUMENTS[name], *([] if name in _SELF_WARMED else ["warmup_epochs"])]
        )
        raise ValueError(
            f"scheduler_kwargs of {name!r}: no argument {unknown[0]!r}; allowed: {allowed}"
        )
    options = {**SCHEDULE_ARGUMENTS[name], **options}
    for key, value in {**options, "warmup_epochs": warmup_epochs}.items():
        least = _LEAST.get(key, 0 if key == "warmup_epochs" else None)
        if least is not None and not value >= least:
            raise ValueError(f"scheduler_kwargs.{key} = {value!r}: must be at least {least:g}")
    if name == "onecycle":
        share = (options.pop("max_lr") or lr) / lr
        peaks = [group["lr"] * share for group in optimizer.param_groups]
        cycled = any(key in optimizer.defaults for key in ("momentum", "betas"))
        cycle = OneCycleLR(optimizer, peaks, num_steps, cycle_momentum=cycled, **options)
        return {"scheduler": cycle, "interval": "step"}
    if name == "plateau":
        monitor = options.pop("monitor")
        options["mode"] = options["mode"] or ("min" if monitor.endswith("loss") else "max")
        plateau = ReduceLROnPlateau(optimizer, **options)
        # Not strict: an epoch without validation has nothing to compare.
        return {"scheduler": plateau, "interval": "epoch", "monitor": monitor, "strict": False}
    factor = step_factor(name, lr, num_steps, num_epochs, warmup_epochs, **options)
    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
