"""`AutoTrainer`: Lightning's Trainer with this project's defaults, under AutoTimm's names.

Where standard error is no terminal it shows no progress bar and no model summary. It writes nothing
but the best epoch's checkpoint, into `default_root_dir/checkpoints`, and not even that with
`enable_checkpointing=False`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from components.models.shared_batch_norm import SharedBatchNorms
from components.training.loggers import resolve_loggers
from components.training.rate_search import TunerConfig, search
from components.training.seeding import seed_everything

Monitor = tuple[str, str]  # a logged name, and "max" or "min"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch that is best by the module's own main metric.

    That is `val/<main_metric>` (higher is better) of a module that has a `main_metric`; else, or
    where the module did not log it, `val/loss`; without validation `train/loss`. Which it is shows
    in `monitor` once an epoch has ended.

    Args:
        dirpath: folder; None for the trainer's.
    """

    def __init__(self, dirpath: str | Path | None = None):
        super().__init__(dirpath, filename="best-{epoch}")
        self.candidates: list[Monitor] = []

    @property
    def state_key(self) -> str:
        """The same before and after the metric is known, so that a training resumes with it."""
        return type(self).__name__

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what may be monitored."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        # Where the user names the metrics, that of the class may be logged under its own name.
        names = [getattr(place, "main_metric", None) for place in (pl_module, type(pl_module))]
        wanted = dict.fromkeys(name for name in names if isinstance(name, str))
        candidates = [*((f"val/{name}", "max") for name in wanted), ("val/loss", "min")]
        if self.candidates and candidates != self.candidates:  # another module than last time
            self.monitor, self.best_model_path, self.best_model_score = None, "", None
            self.best_k_models = {}
        self.candidates = candidates

    def _save_topk_checkpoint(
        self, trainer: Trainer, monitor_candidates: dict[str, Tensor]
    ) -> None:
        if self.monitor is None:
            chosen = next((pair for pair in self.candidates if pair[0] in monitor_candidates), None)
            if chosen is None:
                every = trainer.check_val_every_n_epoch or 1
                if trainer.enable_validation and (trainer.current_epoch + 1) % every:
                    return  # validation is still to come
                chosen = ("train/loss", "min")
                if chosen[0] not in monitor_candidates:
                    return
            self._watch(*chosen)
        super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _watch(self, monitor: str, mode: str) -> None:
        self.monitor, self.mode = monitor, mode
        self.kth_value = torch.tensor(float("-inf") if mode == "max" else float("inf"))

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs."""
        return {**super().state_dict(), "mode": self.mode}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        if state_dict["monitor"] is not None:
            self._watch(state_dict["monitor"], state_dict["mode"])
        super().load_state_dict(state_dict)


class AutoTrainer(Trainer):
    """Lightning's `Trainer` with defaults for the modules of this project.

    Args:
        max_epochs: passes over the training images.
        accelerator, devices, precision: as Lightning's; `auto` takes what there is.
        logger: a bool, a Lightning logger, `LoggerManager`, `LoggerConfig`, `tensorboard`, `csv`,
            `wandb` or `mlflow`, or a list of these; False for none.
        tuner_config: search for a learning rate and a batch size before training; see
            `TunerConfig`. True for both. None and False: no search (AutoTimm searches by default;
            what it found was often far worse than the model's own rate). A search needs a single
            process.
        checkpoint_monitor: logged name by which the best epoch is kept; `auto`: see
            `BestCheckpoint`; None keeps none. A `ModelCheckpoint` among the callbacks takes its
            place.
        checkpoint_mode: `max` or `min`; None is `min` for a name that ends in `loss`, else `max`.
            `auto` has its own.
        callbacks: further ones.
        default_root_dir: of the checkpoints and of loggers given by name.
        gradient_clip_val: largest gradient norm; None for no limit.
        accumulate_grad_batches: batches a step.
        val_check_interval: how often to validate; 1.0 is once an epoch.
        enable_checkpointing: False keeps no checkpoint.
        fast_dev_run: True, or a number of batches: a trial run.
        seed: of everything, set when `fit` and `test` begin; None leaves it.
        deterministic: take deterministic algorithms; a warning names an operation that has none.
        use_autotimm_seeding: both values seed alike.
        json_progress, json_progress_every_n_steps, json_progress_log_file: of AutoTimm's desktop
            front end, which is not here.
        sync_batchnorm: batch norms take the statistics of all processes' images; by our own
            `SharedBatchNorms`, as torch's `SyncBatchNorm` loses timm's activations.
        plugins: as Lightning's.
        **trainer_kwargs: any other of Lightning's.

    Raises:
        ValueError: a parameter is not allowed.
    """

    def __init__(
        self,
        max_epochs: int = 10,
        accelerator: str = "auto",
        devices: int | str | list[int] = "auto",
        precision: Any = 32,
        logger: Any = False,
        tuner_config: TunerConfig | bool | None = None,
        checkpoint_monitor: str | None = "auto",
        checkpoint_mode: str | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        default_root_dir: str | Path = ".",
        gradient_clip_val: float | None = None,
        accumulate_grad_batches: int = 1,
        val_check_interval: float | int = 1.0,
        enable_checkpointing: bool = True,
        fast_dev_run: bool | int = False,
        seed: int | None = None,
        deterministic: bool = False,
        use_autotimm_seeding: bool = False,
        json_progress: bool = False,
        json_progress_every_n_steps: int = 10,
        json_progress_log_file: str | None = None,
        sync_batchnorm: bool = False,
        plugins: Any = None,
        **trainer_kwargs: Any,
    ):
        if json_progress:
            raise ValueError("json_progress = True: allowed: False; nothing here reads it")
        if not isinstance(tuner_config, TunerConfig | bool | None):
            raise ValueError(
                f"tuner_config = {tuner_config!r}: allowed: a TunerConfig, True, False, None"
            )
        self._seed = seed
        self._is_trial = bool(fast_dev_run)
        self._tuner_config = TunerConfig() if tuner_config is True else tuner_config or None
        self.tuned: dict[str, float] = {}
        own = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        keeps = any(isinstance(callback, ModelCheckpoint) for callback in own)
        if enable_checkpointing and checkpoint_monitor and not keeps:
            own.append(_keeper(checkpoint_monitor, checkpoint_mode))
            keeps = True
        if sync_batchnorm:
            given = plugins if isinstance(plugins, list) else [plugins] if plugins else []
            plugins = [*given, SharedBatchNorms()]
        interactive = sys.stderr.isatty()
        shared: dict[str, Any] = {
            "accelerator": accelerator,
            "precision": precision,
            "gradient_clip_val": gradient_clip_val,
            "accumulate_grad_batches": accumulate_grad_batches,
            "deterministic": "warn" if deterministic else None,
        }
        self._search_settings = shared | {
            key: value for key, value in trainer_kwargs.items() if key in _ALSO_SEARCHED
        }
        with _without_known_warnings():
            super().__init__(
                max_epochs=max_epochs,
                devices=devices,
                logger=resolve_loggers(logger, default_root_dir),
                callbacks=own,
                default_root_dir=default_root_dir,
                val_check_interval=val_check_interval,
                enable_checkpointing=enable_checkpointing and keeps,
                fast_dev_run=fast_dev_run,
                plugins=plugins,
                **shared,
                **{
                    "enable_progress_bar": interactive,
                    "enable_model_summary": interactive,
                    **trainer_kwargs,
                },
            )

    @property
    def tuner_config(self) -> TunerConfig | None:
        """What is searched for before training; None for nothing."""
        return self._tuner_config

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train; with a `tuner_config`, after the search, whose result is then in `tuned`."""
        if isinstance(train_dataloaders, LightningDataModule):
            datamodule, train_dataloaders = train_dataloaders, None
        self._apply_seed()
        with _without_known_warnings():
            if self._tuner_config is not None and not self._is_trial:
                self.search(model, train_dataloaders, datamodule)
                self._apply_seed()
            super().fit(
                model,
                train_dataloaders,
                val_dataloaders,
                datamodule,
                ckpt_path,
                weights_only=weights_only,
            )

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = "best",
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[Mapping[str, float]]:
        """Measure on the test split.

        Args:
            model: to be measured; None for the one that was trained.
            dataloaders: of the test split, or None.
            ckpt_path: `best` takes the best epoch's weights if this trainer has trained this model
                and kept them, else the model as it is.
            verbose: print the numbers.
            datamodule: of the test split, or None.
            weights_only: see Lightning's.
        """
        if ckpt_path == "best":
            trained = model is None or model is self.lightning_module
            kept = self.checkpoint_callback
            has_best = isinstance(kept, ModelCheckpoint) and kept.best_model_path
            ckpt_path = "best" if trained and has_best else None
        self._apply_seed()
        with _without_known_warnings():
            return super().test(
                model, dataloaders, ckpt_path, verbose, datamodule, weights_only=weights_only
            )

    def validate(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's."""
        with _without_known_warnings():
            return super().validate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As Lightning's."""
        with _without_known_warnings():
            return super().predict(*args, **kwargs)

    def _apply_seed(self) -> None:
        if self._seed is not None:
            seed_everything(self._seed)

    def search(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
    ) -> None:
        """Search for what `tuner_config` says, and set it on model and data module.

        Raises:
            ValueError: it cannot be searched for: there are several processes, or what is to be
                set is not there.
        """
        if self._tuner_config is None:
            return
        if self.world_size > 1:
            raise ValueError(
                f"tuner_config: a search needs a single process, not {self.world_size}; search "
                "with devices=1 first, then give lr and batch_size"
            )
        settings = {
            **self._search_settings,
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "limit_val_batches": 0,
        }
        given = {} if train_dataloaders is None else {"train_dataloaders": train_dataloaders}
        on_gpu = self.strategy.root_device.type == "cuda"
        with _without_known_warnings():
            self.tuned = search(self._tuner_config, model, datamodule, given, settings, on_gpu)


# Lightning's settings that change what a step does, and so what a search finds.
_ALSO_SEARCHED = ("gradient_clip_algorithm", "benchmark", "limit_train_batches")


def _keeper(monitor: str, mode: str | None) -> ModelCheckpoint:
    if monitor == "auto":
        return BestCheckpoint()
    if mode not in ("max", "min", None):
        raise ValueError(f"checkpoint_mode = {mode!r}: allowed: max, min, None")
    mode = mode or ("min" if monitor.endswith("loss") else "max")
    return ModelCheckpoint(filename="best-{epoch}", monitor=monitor, mode=mode)


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Without what Lightning warns of, and is meant to be so, and its notes on devices."""
    known: dict[str, type[Warning]] = {
        "does not have many workers": UserWarning,  # the number is a parameter
        "exists and is not empty": UserWarning,  # checkpoints of earlier trainings
        "in eval mode at the start of training": UserWarning,  # a frozen backbone
        "Total length of .list. across ranks is zero": UserWarning,  # no validation split
        "smaller than the logging interval": UserWarning,  # a small data set
        "LeafSpec": FutureWarning,  # lightning 2.6 under torch 2.14
    }
    with warnings.catch_warnings():
        for text, category in known.items():
            warnings.filterwarnings("ignore", message=f".*{text}.*", category=category)
        loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
