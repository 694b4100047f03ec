"""Trains in several processes: a script, as pytest's own is to stay free of a process group.

    python several_processes.py PLAN FOLDER [COUNT]

PLAN is a JSON list of trainings [name, arguments of `run`]; each process does them in turn. With
`apart` only the first finds the checkpoints, with `late` the others look for them after it. Rows,
best value and weights go to FOLDER/<name>.pt, as the last process has them; of a training that was
stopped nothing does.
"""

import json
import os
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import torch

from components.data.loaders import PreparedDataModule
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore
from components.errors import TrainingError
from components.models.backbones import BackboneConfig, FeatureBackboneConfig
from components.models.classifier import ImageClassifier
from components.models.detector import ObjectDetector
from components.training.callbacks import EpochSeed
from components.training.fit import fit
from components.training.settings import TrainSettings
from flows.ephemeral_server import free_port

NAME = "mobilenetv3_small_050"


def build(kind, lr):
    torch.manual_seed(0)
    options = {"lr": lr, "scheduler": "none", "optimizer": "sgd"}
    if kind in ("classifier", "frozen"):
        options["freeze_epochs"] = 1 if kind == "frozen" else 0
        backbone = BackboneConfig(NAME, pretrained=False)
        return ImageClassifier(backbone, 2, class_weights=[1.0, 3.0], **options)
    sizes = {"fpn_channels": 32, "head_num_convs": 1}
    return ObjectDetector(
        FeatureBackboneConfig(NAME, pretrained=False), 2, kind, **sizes, **options
    )


def run(store, resume_dir, kind, devices=1, stop=None, lr=1e-2, spoilt=False, **settings):
    """`stop` is (epoch, step) at whose end the last process gets TERM; `spoilt` its images."""
    defaults = {"epochs": 2, "batch_size": 8, "warmup_epochs": 0, "ema_decay": 0.9}
    settings = TrainSettings(
        **{**defaults, **settings},
        devices=devices,
        freeze_epochs=1 if kind == "frozen" else 0,
        checkpoint_minutes=100,
    )
    store = PreparedStore.open(Path(store))
    changes = {"scale": (0.6, 1.0), "color": 0.2}
    if store.info.task == "detection":
        changes |= {"mosaic": 0.5, "mixup": 0.5, "multi_scale": 1, "multi_scale_every": 1}
    size, augment = settings.batch_size, AugmentSettings(**changes)
    data = PreparedDataModule(store, size, (0.5,) * 3, (0.5,) * 3, augment, 7, num_epochs=2)
    whole = data.on_after_batch_transfer

    def spoil(batch, dataloader_idx):
        batch = whole(batch, dataloader_idx)
        batch["images"][0, 0, 0, 0] = float("nan")
        return batch

    if spoilt and os.environ["RANK"] == str(devices - 1):
        data.on_after_batch_transfer = spoil
    own = EpochSeed.on_train_batch_end

    def look(self, trainer, module, outputs, batch, batch_idx):
        last = trainer.global_rank == trainer.world_size - 1
        if last and stop is not None and [trainer.current_epoch, batch_idx] == list(stop):
            signal.raise_signal(signal.SIGTERM)

    EpochSeed.on_train_batch_end = look
    try:
        return fit(build(kind, lr), data, settings, 7, Path(resume_dir))
    finally:
        EpochSeed.on_train_batch_end = own


def say(line):
    """In one write: under PYTHONUNBUFFERED `print` takes several, between which others write."""
    os.write(1, f"{line}\n".encode())


def rank(number, count, port, plan, folder):
    torch.set_num_threads(1)
    names = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {
        name: str(value) for name, value in {**names, "GROUP_RANK": 0, **address}.items()
    }
    for name, arguments in plan:
        checkpoints = Path(arguments["resume_dir"])
        if arguments.pop("apart", False) and number:
            arguments["resume_dir"] += "-elsewhere"
        late = arguments.pop("late", False)
        patience = time.monotonic() + 2
        while number and late and checkpoints.exists() and time.monotonic() < patience:
            time.sleep(0.05)
        try:
            result = run(devices=count, **arguments)
            if late and number == 0:  # as when its model has been saved
                shutil.rmtree(checkpoints)
        except SystemExit as end:
            say(f"{name} {number} ended with {end.code}")
            continue
        except TrainingError as error:
            say(f"{name} {number} {error}")
            continue
        if number == count - 1:
            kept = {"rows": result.rows, "best": result.best, "state": result.state}
            kept["epochs"] = result.average.epochs
            torch.save(kept, Path(folder, f"{name}.pt"))


def environment():
    """Of the script: nothing of the caller's that torch or Lightning would take for a cluster."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    taken = ("RANK", "WORLD", "MASTER", "SLURM", "TORCHELASTIC", "PYTEST")
    return {k: v for k, v in os.environ.items() if not k.startswith(taken)} | ours


def main(plan, folder, count=2):
    port = free_port()
    # Forked: what takes longest is to import.
    fork = get_context("fork")
    ranks = [
        fork.Process(target=rank, args=(n, count, port, json.loads(plan), folder))
        for n in range(count)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
