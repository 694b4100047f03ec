"""One training run: set up, fit, keep the best. Resumes where an interrupted one stopped."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, TQDMProgressBar
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from components.data.loaders import PreparedDataModule
from components.errors import TrainingError
from components.models.processes import gathered
from components.models.shared_batch_norm import SharedBatchNorms
from components.models.vision_module import VisionModule
from components.training.callbacks import BestWeights, Curves, Ema, EpochSeed, SameBuffers
from components.training.checkpoints import Checkpoints, Weights
from components.training.finite_loss import FiniteLoss
from components.training.memory import explained_memory_errors
from components.training.resume import CheckpointFiles, SaveProgress, StopRequest
from components.training.settings import TrainSettings
from components.training.time_split import StepClock, TimeSplit
from components.training.trivial import BeatsTrivial, trivial_scores
from components.training.weight_average import Average, average_of_best


@dataclass(frozen=True)
class FitResult:
    """What a training gave.

    Attributes:
        average: the weights that it ends with: the best epoch's, or an average of the best ones',
            each of them averaged over the steps where EMA is on.
        rows: figures by epoch.
        monitor: name of the value that decides.
        seconds: of the run that came to the last epoch's end, and of the averaging; an interrupted
            one's are not in it.
        time: where these seconds went.
        trivial: validation metrics of a model that has learnt nothing, by logged name.
        beats_trivial: whether some epoch was better than that in any of them.
    """

    average: Average
    rows: list[dict[str, float]]
    monitor: str
    seconds: float
    time: TimeSplit
    trivial: dict[str, float]
    beats_trivial: bool

    @property
    def state(self) -> dict[str, Tensor]:
        """The weights."""
        return self.average.weights

    @property
    def best(self) -> float:
        """The monitored value of the weights."""
        return self.average.value

    @property
    def best_epoch(self) -> int:
        """From 1; the best one alone."""
        return self.average.epochs[0]


def fit(
    module: VisionModule,
    data: PreparedDataModule,
    settings: TrainSettings,
    seed: int,
    resume_dir: Path,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Train a module.

    With several processes (`settings.num_processes`) each calls this with the same arguments, and
    gets the same result; the first alone writes and prints. Without torchrun or SLURM Lightning
    starts the others: it runs the program's command line again.

    Args:
        module: to be trained, in place.
        data: its batches.
        settings: how.
        seed: of what the network draws (dropout); `data` has its own.
        resume_dir: holds the checkpoints of an unfinished training of the same parameters, data and
            code, or is made. It stays: whoever has saved the result removes it. A finished training
            is not repeated.
        on_epoch: called with each epoch's figures.

    Raises:
        TrainingError: the loss is not finite, memory is full, no epoch gave a value to compare, or
            the processes asked for are not there.
        WriteError: no checkpoint can be written. The last one stays.
        SystemExit: INT or TERM came: 130 or 143, with a checkpoint of the last step.
    """
    monitor = f"val/{module.main_metric}"
    best = BestWeights(monitor, max(1, settings.average_best))
    curves = Curves({"val_loss": "val/loss", module.main_metric: monitor}, on_epoch)
    trivial = BeatsTrivial(trivial_scores(data.store, settings.epochs))
    clock = StepClock()
    finite = FiniteLoss(resume_dir / "not-finite.pt")
    callbacks: list[Callback] = [EpochSeed(seed), finite, best, trivial]
    ema = Ema(settings.ema_decay, settings.ema_ramp) if settings.ema_decay else None
    if ema is not None:
        callbacks.append(ema)
    if settings.num_processes > 1:
        callbacks.append(SameBuffers())
    callbacks.append(curves)
    if settings.patience:
        callbacks.append(EarlyStopping(monitor, mode="max", patience=settings.patience))
    callbacks.append(clock)
    interactive = sys.stderr.isatty()
    if interactive:
        callbacks.append(TQDMProgressBar(leave=False))
    # Lightning tells of its devices, of the number of workers and of upgrades; none is news here.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    checkpoints, stop = Checkpoints(resume_dir), StopRequest()
    files = CheckpointFiles(checkpoints, best)
    progress = SaveProgress(resume_dir, settings.checkpoint_minutes, stop, ema)
    trainer = _trainer(module, settings, [*callbacks, progress], files)
    checkpoints.owner = stop.first = trainer.is_global_zero
    started = time.perf_counter()
    explained = explained_memory_errors(settings, data.store.info.image_size)
    with warnings.catch_warnings(), stop.listening(), explained, _explained_absence(settings):
        _ignore_known_warnings()
        resumed, best.loaded = _latest_of_all(trainer, checkpoints) or (None, [])
        trained = None if resumed is None else resumed.get("trained")
        if trained is None:
            progress.resumed = files.loaded = resumed
            if resumed is not None:
                data.first_epoch = resumed["position"]["epoch"]
                data.first_batch = resumed["position"]["batch"]
            trainer.fit(
                module,
                datamodule=data,
                # Of which `CheckpointFiles` needs to know only that there is one.
                ckpt_path=resume_dir if resumed is not None else None,
                weights_only=True,
            )
            if not best.kept:
                raise TrainingError(
                    f"no epoch gave a {monitor} to compare: has the validation split anything to "
                    "find?"
                )
            # Small, as nothing will be trained on: no optimizer, no moving average.
            small = [callback for callback in callbacks if callback is not ema]
            states = {c.state_key: state for c in small if (state := c.state_dict())}
            trained = {"callbacks": states, "seconds": time.perf_counter() - started}
            if trainer.is_global_zero and len(best.kept) > 1:
                # Averaging takes a while, and is done again from here if it is interrupted.
                checkpoints.write({"trained": trained}, best.weights)
            started = time.perf_counter()
        else:
            for callback in callbacks:
                if callback.state_key in trained["callbacks"]:
                    callback.load_state_dict(trained["callbacks"][callback.state_key])
            module.freeze_as_in(len(curves.rows) - 1)
        if "average" in trained:
            average = Average.loaded(best.loaded[0], trained["average"])
        else:
            average = average_of_best(trainer, module, data, best.kept, monitor, stop)
            trained["seconds"] += time.perf_counter() - started
            trained["average"] = average.figures
            trained["callbacks"].pop(best.state_key)  # of weights that are not needed any more
            if trainer.is_global_zero:
                checkpoints.write({"trained": trained}, [average.weights])
        if stop.number is not None:
            stop.end("saved after the last epoch")
    scores, beaten = trivial.scores, trivial.beaten
    seconds = trained["seconds"]
    return FitResult(average, curves.rows, monitor, seconds, clock.split(), scores, beaten)


