"""Train a classifier or a detector on the prepared data and keep its best weights.

Reads `data/prepared/`; writes `models/trained/` (weights, and what rebuilds the network) and
`plots/train.csv`. A training that was interrupted goes on where it stopped. Parameters: sections
`base` and `train`.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import DataError, ModelError, TimmflowError, TrainingError
from components.files import remove_drafts, sha256, write_text
from tasks.layout import Layout
from tasks.params import Params, command_parser, load
from tasks.stage import Figures, main

if TYPE_CHECKING:
    import torch

    from components.data.loaders import PreparedDataModule
    from components.data.store import PreparedStore, StoreInfo
    from components.models.saved_model import InferenceModel, ModelDescription
    from components.models.vision_module import VisionModule
    from components.training.fit import FitResult
    from components.training.settings import TrainSettings

# How fast it goes, how much an interruption costs, and what is allowed afterwards: not what comes
# out.
NOT_IN_KEY = {"num_workers", "checkpoint_minutes", "allow_trivial"}
_COMPILED: dict[str, dict[str, Any]] = {
    "auto": {},  # each module's own default
    "on": {"compile_model": "always"},
    "off": {"compile_model": False},
}
STALE_SECONDS = 7 * 24 * 3600


def train(params: Params, layout: Layout) -> Figures:
    """Fit and save.

    Returns:
        `num_epochs`, `best_epoch`, `monitor`, `best` (of the weights), `best_alone` (of the best
        epoch), `num_averaged` (epochs in the weights), `train_loss`, `val_loss` (of the best
        epoch), `seconds`, `images_per_second`, `data_share` (of the time, waiting for batches),
        `num_parameters`.

    Raises:
        ModelError: the backbone is not known, its weights cannot be had, or it does not work at
            this image size.
        TrainingError: a loss or gradient is not finite, memory is full, or nothing was learnt.
    """
    from components.models.backbones import count_parameters
    from components.models.saved_model import InferenceModel, save_model

    settings = params.train
    remove_drafts(layout.weights.parent)
    remove_drafts(layout.plots)
    store, description, module, result = fitted_module(params, layout)
    print(result.time, flush=True)
    if text := result.average.text(result.monitor):
        print(text, flush=True)
    if not (result.beats_trivial or settings.allow_trivial):
        raise TrainingError(_trivial_text(result))
    if description.task == "classification":
        module.network.load_state_dict(result.state)
        model = InferenceModel(module, description)
        description = description.model_copy(
            update=fitted_on_val(model, store, settings.batch_size)
        )
    save_model(layout.weights, description, result.state)
    columns = sorted({name for row in result.rows for name in row} - {"epoch"})
    lines = [",".join(["epoch", *columns])]
    lines += [
        ",".join([str(row["epoch"]), *(f"{row.get(name, float('nan')):.6g}" for name in columns)])
        for row in result.rows
    ]
    write_text(layout.plots / "train.csv", "\n".join(lines) + "\n")
    best = result.rows[result.best_epoch - 1]
    return {
        "num_epochs": len(result.rows),
        "best_epoch": result.best_epoch,
        "monitor": result.monitor,
        "best": result.best,
        "best_alone": result.average.tried[0][1],
        "num_averaged": len(result.average.epochs),
        "train_loss": best["train_loss"],
        # A model may rank well and still be infinitely sure of one mistake.
        **({"val_loss": best["val_loss"]} if math.isfinite(best["val_loss"]) else {}),
        "seconds": result.seconds,
        "images_per_second": result.time.images_per_second,
        "data_share": result.time.shares["data"],
        "num_parameters": count_parameters(module, trainable_only=False),
    }


def fitted_module(
    params: Params, layout: Layout
) -> tuple[PreparedStore, ModelDescription, VisionModule, FitResult]:
    """The part of `train` that several processes do together; it writes the resume folder alone."""
    from components.runtime import configure_torch

    settings = params.train
    num_started = int(os.environ.get("WORLD_SIZE", "1"))
    if num_started > 1 and num_started != settings.num_processes:
        raise TrainingError(
            f"{num_started} processes were started, but train.devices = {settings.devices} times "
            f"train.num_nodes = {settings.num_nodes} is {settings.num_processes}"
        )
    configure_torch(settings.num_threads, params.base.seed, settings.devices)

    from components.data.store import PreparedStore
    from components.models.saved_model import assert_runs
    from components.training.fit import fit

    store = PreparedStore.open(layout.prepared)
    settings = with_workers(settings, store)
    description, module = build(store, settings)
    data = batches(store, description, settings, params.base.seed)
    assert_runs(module, description)
    resume_dir = layout.resume / resume_key(params, layout)
    if is_first_process():
        remove_stale(layout.resume, keep=resume_dir)
    result = fit(module, data, settings, params.base.seed, resume_dir)
    return store, description, module, result


def is_first_process() -> bool:
    """Whether nobody else does what is to be done once: records, figures, the model.

    Lightning, torchrun and SLURM number the processes that they start in these variables.
    """
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def help_first(argv: list[str] | None = None) -> int:
    """What a process after the first does: train along, and leave the rest to the first.

    Returns:
        The exit status.
    """
    args = command_parser("train", __doc__).parse_args(argv)
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - to the end; the first says the same
    try:
        fitted_module(load(args.params), Layout())
    except TimmflowError as error:
        print(f"error: train, process {os.environ.get('RANK', '')}: {error}", file=sys.stderr)
        return 1
    return 0


def build(store: PreparedStore, settings: TrainSettings) -> tuple[ModelDescription, VisionModule]:
    """What these settings stand for on this data: the network's description, and its module."""
    from components.models.saved_model import build_model

    description = describe(store.info, settings)
    options = {**module_options(settings), **task_options(store, settings)}
    return description, build_model(description, settings.pretrained, **options)


