"""Batches for Lightning, from a packed store.

Every random choice of a training image is drawn from a seed made of (run seed, epoch, image), never
from a stream that goes on: which worker loads an image, in what order, and after how many
interruptions, changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from components.data.augment import (
    as_tensors,
    classification_augment,
    detection_augment,
    mosaic_augment,
)
from components.data.geometry import fit
from components.data.mosaic import Mosaic
from components.data.multi_scale import InputSizes, resize_batch
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore

Batch = dict[str, Any]
Channels = Literal["rgb", "bgr"]
Key = tuple[int, int, int]  # epoch, row of the store, place in the epoch


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, the same on every machine."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class EpochSampler(Sampler[Key]):
    """Yields (epoch, row, place), so that a worker knows where it is without being told.

    Args:
        rows: positions in the store.
        seed: of the shuffling; None keeps the order.
        class_ids: one for each of `rows`: draws, with replacement, as many rows as there are, each
            class as likely as any other. Needs a seed.
    """

    def __init__(self, rows: np.ndarray, seed: int | None, class_ids: np.ndarray | None = None):
        if class_ids is not None and seed is None:
            raise ValueError("class_ids need a seed: a balanced epoch is drawn at random")
        self.rows = rows
        self.seed = seed
        self.epoch = 0
        self._weights: np.ndarray | None = None
        if class_ids is not None and len(rows):
            _, which, counts = np.unique(class_ids, return_inverse=True, return_counts=True)
            self._weights = 1 / (len(counts) * counts[which])

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Key]:
        order = self.rows
        if self.seed is not None:
            rng = np.random.default_rng([self.seed, self.epoch])
            if self._weights is None:
                order = rng.permutation(self.rows)
            else:
                order = rng.choice(self.rows, len(self.rows), p=self._weights)
        for place, row in enumerate(order):
            yield self.epoch, int(row), place


class PreparedDataset(Dataset[dict[str, Any]]):
    """One item of a store: uint8 RGB image [3, H, W] with its target.

    Classification: `label`, a class id, or for several labels 0 and 1 for each class, float32 [C].
    Detection: `boxes` xyxy [G, 4] in input pixels, `labels` [G]. Always
    `row`, the position in the store, and `key`, what was asked for.

    Args:
        store: the images.
        augment: random changes; None for none.
        seed: of the changes.
        partners: rows that mosaics draw further images from; None: the training split.
        num_epochs: of the training, that `plain_epochs` end; None: no epoch is plain.
    """

    def __init__(
        self,
        store: PreparedStore,
        augment: AugmentSettings | None,
        seed: int,
        partners: np.ndarray | None = None,
        num_epochs: int | None = None,
    ):
        self.store = store
        self.seed = seed
        info = store.info
        make = detection_augment if info.task == "detection" else classification_augment
        self.augment = make(augment, info.image_size) if augment else None
        self.mosaic: Mosaic | None = None
        self.first_plain_epoch: float = float("inf")
        if augment is None:
            return
        if info.task == "detection" and augment.mosaic:
            partners = store.rows("train") if partners is None else partners
            self.mosaic = Mosaic(store, augment, partners)
            self.mosaic_augment = mosaic_augment(augment)
        if num_epochs is not None:
            self.first_plain_epoch = num_epochs - augment.plain_epochs

    def __getitem__(self, key: tuple[int, ...]) -> dict[str, Any]:
        """`key` is a `Key`; its place may be left out."""
        epoch, row = key[:2]
        if self.mosaic is not None and epoch < self.first_plain_epoch:
            seed = derived_seed(self.seed, epoch, row)
            scene = self.mosaic.draw(row, np.random.default_rng(seed))
            if scene is not None:
                image = torch.from_numpy(np.array(scene.pixels)).permute(2, 0, 1)
                boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
                changed = _seeded(self.mosaic_augment, as_tensors(image, boxes, labels), seed)
                return {**changed, "row": torch.tensor(row), "key": key}
        return {**self._single(epoch, row), "row": torch.tensor(row), "key": key}

    def _single(self, epoch: int, row: int) -> dict[str, Any]:
        info = self.store.info
        pixels = self.store.image(row)
        # What a random crop is taken from is padded too, or training would never see the padding.
        if self.augment is None or (info.task != "detection" and info.resize == "letterbox"):
            pixels = fit(pixels, info.image_size, info.resize)
        # A copy: the store's pixels are read-only, and torch would warn of that.
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        item: dict[str, Any] = {"image": image}
        if info.task == "detection":
            boxes, labels = self.store.boxes(row)
            item = as_tensors(image, torch.from_numpy(boxes), torch.from_numpy(labels))
        if self.augment is not None:
            item = _seeded(self.augment, item, derived_seed(self.seed, epoch, row))
        if info.task != "detection":
            store = self.store
            label = store.label_vector(row) if info.multi_label else store.label(row)
            item["label"] = torch.as_tensor(label)
        return item


def _seeded(augment: v2.Transform, item: dict[str, Any], seed: int) -> dict[str, Any]:
    """`augment(item)` with torch's draws from `seed`; the CPU's stream goes on as if untouched."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the accelerators' streams too.
        torch.default_generator.manual_seed(seed)
        return augment(item)


