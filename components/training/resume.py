"""Saves a training as it stands, at moments from which it can go on bit for bit, and on a signal.

A checkpoint is taken after a step or at the start of an epoch, never in between: all that the rest
of the training depends on is then in the weights, their average, the optimizer, its schedule, the
scaler, the random streams and the place in the epoch. Which images come, how they are augmented and
at which size follows from (seed, epoch, place) alone; see `components.data.loaders`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from components.models.processes import gathered, largest
from components.training.callbacks import BestWeights, Ema
from components.training.checkpoints import Checkpoints
from components.training.seeding import random_states, restore_random_states

# At the start of an epoch a checkpoint is taken if that keeps their share of the time below this.
_LARGEST_SHARE = 0.03


class StopRequest:
    """Notes INT and TERM while a training runs; it ends after the step it is in.

    A second INT ends it at once.

    Processes that train together end together, whichever of them got the signal; the first says so
    and has the signal's exit status.

    Attributes:
        number: of the signal; None while there was none.
        first: whether this is the first process.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.first = True

    def agree(self, due: bool) -> bool:
        """Whether something is due, or a signal came, in any of the processes."""
        number = largest(self.number or (1 if due else 0))
        if number > 1:
            self.number = number
        return number > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the two signals over inside the block; only the main thread can."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        self.take_over()
        try:
            yield
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in before.items():
                    signal.signal(number, handler)

    def take_over(self, trainer: Trainer | None = None) -> None:
        """Become the handler of both signals.

        Args:
            trainer: has put a handler of its own for TERM when it began; what that one has noted is
                not lost.
        """
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._note)
        if trainer is not None and trainer.received_sigterm:
            self.number = self.number or signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self.number = self.number or number

    def end(self, how_far: str) -> None:
        """End the process with the signal's exit status, 130 or 143; 0 after the first process.

        Raises:
            SystemExit: always.
        """
        assert self.number is not None
        if not self.first:
            raise SystemExit(0)  # else whoever started the processes would kill the first
        name = signal.Signals(self.number).name
        print(f"{name}: {how_far}; the same command goes on from there", file=sys.stderr)  # noqa: T201
        raise SystemExit(128 + self.number)


class CheckpointFiles(TorchCheckpointIO):
    """What Lightning saves and loads, by way of `Checkpoints`.

    Args:
        checkpoints: the files.
        best: whose weights go to a file of their own.

    Attributes:
        loaded: what `load_checkpoint` gives, already read and verified.
    """

    def __init__(self, checkpoints: Checkpoints, best: BestWeights) -> None:
        self.checkpoints = checkpoints
        self.best = best
        self.loaded: dict[str, Any] | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write one; `path` is not looked at."""
        self.checkpoints.write(checkpoint, self.best.weights)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The one that was read; `path` is not looked at."""
        assert self.loaded is not None
        loaded, self.loaded = self.loaded, None
        return loaded


class SaveProgress(Checkpoint):
    """Takes checkpoints: within an epoch by the clock, at its start if that is cheap, on a signal.

    Lightning puts a `Checkpoint` behind all other callbacks, so that their states are those after
    the step.

    Args:
        folder: for Lightning, which wants a path; see `CheckpointFiles`.
        minutes: between checkpoints.
        stop: looked at after each step.
        ema: whose weights are in the network while it is validated.

    Attributes:
        resumed: the checkpoint that the training goes on from.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        stop: StopRequest,
        ema: Ema | None = None,
    ):
        self.folder = folder
        self.seconds = 60 * minutes
        self.stop = stop
        self.ema = ema
        self.resumed: dict[str, Any] | None = None
        self._last = time.monotonic()
        self._cost = 0.0
        self._batches_done = 0
        self._random: dict[str, Any] | None = None
        self._common_batches = 0  # of validation, that no process has fewer of

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what Lightning does not."""
        self._last = time.monotonic()
        if self.resumed is not None:
            if self.resumed["position"]["batch"]:
                # Lightning calls it at the start of an epoch only.
                pl_module.on_train_epoch_start()
            restore_random_states(self.resumed["random"][trainer.global_rank])
            # Lightning takes it for a reason not to step a plateau schedule at the epoch's end, as
            # it does not know that the whole validation will have been run.
            trainer.fit_loop._restarting = False
            self.resumed = None
        self.stop.take_over(trainer)
        if self.stop.agree(False):
            self.stop.end("nothing done that was not saved")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Between two epochs, after the schedules have been stepped."""
        if trainer.current_epoch:
            cheap = time.monotonic() - self._last >= self._cost / _LARGEST_SHARE
            self._save_if(cheap, trainer, 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a step."""
        self._save_if(False, trainer, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the random streams: an interrupted validation is run again from its start."""
        self._random = random_states()
        # Each process has its own number of batches.
        self._common_batches = -largest(-int(trainer.num_val_batches[0]))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """On a signal, save as of the last step: validation changes nothing."""
        if batch_idx < self._common_batches and self.stop.agree(False):
            if self.ema is not None:
                self.ema.on_validation_end(trainer, pl_module)
            self._save_if(True, trainer, self._batches_done)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the streams are as they are."""
        self._random = None

    def _save_if(self, due: bool, trainer: Trainer, batches_done: int) -> None:
        self._batches_done = batches_done
        started = time.monotonic()
        if not self.stop.agree(due or started - self._last >= self.seconds):
            return
        stop = self.stop.number is not None
        trainer.save_checkpoint(self.folder / "checkpoint")
        self._last = time.monotonic()
        self._cost = self._last - started
        if stop:
            place = f"epoch {trainer.current_epoch + 1}, step {batches_done}"
            self.stop.end(f"saved after {place} of {trainer.num_training_batches}")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the place and the random streams; put Lightning's counters between two steps."""
        batch = self._batches_done
        checkpoint["position"] = {"epoch": trainer.current_epoch, "batch": batch}
        checkpoint["random"] = gathered(self._random or random_states())
        loop = checkpoint["loops"]["fit_loop"]
        if not batch:
            # As after the epoch before; the epoch that starts is counted when it is resumed.
            for part in loop["epoch_progress"].values():
                part["ready"] = part["processed"]
        elif batch == trainer.num_training_batches:
            # The last step is done, and validation is under way with no batch behind it.
            for part in ("total", "current"):
                steps = loop["epoch_loop.batch_progress"][part]
                steps["completed"] = steps["processed"]
                loop["epoch_loop.val_loop.batch_progress"][part] = {
                    **{"ready": 1, "started": 1, "processed": 0, "completed": 0},
                }
