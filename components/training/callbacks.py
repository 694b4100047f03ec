"""Lightning callbacks of the training run: EMA, best weights, curves, seeds.

Each keeps its state in the checkpoint, so that an interrupted training goes on as if it had not
been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from components.models.processes import mean_over_processes, share_buffers


def _network(module: LightningModule) -> nn.Module:
    """The part of a `VisionModule` that holds its weights."""
    return cast(nn.Module, module.network)


class _RampedEma(ModelEmaV3):
    """timm's EMA with a decay that ramps up, so that the first weights fade."""

    def __init__(self, model: nn.Module, decay: float, tau: float):
        super().__init__(model, decay=decay)
        self.tau = tau

    def get_decay(self, step: int | None = None) -> float:
        """Decay at a step (YOLOX's ramp, Ge et al. 2021, with its time constant as a setting)."""
        return self.decay * (1 - math.exp(-(step or 0) / self.tau))


class Ema(Callback):
    """Keeps a moving average of the network and puts it in place while validating.

    Args:
        decay: share of the old average kept at each step.
        tau: steps over which the decay ramps up.
    """

    def __init__(self, decay: float, tau: float = 20.0):
        self.decay = decay
        self.tau = tau
        self._ema: _RampedEma | None = None
        self._loaded: dict[str, Tensor] | None = None
        self._own: dict[str, Tensor] | None = None
        self._num_updates = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start from the network as it is, or from the checkpoint's average."""
        self._ema = _RampedEma(_network(pl_module), self.decay, self.tau)
        if self._loaded is not None:
            self._ema.module.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the step into the average."""
        assert self._ema is not None
        self._num_updates += 1
        self._ema.update(_network(pl_module), step=self._num_updates)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the average, not the last step."""
        if self._ema is None:
            return
        self._own = {k: v.clone() for k, v in _network(pl_module).state_dict().items()}
        _network(pl_module).load_state_dict(self._ema.module.state_dict())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back."""
        if self._own is not None:
            _network(pl_module).load_state_dict(self._own)
            self._own = None

    def state_dict(self) -> dict[str, Any]:
        """The average, for the checkpoint."""
        assert self._ema is not None
        return {"average": self._ema.module.state_dict(), "num_updates": self._num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self._loaded = state_dict["average"]
        self._num_updates = state_dict["num_updates"]


@dataclass(frozen=True)
class Kept:
    """An epoch's weights.

    Attributes:
        value: the monitored figure that they have.
        epoch: from 1.
        weights: of the network, on the CPU.
    """

    value: float
    epoch: int
    weights: dict[str, Tensor]


def network_copy(module: LightningModule) -> dict[str, Tensor]:
    """The weights of a `VisionModule`'s network as they are, on the CPU."""
    state = _network(module).state_dict()
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}


class BestWeights(Callback):
    """Keeps the network as it was when the monitored value was the best.

    Put before `Ema` among the callbacks: the average is then still in place when this one looks.
    The weights are not in the checkpoint: they have files of their own there, written only when
    they have changed (components/training/checkpoints.py).

    Args:
        monitor: a logged name; higher is better.
        count: so many epochs are kept.

    Attributes:
        kept: the best first; of equals the earlier. An epoch's weights stay the same object.
        loaded: weights of the checkpoint that the training goes on from, in its order.
    """

    def __init__(self, monitor: str, count: int = 1):
        self.monitor = monitor
        self.count = count
        self.kept: list[Kept] = []
        self.loaded: Sequence[dict[str, Tensor]] = ()

    @property
    def weights(self) -> list[dict[str, Tensor]]:
        """All weights that are kept, the best first."""
        return [each.weights for each in self.kept]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare, and copy if better."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(value) or value < 0:
            return  # COCO's -1: there was nothing to find
        # At zero nothing has been found yet, and later weights are the better guess.
        place = sum(each.value > value or each.value == value > 0 for each in self.kept)
        if place < self.count:
            epoch = trainer.current_epoch + 1
            self.kept.insert(place, Kept(value, epoch, network_copy(pl_module)))
            del self.kept[self.count :]

    def state_dict(self) -> dict[str, Any]:
        """The values, and of which epochs."""
        return {"kept": [[each.value, each.epoch] for each in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        pairs = zip(state_dict["kept"], self.loaded, strict=True)
        self.kept = [Kept(value, epoch, weights) for (value, epoch), weights in pairs]


class Curves(Callback):
    """Collects a row of figures an epoch, and prints it as a line.

    The mean loss of the epoch's batches, `train_loss`, is summed up here: what Lightning has logged
    of an epoch is gone when training is interrupted in it.

    Args:
        names: logged values to keep, as `{column: logged name}`.
        on_epoch: called with each row.
    """

    def __init__(self, names: dict[str, str], on_epoch: Any = None):
        self.names = names
        self.on_epoch = on_epoch
        self.rows: list[dict[str, float]] = []
        self._loss_sum = torch.zeros(())
        self._num_images: float | Tensor = 0
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the epoch's clock and sum."""
        self._started = time.perf_counter()
        self._loss_sum, self._num_images = torch.zeros(()), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the loss, where it is: to fetch it from an accelerator would wait for it."""
        loss, num_images = outputs["loss"].detach(), len(batch["images"])
        if trainer.world_size > 1:
            shared = torch.stack([loss.float(), loss.new_tensor(float(num_images))])
            loss, mean_images = mean_over_processes(shared)
            num_images = mean_images * trainer.world_size
        self._loss_sum = self._loss_sum.to(loss.device) + loss * num_images
        self._num_images += num_images

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row. Validation has run by now."""
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1}
        if self._num_images:
            row["train_loss"] = float(self._loss_sum) / float(self._num_images)
        for column, name in self.names.items():
            if name in trainer.callback_metrics:
                row[column] = float(trainer.callback_metrics[name])
        row["lr"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        self.rows.append(row)
        shown = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch")
        seconds = time.perf_counter() - self._started
        if trainer.is_global_zero:
            print(  # noqa: T201 - the training's log line
                f"epoch {row['epoch']}/{trainer.max_epochs}  {shown}  {seconds:.0f} s", flush=True
            )
            if self.on_epoch is not None:
                self.on_epoch(row)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, and the sum of the epoch's losses."""
        return {
            "rows": self.rows,
            "loss_sum": self._loss_sum.cpu(),
            "num_images": float(self._num_images),  # wherever it was, it goes on on any device
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.rows = state_dict["rows"]
        self._loss_sum = state_dict["loss_sum"]
        self._num_images = state_dict["num_images"]


class EpochSeed(Callback):
    """Seeds torch anew at each epoch, so that a resumed training draws what it would have drawn.

    Processes that train together draw differently.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Dropout and its kin draw from (seed, epoch, rank)."""
        epoch_seed = self.seed * 100_003 + trainer.current_epoch
        torch.manual_seed(epoch_seed + trainer.global_rank * 2**40)


class SameBuffers(Callback):
    """What is measured is one model: batch norms may differ between processes. Put after `Ema`."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the first process's."""
        share_buffers(_network(pl_module))
