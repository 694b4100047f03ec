"""Batches of images that are read from their files as they are needed, for Lightning.

Every random choice of a training image is drawn from a seed made of (seed, epoch, row), as in
`loaders`: which worker loads it, and in which order, changes nothing.

Shapes: B images, G boxes of one image, C classes; H = W = the transform's `image_size`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from components.contract.paths import resolve_inside
from components.contract.pixels import load_rgb
from components.data.loaders import Batch, derived_seed
from components.data.transform_config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Task,
    TransformConfig,
    eval_transform,
    get_transforms_from_backbone,
    train_transform,
)
from components.errors import DataError

Key = int | tuple[int, int]  # row, or (epoch, row)


class RecordDataset(Dataset[Any]):
    """Images by path below a root; subclasses add what belongs to an image.

    Args:
        root: folder that `names` are relative to and that no image may lie outside of.
        names: of the image files, `/` separated.
        transform: of one item.
        seed: of the transform's random choices; None leaves it torch's global generator.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        transform: Callable[..., Any],
        seed: int | None = None,
    ):
        self.root = root
        self.names = list(names)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.names)

    def pixels(self, row: int) -> np.ndarray:
        """Decoded image, uint8 RGB [H, W, 3], upright, by the pipeline's rule."""
        return load_rgb(resolve_inside(self.root, self.names[row]))

    def __getitem__(self, key: Key) -> Any:
        epoch, row = key if isinstance(key, tuple) else (0, key)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a data set of {len(self)} images")
        seeded = nullcontext() if self.seed is None else _seeded(self.seed, epoch, row)
        with seeded:
            return self.item(row)

    @abstractmethod
    def item(self, row: int) -> Any:
        """The transformed image, and what belongs to it."""


@contextmanager
def _seeded(*parts: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(*parts))
        yield


class ImageDataset(RecordDataset):
    """Images with one label, or several: items are (image [3, H, W], label).

    Args:
        targets: int64 [N], or float [N, C] for several labels.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        targets: Tensor,
        transform: Callable[..., Any],
        seed: int | None = None,
    ):
        super().__init__(root, names, transform, seed)
        self.targets = targets

    def item(self, row: int) -> tuple[Tensor, Tensor]:
        """The transformed image and its label, or its labels [C]."""
        return self.transform(Image.fromarray(self.pixels(row))), self.targets[row]


def collate_labelled(items: list[tuple[Tensor, Tensor]]) -> Batch:
    """`images` [B, 3, H, W], channels last in memory, and `labels` [B] or [B, C]."""
    images, labels = zip(*items, strict=True)
    return {"images": stacked(images), "labels": torch.stack(labels)}


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Images of one shape as a batch, channels last in memory.

    Raises:
        DataError: their shapes differ, or they are no tensors.
    """
    shapes = {tuple(image.shape) if isinstance(image, Tensor) else None for image in images}
    if len(shapes) > 1 or None in shapes:
        seen = ", ".join(str(shape) for shape in sorted(shapes, key=str))
        raise DataError(
            f"the transforms gave images of the shapes {seen}; custom transforms must end in "
            "tensors [3, H, W] of one size"
        )
    return torch.stack(list(images)).contiguous(memory_format=torch.channels_last)


