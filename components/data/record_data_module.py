"""What the data modules over raw files share: transforms, loaders, a summary."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from components.data.loaders import Batch
from components.data.record_batches import InputFormat, RecordDataset, SeededSampler
from components.data.transform_config import (
    Task,
    TransformConfig,
    eval_transform,
    get_transforms_from_backbone,
    resolve_statistics,
    train_transform,
)
from components.errors import DataError


def _collate_as(
    collate: Callable[[list[Any]], Batch], have: InputFormat, want: InputFormat, items: list[Any]
) -> Batch:
    batch = collate(items)
    return {**batch, "images": have.to(want, batch["images"])}


class RecordDataModule(LightningDataModule):
    """What the data modules share: transforms, loaders, a summary.

    Subclasses set `collate`, which makes a batch of items. A model in training that has a
    `fixed_input` (YOLOX) gets images in that form, unless the transforms are custom ones.

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
        if transform_config is not None:
            train_transforms = eval_transforms = None
        # Of custom transforms nobody knows what they make of an image.
        custom = train_transforms is not None or eval_transforms is not None
        self.input_format = None if custom else InputFormat(*resolve_statistics(config, backbone))
        self.train_transforms = self._transform(True, train_transforms, backbone)
        self.eval_transforms = self._transform(False, eval_transforms, backbone)
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
        return make(config, *resolve_statistics(config, None), self.task)

    def wanted_format(self) -> InputFormat | None:
        """What the model in training takes, where that is its own (YOLOX: BGR, 0 to 255)."""
        module = self.trainer.lightning_module if self.trainer is not None else None
        fixed = getattr(module, "fixed_input", None)
        return InputFormat(**fixed, channels=getattr(module, "channels", "rgb")) if fixed else None

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

    collate: Callable[[list[Any]], Batch]

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
        collate: Callable[[list[Any]], Batch] = self.collate
        wanted = self.wanted_format()
        if wanted is not None and self.input_format is not None:
            collate = partial(_collate_as, self.collate, self.input_format, wanted)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            persistent_workers=self.persistent_workers and parallel,
            prefetch_factor=self.prefetch_factor if parallel else None,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            collate_fn=collate,
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
