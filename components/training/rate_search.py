"""Search for a learning rate and a batch size before training, by Lightning's tuner.

Off unless asked for. It runs on copies and in a temporary folder: the model's weights, the random
state and the working folder are afterwards as they were. What it finds is kept within bounds: on a
small or noisy data set the steepest descent of the loss says little, and a rate a hundred times
off ruins a training.
"""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.tuner import Tuner

from components.models.vision_module import VisionModule

_log = logging.getLogger(__name__)

_LR_FIND = {
    "min_lr": 1e-7,
    "max_lr": 1.0,
    "num_training": 100,
    "mode": "exponential",
    "early_stop_threshold": 4.0,
}
_BATCH_SIZE = {"mode": "power", "steps_per_trial": 3, "init_val": 16, "max_trials": 25}
MAX_BATCH_SIZE = 512  # larger ones need another recipe


@dataclass
class TunerConfig:
    """What to search for before training.

    Attributes:
        auto_lr: the learning rate; the model must be a `VisionModule`, or have an `lr`.
        auto_batch_size: the batch size, on a GPU only: the search ends where memory does, and a
            machine without one would be brought to swap.
        lr_find_kwargs: of `Tuner.lr_find`; None for 100 steps from 1e-7 to 1.
        batch_size_kwargs: of `Tuner.scale_batch_size`; None for doubling from 16. `max_val`, the
            largest, is 512 unless given.
        max_lr_factor: the rate found is brought within this factor of the model's own.

    Raises:
        ValueError: `max_lr_factor` is below 1.
    """

    auto_lr: bool = True
    auto_batch_size: bool = True
    lr_find_kwargs: dict[str, Any] | None = None
    batch_size_kwargs: dict[str, Any] | None = None
    max_lr_factor: float = 10.0

    def __post_init__(self) -> None:
        if not self.max_lr_factor >= 1:
            raise ValueError(f"max_lr_factor = {self.max_lr_factor}: must be at least 1")
        if self.lr_find_kwargs is None:
            self.lr_find_kwargs = dict(_LR_FIND)
        if self.batch_size_kwargs is None:
            self.batch_size_kwargs = dict(_BATCH_SIZE)


def search(
    config: TunerConfig,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    loaders: dict[str, Any],
    trainer_settings: dict[str, Any],
    on_gpu: bool,
) -> dict[str, float]:
    """Search, and set what was found on the model and the data module.

    Args:
        config: what to search for.
        model: has its `lr` set; its weights are not touched.
        datamodule: has its `batch_size` set; or None.
        loaders: `train_dataloaders`, where there is no data module.
        trainer_settings: of the `Trainer` that searches.
        on_gpu: whether there is a memory that can be filled without harm.

    Returns:
        `lr` and `batch_size`, as far as they were found.
    """
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("fit")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
        settings = {**trainer_settings, "default_root_dir": folder}
        if config.auto_batch_size and on_gpu:
            size = _batch_size(config, model, datamodule, settings)
            if size is not None:
                found["batch_size"] = size
                setattr(datamodule, "batch_size", size)  # noqa: B010 - not every module has one
        elif config.auto_batch_size:
            _log.info("no search for a batch size: there is no GPU whose memory would end it")
        if config.auto_lr:
            rate = _learning_rate(config, model, datamodule, loaders, settings)
            if rate is not None:
                found["lr"] = rate
                _set_rate(model, rate)
    return found


def _learning_rate(
    config: TunerConfig,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    loaders: dict[str, Any],
    settings: dict[str, Any],
) -> float | None:
    own = _rate(model)
    wanted = dict(config.lr_find_kwargs or {})
    # As many epochs as steps: a small data set must not end the search.
    epochs = int(wanted.get("num_training", 100))
    trial = _copied(model)
    finder = Tuner(Trainer(**settings, max_epochs=epochs)).lr_find(
        trial, datamodule=copy.copy(datamodule), update_attr=False, **loaders, **wanted
    )
    suggestion = finder.suggestion() if finder is not None else None
    if suggestion is None or not math.isfinite(suggestion):
        _log.warning("the search found no learning rate; it stays %g", own)
        return None
    # What was found is a step's rate, which a module may make of its own (YOLOX: by the batch).
    peak_lr = getattr(trial, "peak_lr", None)
    found = suggestion if peak_lr is None else suggestion * own / peak_lr()
    rate = min(max(found, own / config.max_lr_factor), own * config.max_lr_factor)
    _log.info("learning rate %g (found %g, the model's own %g)", rate, found, own)
    return float(rate)


def _batch_size(
    config: TunerConfig,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    settings: dict[str, Any],
) -> int | None:
    if not hasattr(datamodule, "batch_size"):
        raise ValueError("tuner_config: auto_batch_size needs a data module with a batch_size")
    wanted = {"max_val": MAX_BATCH_SIZE, **(config.batch_size_kwargs or {})}
    trial = copy.copy(datamodule)
    size = Tuner(Trainer(**settings, max_epochs=1)).scale_batch_size(
        _copied(model), datamodule=trial, **wanted
    )
    if size is None:
        return None
    size = min(size, wanted["max_val"])
    _log.info("batch size %d", size)
    return size


def _copied(model: LightningModule) -> LightningModule:
    """A copy with weights of its own, free of any trainer."""
    trainer, model._trainer = model._trainer, None
    try:
        return copy.deepcopy(model)
    finally:
        model._trainer = trainer


def _rate(model: LightningModule) -> float:
    """The model's own learning rate: `lr`, or that of a `VisionModule`'s options."""
    rate = getattr(model, "lr", getattr(getattr(model, "options", None), "lr", None))
    if not isinstance(rate, float | int):
        raise ValueError("tuner_config: auto_lr needs a model with a learning rate named lr")
    return rate


def _set_rate(model: LightningModule, rate: float) -> None:
    if isinstance(model, VisionModule):
        model.options = replace(model.options, lr=rate)
    else:
        setattr(model, "lr", rate)  # noqa: B010 - `lr` is not part of LightningModule
    if "lr" in model.hparams:
        model.hparams["lr"] = rate