def with_workers(settings: TrainSettings, store: PreparedStore) -> TrainSettings:
    """With a number in the place of `num_workers: auto`; says which, and why."""
    if settings.num_workers != "auto":
        return settings
    import torch

    from components.training.loader_workers import chosen_workers, usable_cores

    number, reason = chosen_workers(
        len(store.rows("train")),
        settings.batch_size,
        usable_cores(settings.devices),
        torch.accelerator.is_available(),
    )
    print(f"train.num_workers: auto is {number}: {reason}", flush=True)
    return settings.model_copy(update={"num_workers": number})


def batches(
    store: PreparedStore, description: ModelDescription, settings: TrainSettings, seed: int
) -> PreparedDataModule:
    """The training's batches; `settings` has a number of workers."""
    from components.data.loaders import PreparedDataModule
    from components.training.fitted_augment import fitted

    assert settings.num_workers != "auto"
    augment, reasons = fitted(settings.augment, store)
    for reason in reasons:
        print(reason, flush=True)
    return PreparedDataModule(
        store,
        settings.batch_size,
        description.mean,
        description.std,
        augment,
        seed,
        settings.num_workers,
        settings.epochs,
        store.info.task == "classification" and settings.classifier.balanced_sampling,
        description.channels,
        settings.detector.repeat_threshold,
    )


def _trivial_text(result: FitResult) -> str:
    scores = " or ".join(f"{name} {score:.3f}" for name, score in result.trivial.items())
    return (
        f"nothing was learnt: the best {result.monitor} is {result.best:.3f}, and no epoch is "
        f"above {scores}, which a model that knows nothing of the images may have (of 20 "
        "trainings that guess 19 stay below; no detection is 0). Look at the batches "
        "(python -m tasks.preview), raise train.epochs or change train.lr, or give more validation "
        "images; or keep the model with train.allow_trivial: true, which repeats no epoch"
    )