def _latest_of_all(
    trainer: Trainer, checkpoints: Checkpoints
) -> tuple[dict[str, Any], list[Weights]] | None:
    """The last checkpoint; processes that were started together wait for each other to read it.

    Else the first one, of a training that has ended, could save the result and remove the
    checkpoints before another has looked, which would then train. Those that Lightning starts need
    not wait: it starts them when there is something to do, and nothing is written before they have
    met.

    Raises:
        TrainingError: the processes have not found the same.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.world_size == 1 or isinstance(environment, LightningEnvironment):
        return checkpoints.latest()
    trainer.strategy.setup_environment()  # which Lightning does again, to no effect
    found = checkpoints.latest() if checkpoints.owner else None
    gathered(None)  # by now a damaged one is set aside
    if not checkpoints.owner:
        found = checkpoints.latest()
    names = gathered(checkpoints.taken)
    if len(set(names)) > 1:
        raise TrainingError(
            f"{checkpoints.folder} is not the same in all processes ("
            f"{', '.join(name or 'nothing' for name in names)}): it must be on a disk that all "
            "machines of a training share, as the data must"
        )
    return found


def _trainer(
    module: VisionModule, settings: TrainSettings, callbacks: list[Callback], files: CheckpointFiles
) -> Trainer:
    """The trainer, and in it the processes that the settings ask for."""
    several = settings.num_processes > 1
    unused = settings.freeze_epochs > 0 or not module.always_uses_all_weights
    share = several and settings.share_batch_norm
    try:
        trainer = Trainer(
            max_epochs=settings.epochs,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=DDPStrategy(find_unused_parameters=unused) if several else "auto",
            precision=settings.precision,
            gradient_clip_val=settings.gradient_clip or None,
            deterministic="warn" if settings.deterministic else False,
            benchmark=None if settings.deterministic else True,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=any(isinstance(c, TQDMProgressBar) for c in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[files, SharedBatchNorms()] if share else [files],
        )
    except (MisconfigurationException, ValueError) as error:
        raise TrainingError(
            f"train.devices = {settings.devices}, train.num_nodes = {settings.num_nodes}: {error}"
        ) from None
    if trainer.world_size != settings.num_processes:
        raise TrainingError(
            f"{trainer.world_size} processes were started, but train.devices = {settings.devices} "
            f"times train.num_nodes = {settings.num_nodes} is {settings.num_processes}"
        )
    if isinstance(trainer.strategy, DDPStrategy) and settings.num_nodes > 1:
        environment = trainer.strategy.cluster_environment
        if environment is None or not environment.creates_processes_externally:
            raise TrainingError(
                f"train.num_nodes = {settings.num_nodes}: start `python -m tasks.train` on each of "
                "these machines with torchrun or srun; see docs/scaling.md"
            )
    return trainer


@contextmanager
def _explained_absence(settings: TrainSettings) -> Iterator[None]:
    """Say it when another process is gone: what torch says is about sockets."""
    try:
        yield
    except RuntimeError as error:
        lost = any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
        if settings.num_processes == 1 or not lost:
            raise
        raise TrainingError(
            "another process of this training has ended; its own message says why. The same "
            f"command goes on from the last checkpoint ({str(error).splitlines()[0]})"
        ) from error


def _ignore_known_warnings() -> None:
    known: dict[str, Any] = {
        "does not have many workers": UserWarning,  # the number is a parameter
        "exists and is not empty": UserWarning,  # the resume folder is meant to be there
        "Average precision score for one or more classes was": UserWarning,  # none in val
        "in eval mode at the start of training": UserWarning,  # a frozen backbone
        "your dataloader is not resumable": UserWarning,  # its sampler is
        "accumulate the metric across devices": UserWarning,  # it is of all processes already
        "Grad strides do not match": UserWarning,  # depthwise weights, channels last
        "lr_scheduler.step..`? before `optimizer.step": UserWarning,  # float16 skips steps at first
        "LeafSpec": FutureWarning,  # lightning 2.6 under torch 2.14
    }
    for text, category in known.items():
        warnings.filterwarnings("ignore", message=f".*{text}.*", category=category)