class SeededSampler(DistributedSampler[Any]):
    """Yields (epoch, row), shared out among the processes of a distributed training.

    Lightning sets the epoch; a loop written by hand goes on to the next by itself.

    Args:
        num_rows: of the data set.
        seed: of the shuffling.
        shuffle: False keeps the order.
        weights: [N] relative chance of each row, drawn with replacement; None takes each once.
    """

    def __init__(
        self, num_rows: int, seed: int, shuffle: bool = True, weights: Tensor | None = None
    ):
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        super().__init__(
            range(num_rows),  # type: ignore[arg-type]  # only its length is read
            num_replicas=None if distributed else 1,
            rank=None if distributed else 0,
            shuffle=shuffle,
            seed=seed,
        )
        self.weights = weights

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        self.epoch = epoch + 1
        generator = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        if self.weights is not None:
            rows = torch.multinomial(self.weights, self.total_size, True, generator=generator)
        else:
            count = len(self.dataset)  # type: ignore[arg-type]
            order = torch.randperm(count, generator=generator)
            rows = order if self.shuffle else torch.arange(count)
            rows = rows.repeat(-(-self.total_size // count))  # every process gets as many
        mine = rows[self.rank : self.total_size : self.num_replicas].tolist()
        return iter([(epoch, row) for row in mine])


class RecordDataModule(LightningDataModule):
    """What the data modules share: transforms, loaders, a summary.

    Args:
        task: what the transforms are for.
        image_size: side of the square input, pixels; `transform_config` has its own.
        batch_size: images a step.
        num_workers: processes that load; 0 loads in this one.
        train_transforms, eval_transforms: instead of the built-in ones.
        augmentation_preset: a name of `list_transform_presets`; None for `default`.
        transform_backend: see `TransformConfig`.
        transform_config: the whole description; wins over the five before.
        backbone: whose normalisation `transform_config` may ask for.
        pin_memory: where there is a GPU.
        persistent_workers: keep the processes between epochs.
        prefetch_factor: batches each process loads ahead.
        seed: of order, sampling and augmentation; None takes torch's seed, which `AutoTrainer` and
            `seed_everything` set.
    """

    def __init__(
        self,
        task: Task,
        image_size: int,
        batch_size: int,
        num_workers: int,
        train_transforms: Callable[..., Any] | None,
        eval_transforms: Callable[..., Any] | None,
        augmentation_preset: str | None,
        transform_backend: str,
        transform_config: TransformConfig | None,
        backbone: str | nn.Module | None,
        pin_memory: bool,
        persistent_workers: bool,
        prefetch_factor: int | None,
        seed: int | None,
    ):
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}: must be at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers = {num_workers}: must be at least 0")
        self.task = task
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        # Without a description the transforms are AutoTimm's plain ones: ImageNet's statistics.
        config = transform_config or TransformConfig(
            preset=augmentation_preset or "default",
            backend=transform_backend,  # type: ignore[arg-type]  # checked there
            image_size=image_size,
            use_timm_config=False,
            interpolation="bilinear",
        )
        self.transform_config = config
        self.image_size = config.image_size
        built = transform_config is not None
        self.train_transforms = self._transform(True, None if built else train_transforms, backbone)
        self.eval_transforms = self._transform(False, None if built else eval_transforms, backbone)
        self.train_dataset: RecordDataset | None = None
        self.val_dataset: RecordDataset | None = None
        self.test_dataset: RecordDataset | None = None
        self.class_names: list[str] | None = None
        self.num_classes: int | None = None

    def _transform(
        self, is_train: bool, custom: Callable[..., Any] | None, backbone: str | nn.Module | None
    ) -> Callable[..., Any]:
        config = self.transform_config
        if custom is not None:
            return custom
        if backbone is not None:
            return get_transforms_from_backbone(backbone, config, is_train, self.task)
        make = train_transform if is_train else eval_transform
        return make(config, config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD, self.task)

    def setup(self, stage: str | None = None) -> None:
        """Read what images there are; once, whatever the stage.

        Raises:
            DataError: the data cannot be used; the message says what and where.
        """
        if self.train_dataset is None:
            self.read()

    @abstractmethod
    def read(self) -> None:
        """Set the data sets and the classes."""

    @abstractmethod
    def collate(self, items: list[Any]) -> Batch:
        """Items of a data set as a batch."""

    def balance(self) -> Tensor | None:
        """[N] relative chance of each training image; None for each once an epoch."""
        return None

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled and augmented."""
        self.setup("fit")
        assert self.train_dataset is not None
        seed = torch.initial_seed() if self.seed is None else self.seed
        self.train_dataset.seed = seed = seed % 2**32  # what a sampler can take
        sampler = SeededSampler(len(self.train_dataset), seed, weights=self.balance())
        # A last batch of one image has no batch-norm statistics of its own.
        lonely = len(sampler) > 1 and len(sampler) % self.batch_size == 1
        return self._loader(self.train_dataset, sampler, drop_last=lonely and self.batch_size > 1)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """As they stand; an empty list where there is no validation split."""
        self.setup("validate")
        return [] if self.val_dataset is None else self._as_it_stands(self.val_dataset)

    def test_dataloader(self) -> DataLoader[Any]:
        """As they stand.

        Raises:
            DataError: there is no test split.
        """
        self.setup("test")
        if self.test_dataset is None:
            raise DataError(f"there is no test split; {self.test_hint}")
        return self._as_it_stands(self.test_dataset)

    test_hint = ""

    def _as_it_stands(self, dataset: RecordDataset) -> DataLoader[Any]:
        return self._loader(dataset, SeededSampler(len(dataset), 0, shuffle=False))

    def _loader(
        self, dataset: RecordDataset, sampler: SeededSampler, drop_last: bool = False
    ) -> DataLoader[Any]:
        parallel = self.num_workers > 0
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.persistent_workers and parallel,
            prefetch_factor=self.prefetch_factor if parallel else None,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            collate_fn=self.collate,
        )

    def summary(self) -> str:
        """The data set in a table of text."""
        self.setup()
        rows = {key: str(value) for key, value in self.facts().items()}
        left = max(map(len, rows))
        right = max(map(len, rows.values()))
        line = f"+{'-' * (left + 2)}+{'-' * (right + 2)}+"
        body = [f"| {key:<{left}} | {value:<{right}} |" for key, value in rows.items()]
        return "\n".join([line, *body, line])

    def facts(self) -> dict[str, object]:
        """What `summary` shows."""
        return {
            "Image size": self.image_size,
            "Batch size": self.batch_size,
            "Num classes": self.num_classes,
            "Train samples": len(self.train_dataset or []),
            "Val samples": len(self.val_dataset or []),
            "Test samples": len(self.test_dataset or []),
        }