def module_options(settings: TrainSettings) -> dict[str, Any]:
    """How every model is trained; see `components.models.module_options`."""
    from components.training.recipes import step_lr

    schedule: dict[str, Any] = dict(settings.scheduler_options)
    if settings.scheduler not in ("onecycle", "plateau"):
        schedule["warmup_epochs"] = settings.warmup_epochs
    if settings.scheduler == "yolox":
        schedule.setdefault("no_aug_epochs", settings.augment.plain_epochs)
    return {
        "lr": step_lr(settings.lr, settings.lr_batch, settings.optimizer, settings.batch_size),
        "weight_decay": settings.weight_decay,
        "optimizer": settings.optimizer,
        "scheduler": settings.scheduler,
        "scheduler_kwargs": schedule,
        "backbone_lr_scale": settings.backbone_lr_scale,
        "freeze_epochs": settings.freeze_epochs,
        "layer_decay": settings.layer_decay,
        **_COMPILED[settings.compile],
    }


def task_options(store: PreparedStore, settings: TrainSettings) -> dict[str, Any]:
    """How a model of this task is trained: what matters to the loss, not to the network."""
    info = store.info
    if info.task == "detection":
        if not settings.backbone.startswith("yolox-"):
            return {}
        # The rate is the one given, whatever the batch; the L1 term joins in the plain epochs.
        return {
            "lr_reference_batch": None,
            "total_epochs": settings.epochs,
            "warmup_epochs": 0,
            "no_aug_epochs": settings.augment.plain_epochs,
        }
    classifier = settings.classifier
    options: dict[str, Any] = {
        "mixup_alpha": classifier.mixup_alpha,
        "cutmix_alpha": classifier.cutmix_alpha,
    }
    if classifier.loss_fn != "cross_entropy":
        options["loss_fn"] = classifier.loss_fn
    counts = None
    if classifier.class_weights == "balanced":
        counts = [info.statistics["objects_per_class"]["train"][name] for name in info.classes]
    if info.multi_label:
        if counts is not None:
            options["loss_fn"] = _balanced_bce(counts, len(store.rows("train")))
        return options
    # Each class weighs the same in all, and the mean weight of an image is 1.
    weights = counts and [sum(counts) / (len(counts) * max(1, count)) for count in counts]
    return {**options, "label_smoothing": classifier.label_smoothing, "class_weights": weights}


def _balanced_bce(counts: list[int], num_images: int) -> torch.nn.Module:
    """Binary cross-entropy in which of each class the images that have it weigh, together, as much
    as those that have it not.
    """
    import torch

    ratios = [(num_images - count) / count if count else 1.0 for count in counts]
    # A class that all images have would weigh nothing.
    positive = torch.tensor([ratio or 1.0 for ratio in ratios])
    return torch.nn.BCEWithLogitsLoss(pos_weight=positive)


def fitted_on_val(
    model: InferenceModel, store: PreparedStore, batch_size: int
) -> dict[str, float | tuple[float, ...]]:
    """What a classifier's description says beside the network: chosen on the validation images, as
    the best epoch is, so that the test images stay untouched.

    Returns:
        `temperature`, and of a multi-label model `thresholds`: from which probability, at that
        temperature, each class is there.
    """
    import numpy as np

    from components.data.store import in_batches
    from components.models.label_thresholds import best_f1_thresholds
    from components.models.saved_model import store_outputs
    from components.models.temperature import fit_temperature, rescaled

    rows = store.rows("val")
    batches = in_batches(rows, batch_size)
    outputs = store_outputs(model.eval(), store, batches)
    probabilities = np.concatenate([out for _, (out,) in outputs])
    if not store.info.multi_label:
        labels = np.array([store.label(row) for row in rows])
        return {"temperature": fit_temperature(probabilities, labels)}
    targets = np.array([store.label_vector(row) for row in rows])
    temperature = fit_temperature(probabilities, targets)
    probabilities = rescaled(probabilities, temperature, multi_label=True)
    return {
        "temperature": temperature,
        "thresholds": best_f1_thresholds(probabilities, targets),
    }


