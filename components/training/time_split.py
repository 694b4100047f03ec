"""Where the time of a training went: data, forward, backward, optimizer, validation, other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

PARTS = ("data", "forward", "backward", "optimizer", "validation")


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of a training by what they were spent on.

    Attributes:
        seconds: of each of `PARTS`. `data` is what the training waited for, not what loading took.
        total: of the whole training.
        num_images: shown in training.
    """

    seconds: dict[str, float]
    total: float
    num_images: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of the total of each part, and of what is left, `other`."""
        total = max(self.total, 1e-9)
        shares = {part: self.seconds[part] / total for part in PARTS}
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}

    @property
    def images_per_second(self) -> float:
        """Training images a second, validation not counted."""
        return self.num_images / max(self.total - self.seconds["validation"], 1e-9)

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return f"time: {shown}; {self.images_per_second:.3g} training images a second"


class StepClock(Callback):
    """Measures a `TimeSplit`. Put last among the callbacks it counts what they do with a step.

    A GPU works on while Python goes on, so there every 16th step waits for it and stands for the
    others; `data` is measured at every step.
    """

    def __init__(self) -> None:
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._num_images = self._num_steps = self._num_measured = 0
        self._measured = True
        self._device = torch.device("cpu")
        self._started: float | None = None
        self._mark = self._validation_start = 0.0
        self._before = 0.0  # seconds of the runs that were interrupted

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._device = pl_module.device
        self._started = self._mark = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._before, self._started = self._total(), None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What lies between epochs is nobody's; the wait for the first batch is data."""
        self._mark = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch has come."""
        now = time.perf_counter()
        self._seconds["data"] += now - self._mark
        self._measured = self._device.type == "cpu" or self._num_steps % 16 == 0
        self._num_steps += 1
        self._num_measured += self._measured
        images = batch["images"] if isinstance(batch, dict) else batch[0]
        self._num_images += len(images) * trainer.world_size
        self._mark = self._now()

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """The loss is there."""
        self._lap("forward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The gradients are there."""
        self._lap("backward")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done."""
        self._lap("optimizer")
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation begins."""
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is over."""
        now = time.perf_counter()
        self._seconds["validation"] += now - self._validation_start
        self._mark = now

    def _now(self) -> float:
        if self._measured and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _lap(self, part: str) -> None:
        if self._measured:
            now = self._now()
            self._seconds[part] += now - self._mark
            self._mark = now

    def split(self) -> TimeSplit:
        """What was measured so far."""
        stands_for = self._num_steps / max(1, self._num_measured)
        seconds = {
            part: value * (stands_for if part in ("forward", "backward", "optimizer") else 1)
            for part, value in self._seconds.items()
        }
        return TimeSplit(seconds, self._total(), self._num_images)

    def _total(self) -> float:
        now = time.perf_counter()
        return self._before + (0.0 if self._started is None else now - self._started)

    def state_dict(self) -> dict[str, Any]:
        """What was measured, for the checkpoint."""
        counts = [self._num_images, self._num_steps, self._num_measured]
        return {"seconds": dict(self._seconds), "counts": counts, "total": self._total()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._seconds, self._before = dict(state_dict["seconds"]), state_dict["total"]
        self._num_images, self._num_steps, self._num_measured = state_dict["counts"]
