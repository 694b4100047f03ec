"""One training run: set up, fit, keep the best. Resumes where an interrupted one stopped."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar
from safetensors.torch import load_file
from torch import Tensor

from components.data.loaders import PreparedDataModule
from components.errors import TrainingError
from components.models.vision_module import VisionModule
from components.training.callbacks import BestWeights, Curves, Ema, EpochSeed, FiniteLoss
from components.training.settings import TrainSettings


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Attributes:
        state: the best epoch's weights, averaged where EMA is on.
        rows: figures by epoch.
        best_epoch: from 1.
        best: the monitored value there.
        monitor: its name.
        seconds: of this run; an interrupted one's are not in it.
    """

    state: dict[str, Tensor]
    rows: list[dict[str, float]]
    best_epoch: int
    best: float
    monitor: str
    seconds: float


def fit(
    module: VisionModule,
    data: PreparedDataModule,
    settings: TrainSettings,
    seed: int,
    resume_dir: Path,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Train a module.

    Args:
        module: to be trained, in place.
        data: its batches.
        settings: how.
        seed: of what the network draws (dropout); `data` has its own.
        resume_dir: holds the checkpoint of an unfinished training of the same parameters, data and
            code, or is made. It stays: whoever has saved the result removes it.
        on_epoch: called with each epoch's figures.

    Raises:
        TrainingError: the loss is not finite, or no epoch gave a value to compare.
    """
    monitor = f"val/{module.main_metric}"
    best = BestWeights(resume_dir / "best.safetensors", monitor)
    curves = Curves(
        {"train_loss": "train/loss", "val_loss": "val/loss", module.main_metric: monitor}, on_epoch
    )
    callbacks: list[Callback] = [EpochSeed(seed), FiniteLoss(), best]
    if settings.ema_decay:
        callbacks.append(Ema(settings.ema_decay, settings.ema_ramp))
    callbacks.append(curves)
    if settings.patience:
        callbacks.append(EarlyStopping(monitor, mode="max", patience=settings.patience))
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(TQDMProgressBar(leave=False))
    callbacks.append(
        ModelCheckpoint(resume_dir, filename="last", every_n_epochs=1, enable_version_counter=False)
    )
    # Lightning tells of its devices, of the number of workers and of upgrades; none is news here.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = Trainer(
        max_epochs=settings.epochs,
        devices=1,  # EpochSampler does not share an epoch out between processes yet
        precision=settings.precision,
        gradient_clip_val=settings.gradient_clip or None,
        deterministic="warn",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=interactive,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    checkpoint = resume_dir / "last.ckpt"
    data.first_epoch = _epochs_done(checkpoint)
    started = time.perf_counter()
    with warnings.catch_warnings():
        _ignore_known_warnings()
        trainer.fit(
            module,
            datamodule=data,
            ckpt_path=checkpoint if checkpoint.exists() else None,
            weights_only=True,
        )
    if trainer.interrupted:
        raise KeyboardInterrupt
    if best.best is None:
        raise TrainingError(
            f"no epoch gave a {monitor} to compare: has the validation split anything to find?"
        )
    return FitResult(
        load_file(best.path),
        curves.rows,
        best.best_epoch,
        best.best,
        monitor,
        time.perf_counter() - started,
    )


def _epochs_done(checkpoint: Path) -> int:
    """Epochs that a checkpoint has behind it; 0 without one.

    Half of one is removed, and training starts over.
    """
    if not checkpoint.exists():
        return 0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return int(state["epoch"]) + 1
    except Exception as error:  # noqa: BLE001 - whatever torch raises, it cannot be resumed from
        print(f"{checkpoint}: unreadable, training starts over ({error})", file=sys.stderr)  # noqa: T201
        checkpoint.unlink()
        return 0


def _ignore_known_warnings() -> None:
    known: dict[str, Any] = {
        "does not have many workers": UserWarning,  # the number is a parameter
        "exists and is not empty": UserWarning,  # the resume folder is meant to be there
        "Average precision score for one or more classes was": UserWarning,  # none in val
        "in eval mode at the start of training": UserWarning,  # a frozen backbone
        "LeafSpec": FutureWarning,  # lightning 2.6 under torch 2.14
    }
    for text, category in known.items():
        warnings.filterwarnings("ignore", message=f".*{text}.*", category=category)
