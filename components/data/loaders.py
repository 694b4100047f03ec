"""Batches for Lightning, from a packed store.

Every random choice of a training image is drawn from a seed made of (run seed, epoch, image), never
from a stream that goes on: which worker loads an image, in what order, and after how many
interruptions, changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from components.data.augment import as_tensors, classification_augment, detection_augment
from components.data.geometry import fit
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore

Batch = dict[str, Any]


def derived_seed(*parts: int) -> int:
    """A 63-bit seed from several numbers, the same on every machine."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, row), so that a worker knows the epoch without being told.

    Args:
        rows: positions in the store.
        seed: of the shuffling; None keeps the order.
    """

    def __init__(self, rows: np.ndarray, seed: int | None):
        self.rows = rows
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.rows
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for row in order:
            yield self.epoch, int(row)


class PreparedDataset(Dataset[dict[str, torch.Tensor]]):
    """One item of a store: uint8 RGB image [3, H, W] with its target.

    Classification: `label`. Detection: `boxes` xyxy [G, 4] in input pixels, `labels` [G]. Always
    `row`, the position in the store.
    """

    def __init__(self, store: PreparedStore, augment: AugmentSettings | None, seed: int):
        self.store = store
        self.seed = seed
        info = store.info
        make = detection_augment if info.task == "detection" else classification_augment
        self.augment = make(augment, info.image_size) if augment else None

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, row = key
        info = self.store.info
        pixels = self.store.image(row)
        if self.augment is None:
            pixels = fit(pixels, info.image_size, info.resize)
        # A copy: the store's pixels are read-only, and torch would warn of that.
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        item: dict[str, torch.Tensor] = {"image": image, "row": torch.tensor(row)}
        if info.task == "detection":
            boxes, labels = self.store.boxes(row)
            item |= as_tensors(image, torch.from_numpy(boxes), torch.from_numpy(labels))
        else:
            item["label"] = torch.tensor(self.store.label(row))
        if self.augment is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derived_seed(self.seed, epoch, row))
                changed = {k: v for k, v in item.items() if k not in ("row", "label")}
                item |= self.augment(changed)
        return item


def collate(items: list[dict[str, torch.Tensor]]) -> Batch:
    """A batch: `images` uint8 [B, 3, H, W] (channels last in memory), targets, `rows` [B]."""
    pixels = torch.stack([item["image"].as_subclass(torch.Tensor) for item in items])
    batch: Batch = {
        "images": pixels.contiguous(memory_format=torch.channels_last),
        "rows": torch.stack([item["row"] for item in items]),
    }
    if "label" in items[0]:
        batch["labels"] = torch.stack([item["label"] for item in items])
    else:
        batch["boxes"] = [item["boxes"].as_subclass(torch.Tensor) for item in items]
        batch["labels"] = [item["labels"] for item in items]
    return batch


def normalize(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """uint8 [B, 3, H, W] to float: divided by 255, minus the mean, by the standard deviation."""
    shape = (1, 3, 1, 1)
    center = torch.tensor(mean, device=images.device).mul(255).view(shape)
    spread = torch.tensor(std, device=images.device).mul(255).view(shape)
    return (images.float() - center) / spread


class PreparedDataModule(LightningDataModule):
    """Train, validation and test loaders over a packed store.

    Args:
        store: the images.
        batch_size: images a step, training and validation.
        mean, std: of the backbone's normalisation, in [0, 1].
        augment: random changes of training images; None for none.
        seed: of order and augmentation.
        num_workers: processes that load; 0 loads in this one.
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
    ):
        super().__init__()
        self.store = store
        self.batch_size = batch_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.augment = augment
        self.seed = seed
        self.num_workers = num_workers

    def loader(self, split: str, train: bool = False) -> DataLoader[dict[str, torch.Tensor]]:
        """Batches of one split: shuffled and augmented for training, else as they stand."""
        rows = self.store.rows(split)
        dataset = PreparedDataset(self.store, self.augment if train else None, self.seed)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochSampler(rows, self.seed if train else None),
            # A last batch of one image has no batch-norm statistics of its own.
            drop_last=train and len(rows) % self.batch_size == 1 and len(rows) > 1,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=collate,
        )

    def train_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """Shuffled, augmented."""
        return self.loader("train", train=True)

    def val_dataloader(self) -> DataLoader[dict[str, torch.Tensor]]:
        """As they stand."""
        return self.loader("val")

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise on the device: a quarter of the bytes cross the bus."""
        return {**batch, "images": normalize(batch["images"], self.mean, self.std)}