def collate(items: list[dict[str, Any]]) -> Batch:
    """A batch: `images` uint8 [B, 3, H, W] (channels last in memory), targets, `rows` [B]."""
    # Stacked as they lie in memory, which is as the batch is to lie.
    pixels = [item["image"].as_subclass(torch.Tensor).permute(1, 2, 0) for item in items]
    batch: Batch = {
        "images": torch.stack(pixels).permute(0, 3, 1, 2),
        "rows": torch.stack([item["row"] for item in items]),
    }
    if "label" in items[0]:
        batch["labels"] = torch.stack([item["label"] for item in items])
    else:
        batch["boxes"] = [item["boxes"].as_subclass(torch.Tensor) for item in items]
        batch["labels"] = [item["labels"] for item in items]
    return batch


@dataclass(frozen=True)
class SizedCollate:
    """`collate`, and in `size` the input size (height, width) that the batch is to be brought to.

    Attributes:
        sizes: by training step.
        batch_size: images a step.
        num_batches: steps an epoch.
    """

    sizes: InputSizes
    batch_size: int
    num_batches: int

    def __call__(self, items: list[dict[str, Any]]) -> Batch:
        """The batch of `items`, which lie side by side in their epoch."""
        epoch, _, place = items[0]["key"]
        step = epoch * self.num_batches + place // self.batch_size
        return {**collate(items), "size": self.sizes.at(step)}


def normalize(
    images: torch.Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    channels: Channels = "rgb",
) -> torch.Tensor:
    """RGB uint8 [B, 3, H, W] to float, as a network wants it.

    Args:
        images: RGB, 0 to 255.
        mean, std: in [0, 1]; values are divided by 255, minus the mean, by the standard deviation.
        channels: order in which the network takes the colours.
    """
    if channels == "bgr":
        images = images.flip(1)
    shape = (1, 3, 1, 1)
    center = torch.tensor(mean, device=images.device).mul(255).view(shape)
    spread = torch.tensor(std, device=images.device).mul(255).view(shape)
    # The subtraction makes the floats; in place, as a batch of them is large.
    return images.sub(center).div_(spread)


class PreparedDataModule(LightningDataModule):
    """Train, validation and test loaders over a packed store.

    Args:
        store: the images.
        batch_size: images a step, training and validation.
        mean, std, channels: of the backbone's normalisation; see `normalize`.
        augment: random changes of training images; None for none.
        seed: of order and augmentation.
        num_workers: processes that load; 0 loads in this one.
        num_epochs: of the training, that `augment.plain_epochs` end; None: no epoch is plain.
        balanced: classification: training draws each class equally often, with replacement.

    Attributes:
        first_epoch: that training begins with, where it resumes.

    Raises:
        DataError: an input size of `augment.multi_scale` is below 32 pixels.
        ValueError: `balanced` where an image has no one class.
    """

    def __init__(
        self,
        store: PreparedStore,
        batch_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: AugmentSettings | None = None,
        seed: int = 0,
        num_workers: int = 0,
        num_epochs: int | None = None,
        balanced: bool = False,
        channels: Channels = "rgb",
    ):
        super().__init__()
        kind = "multi-label" if store.info.multi_label else store.info.task
        if balanced and kind != "classification":
            raise ValueError(f"balanced = True: an image of a {kind} set has no one class")
        self.store = store
        self.batch_size = batch_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.channels: Channels = channels
        self.augment = augment
        self.seed = seed
        self.num_workers = num_workers
        self.num_epochs = num_epochs
        self.balanced = balanced
        self.first_epoch = 0
        self._sizes: InputSizes | None = None
        if augment is not None and any(augment.multi_scale) and store.info.task == "detection":
            size, every = store.info.image_size, augment.multi_scale_every
            self._sizes = InputSizes(size, augment.multi_scale, every, seed)

    def loader(self, split: str, train: bool = False) -> DataLoader[dict[str, Any]]:
        """Batches of one split: shuffled and augmented for training, else as they stand."""
        rows = self.store.rows(split)
        augment = self.augment if train else None
        class_ids = None
        if train and self.balanced:
            class_ids = np.array([self.store.label(row) for row in rows])
        # A last batch of one image has no batch-norm statistics of its own.
        drop_last = train and len(rows) % self.batch_size == 1 and len(rows) > 1
        num_batches = math.ceil(len(rows) / self.batch_size) - drop_last
        return DataLoader(
            PreparedDataset(self.store, augment, self.seed, rows, self.num_epochs),
            batch_size=self.batch_size,
            sampler=EpochSampler(rows, self.seed if train else None, class_ids),
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=SizedCollate(self._sizes, self.batch_size, num_batches)
            if train and self._sizes
            else collate,
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Shuffled, augmented."""
        loader = self.loader("train", train=True)
        # Workers fetch ahead as soon as the loader is iterated, which Lightning does before it
        # tells the sampler in which epoch a resumed training goes on.
        cast(EpochSampler, loader.sampler).set_epoch(self.first_epoch)
        return loader

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """As they stand."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """As they stand."""
        return self.loader("test")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise, and bring to size, on the device: a quarter of the bytes cross the bus."""
        images = normalize(batch["images"], self.mean, self.std, self.channels)
        batch = {**batch, "images": images}
        return resize_batch(batch, batch["size"]) if "size" in batch else batch