def describe(info: StoreInfo, settings: TrainSettings) -> ModelDescription:
    """The network that these settings stand for on this data."""
    from components.models.saved_model import ModelDescription, input_format, whole_detector

    if info.task == "classification" and len(info.classes) < 2:
        raise DataError(f"the data has one class, {info.classes[0]!r}; a classifier needs two")
    try:
        colors = input_format(settings.backbone)
    except ValueError as error:
        raise ModelError(f"train.backbone: {error}") from None
    detector = settings.detector
    whole = whole_detector(settings.backbone) is not None
    if whole and info.task == "classification":
        raise ModelError(f"train.backbone = {settings.backbone} is a detector, not a classifier")
    options: dict[str, Any] = {}
    if info.task == "detection" and not whole:
        options = {
            "fpn_channels": detector.fpn_channels,
            "head_num_convs": detector.head_num_convs,
            "center_sampling_radius": detector.center_sampling_radius,
        }
    elif settings.backbone.startswith("rtdetr_"):
        height, width = info.image_size
        places = sum(height * width // stride**2 for stride in (8, 16, 32))
        options = {
            # Frozen batch norms are another network, to be rebuilt for evaluation.
            "freeze_batch_norm": bool(settings.pretrained),
            "num_queries": min(300, places),  # 300 as published, on 640 pixels
        }
    elif info.task == "classification":
        options = {"head_dropout": settings.classifier.head_dropout}
    return ModelDescription(
        task=info.task,
        backbone=settings.backbone,
        classes=info.classes,
        image_size=info.image_size,
        multi_label=info.multi_label,
        resize=info.resize,
        crop_fraction=info.crop_fraction,
        **colors,
        fingerprint=info.fingerprint,
        arch=detector.arch if info.task == "detection" and not whole else "",
        options=options,
    )


def resume_key(params: Params, layout: Layout) -> str:
    """Names the resume folder: a hash of parameters, data and code.

    A checkpoint of other parameters, data or code must never be taken up: it would be "resumed"
    with nothing left to do. Of the data the tables are read, not the pixels: they hold the SHA-256
    of each image file and how it came to where it lies.
    """
    digest = hashlib.sha256()
    digest.update(params.base.model_dump_json().encode())
    digest.update(params.train.model_dump_json(exclude=NOT_IN_KEY).encode())
    for name in ("dataset.json", "index.parquet", "objects.parquet"):
        digest.update(sha256(layout.prepared / name).encode())
    if isinstance(params.train.pretrained, str) and Path(params.train.pretrained).is_file():
        digest.update(sha256(Path(params.train.pretrained)).encode())
    for package in ("torch", "timm", "lightning"):
        digest.update(version(package).encode())
    code = Path(__file__).parents[1]
    for file in sorted([*code.glob("components/**/*.py"), *code.glob("tasks/train.py")]):
        digest.update(json.dumps([file.relative_to(code).as_posix(), sha256(file)]).encode())
    return digest.hexdigest()[:16]


def remove_stale(resume: Path, keep: Path) -> None:
    """Remove resume folders that nobody is likely to come back to.

    Of the others than `keep`, the two that were last written to stay, for a week: one may go back
    to the parameters before.
    """
    others = [folder for folder in resume.glob("*") if folder.is_dir() and folder != keep]
    others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    for number, folder in enumerate(others):
        if number >= 2 or time.time() - folder.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def finish(params: Params, layout: Layout) -> None:
    """Remove the checkpoints, once weights, curves and figures are on the disk."""
    shutil.rmtree(layout.resume / resume_key(params, layout), ignore_errors=True)
    if layout.resume.is_dir() and not any(layout.resume.iterdir()):
        layout.resume.rmdir()


if __name__ == "__main__":
    sys.exit(main("train", __doc__, train, None, finish) if is_first_process() else help_first())
