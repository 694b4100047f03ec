"""Classification data for Lightning: a folder per class, CSV files, torchvision's small sets.

Names and defaults are AutoTimm's. Batches are `{"images": float [B, 3, S, S] normalised, "labels":
int64 [B]}`, with several labels an image float [B, C].
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.contract.folder_reader import read_folder
from components.data.builtin_sets import BUILTIN_DATASETS, ArrayDataset, open_builtin
from components.data.image_records import (
    check_fraction,
    chosen_for_validation,
    labelled_rows,
    read_rows,
    refuse_errors,
    zero_or_one,
)
from components.data.record_batches import ImageDataset, collate_labelled
from components.data.record_data_module import RecordDataModule
from components.data.transform_config import TransformConfig
from components.errors import DataError

_NUM_WORKERS = min(os.cpu_count() or 4, 4)
Samples = tuple[list[str], Tensor]  # names, targets


class _LabelledDataModule(RecordDataModule):
    """Classification, with one label an image or several."""

    collate = staticmethod(collate_labelled)
    val_split: float

    def use(
        self, root: Path, train: Samples, val: Samples | None, test: Samples | None, source: str
    ) -> None:
        """Set the data sets; without `val`, a share of `train` is held out.

        Raises:
            DataError: there is no image, or none to learn from.
        """
        names, targets = train
        if not names:
            raise DataError(f"{source}: there are no training images")
        if val is None:
            held = torch.tensor(chosen_for_validation(names, self.val_split))
            val = [n for n, h in zip(names, held, strict=True) if h], targets[held]
            train = [n for n, h in zip(names, held, strict=True) if not h], targets[~held]
        self.train_dataset = ImageDataset(root, *train, self.train_transforms)
        if val[0]:
            self.val_dataset = ImageDataset(root, *val, self.eval_transforms)
        if test is not None and test[0]:
            self.test_dataset = ImageDataset(root, *test, self.eval_transforms)


class ImageDataModule(_LabelledDataModule):
    """Images with one label each.

    - **Folder**: `data_dir` holds a folder per class, directly or below `train`, `val` and `test`;
      classes are the folders' names in the order of their text, the same in all splits.
    - **CSV**: `train_csv`, and where there are `val_csv` and `test_csv`, with a column of paths
      below `image_dir` and a column of class names; classes are the names in `train_csv`, sorted.
    - **A small set of torchvision's**: `dataset_name`, downloaded to `data_dir` where it is not.

    Without a validation split `val_split` of the training images is held out, by a hash of each
    image's path, so that it stays where it is as the data grows.

    Args:
        data_dir: root of the images; none outside is read.
        dataset_name: `CIFAR10`, `CIFAR100`, `FashionMNIST` or `MNIST`.
        train_csv, val_csv, test_csv: UTF-8, comma separated, with a header.
        image_dir: root of the paths in the CSV files; None for the folder of `train_csv`.
        image_column: None for the first.
        label_column: None for the first of the others.
        image_size, batch_size, num_workers, train_transforms, eval_transforms,
            augmentation_preset, transform_backend, transform_config, backbone, pin_memory,
            persistent_workers, prefetch_factor, seed: see `RecordDataModule`; custom transforms
            take a Pillow image and give a tensor [3, S, S].
        val_split: share held out for validation, [0, 1); 0 for none.
        balanced_sampling: draw training images so that all classes are equally frequent; an epoch
            is as long as without.

    After `setup`: `class_names`, `num_classes`, `train_dataset`, `val_dataset`, `test_dataset`.
    """

    BUILTIN_DATASETS: ClassVar[tuple[str, ...]] = BUILTIN_DATASETS
    test_hint = "give a folder test/ beside train/, or test_csv"

    def __init__(
        self,
        data_dir: str | Path = "./data",
        dataset_name: str | None = None,
        train_csv: str | Path | None = None,
        val_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        image_dir: str | Path | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = _NUM_WORKERS,
        val_split: float = 0.1,
        train_transforms: Callable[..., Any] | None = None,
        eval_transforms: Callable[..., Any] | None = None,
        augmentation_preset: str | None = None,
        transform_backend: str = "torchvision",
        transform_config: TransformConfig | None = None,
        backbone: str | nn.Module | None = None,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        balanced_sampling: bool = False,
        seed: int | None = None,
    ):
        super().__init__(
            "classification",
            image_size,
            batch_size,
            num_workers,
            train_transforms,
            eval_transforms,
            augmentation_preset,
            transform_backend,
            transform_config,
            backbone,
            pin_memory,
            persistent_workers,
            prefetch_factor,
            seed,
        )
        check_fraction(val_split)
        if dataset_name is not None and dataset_name not in self.BUILTIN_DATASETS:
            raise ValueError(
                f"dataset_name = {dataset_name!r}: allowed: {', '.join(self.BUILTIN_DATASETS)}"
            )
        if train_csv is None and (val_csv is not None or test_csv is not None):
            raise ValueError("train_csv = None: must be given with val_csv or test_csv")
        self.data_dir = Path(data_dir)
        self.dataset_name = dataset_name
        self.csv_files = {
            split: Path(file)
            for split, file in (("train", train_csv), ("val", val_csv), ("test", test_csv))
            if file is not None
        }
        self.image_dir = None if image_dir is None else Path(image_dir)
        self.image_column, self.label_column = image_column, label_column
        self.val_split = val_split
        self.balanced_sampling = balanced_sampling

    def prepare_data(self) -> None:
        """Download a set of torchvision's, where it is asked for and not there."""
        if self.dataset_name is not None:
            for train in (True, False):
                open_builtin(self.dataset_name, self.data_dir, train, download=True)

    def read(self) -> None:
        """Set the data sets and the classes."""
        if self.csv_files:
            self._read_csv()
        elif self.dataset_name is not None:
            self._read_builtin(self.dataset_name)
        else:
            self._read_folder()

    def _classes(self, names: Sequence[str]) -> None:
        self.class_names, self.num_classes = list(names), len(names)

    def _read_folder(self) -> None:
        root = self.data_dir
        if not root.is_dir():
            raise DataError(
                f"data_dir = {root}: there is no such folder; it must hold a folder of images per "
                "class, directly or below train/, val/ and test/"
            )
        reading = read_folder(root, None)
        refuse_errors(reading.findings, root)
        samples: dict[str, list[tuple[str, str]]] = {}
        for item in reading.objects:
            image = reading.images[item.image]
            samples.setdefault(image.split or "train", []).append((image.path, item.label))
        learnt = {label for _, label in samples.get("train", [])}
        for split in ("val", "test"):
            for path, label in samples.get(split, []):
                if learnt and label not in learnt:
                    raise DataError(
                        f"{root / path}: class {label!r} has no training image; "
                        f"classes of the training images: {', '.join(sorted(learnt))}"
                    )
        self._classes(reading.classes)
        splits = {
            split: ([p for p, _ in found], self._targets([label for _, label in found]))
            for split, found in samples.items()
        }
        train = splits.get("train", ([], torch.empty(0)))
        self.use(root, train, splits.get("val"), splits.get("test"), f"data_dir = {root}")

    def _targets(self, labels: Sequence[str]) -> Tensor:
        ids = {name: number for number, name in enumerate(self.class_names or [])}
        return torch.tensor([ids[label] for label in labels], dtype=torch.int64)

    def _read_csv(self) -> None:
        root = self.image_dir or self.csv_files["train"].parent
        known: list[str] | None = None
        found: dict[str, Samples] = {}
        for split, file in self.csv_files.items():
            pairs = labelled_rows(file, root, self.image_column, self.label_column, known)
            if known is None:
                known = sorted({label for _, label in pairs})
                self._classes(known)
            found[split] = [name for name, _ in pairs], self._targets([lab for _, lab in pairs])
        self.use(root, found["train"], found.get("val"), found.get("test"), "train_csv")

    def _read_builtin(self, name: str) -> None:
        train, test = (open_builtin(name, self.data_dir, split) for split in (True, False))
        self._classes([str(label) for label in train.classes])
        names = [f"train/{row}" for row in range(len(train))]
        held = torch.tensor(chosen_for_validation(names, self.val_split))
        targets = torch.as_tensor(train.targets, dtype=torch.int64)
        for attribute, source, rows, transform in (
            ("train_dataset", train, (~held).nonzero()[:, 0], self.train_transforms),
            ("val_dataset", train, held.nonzero()[:, 0], self.eval_transforms),
            ("test_dataset", test, torch.arange(len(test)), self.eval_transforms),
        ):
            labels = targets if source is train else torch.as_tensor(test.targets)
            if len(rows):
                dataset = ArrayDataset(source.data, rows, labels.long()[rows], transform)
                setattr(self, attribute, dataset)

    def balance(self) -> Tensor | None:
        """One over the number of training images of an image's class."""
        if not self.balanced_sampling:
            return None
        assert isinstance(self.train_dataset, ImageDataset)
        targets = self.train_dataset.targets
        return 1 / targets.bincount().double()[targets]

    def facts(self) -> dict[str, object]:
        """What `summary` shows; images by class are those of the training split."""
        assert isinstance(self.train_dataset, ImageDataset)
        counts = Counter(self.train_dataset.targets.tolist())
        return {
            "Data dir": self.csv_files.get("train", self.data_dir),
            **({"Dataset": self.dataset_name} if self.dataset_name else {}),
            **super().facts(),
            "Balanced sampling": self.balanced_sampling,
            **{f"Class: {name}": counts[i] for i, name in enumerate(self.class_names or [])},
        }


class MultiLabelImageDataModule(_LabelledDataModule):
    """Images with any number of labels each, from CSV files with a column of 0 and 1 per label.

    Args:
        train_csv, val_csv, test_csv: UTF-8, comma separated, with a header; without `val_csv`
            `val_split` of the training images is held out.
        image_dir: root of the paths; no image outside is read.
        label_columns: names of the labels, in the model's order; None for all columns but the
            image's, which must then be the same in all files.
        image_column: None for the first.
        image_size, batch_size, num_workers, val_split, train_transforms, eval_transforms,
            augmentation_preset, transform_backend, transform_config, backbone, pin_memory,
            persistent_workers, prefetch_factor, seed: as for `ImageDataModule`.

    After `setup`: `label_names`, `num_labels`, and under the names of `ImageDataModule`
    `class_names`, `num_classes`.
    """

    test_hint = "give test_csv"

    def __init__(
        self,
        train_csv: str | Path,
        image_dir: str | Path = ".",
        val_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        label_columns: list[str] | None = None,
        image_column: str | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = _NUM_WORKERS,
        val_split: float = 0.1,
        train_transforms: Callable[..., Any] | None = None,
        eval_transforms: Callable[..., Any] | None = None,
        augmentation_preset: str | None = None,
        transform_backend: str = "torchvision",
        transform_config: TransformConfig | None = None,
        backbone: str | nn.Module | None = None,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            "classification",
            image_size,
            batch_size,
            num_workers,
            train_transforms,
            eval_transforms,
            augmentation_preset,
            transform_backend,
            transform_config,
            backbone,
            pin_memory,
            persistent_workers,
            prefetch_factor,
            seed,
        )
        check_fraction(val_split)
        self.csv_files = {
            split: Path(file)
            for split, file in (("train", train_csv), ("val", val_csv), ("test", test_csv))
            if file is not None
        }
        self.image_dir = Path(image_dir)
        self.label_columns = label_columns
        self.image_column = image_column
        self.val_split = val_split

    @property
    def num_labels(self) -> int | None:
        """How many labels; None before `setup`."""
        return self.num_classes

    @property
    def label_names(self) -> list[str] | None:
        """The labels, in the model's order; None before `setup`."""
        return self.class_names

    def read(self) -> None:
        """Set the data sets and the labels."""
        found: dict[str, Samples] = {}
        for split, file in self.csv_files.items():
            wanted = [*filter(None, [self.image_column]), *(self.label_columns or [])]
            header, rows = read_rows(file, wanted)
            image_column = self.image_column or header[0]
            others = [name for name in header if name != image_column]
            if self.label_columns is None and self.class_names is not None:
                self._same_labels(file, others)
            labels = self.label_columns or self.class_names or others
            if not labels:
                raise DataError(f"{file}, line 1: no label column beside {image_column!r}")
            self.class_names, self.num_classes = list(labels), len(labels)
            found[split] = (
                [row.image(image_column, self.image_dir) for row in rows],
                torch.tensor([[zero_or_one(row, name) for name in labels] for row in rows]),
            )
        self.use(self.image_dir, found["train"], found.get("val"), found.get("test"), "train_csv")

    def _same_labels(self, file: Path, names: list[str]) -> None:
        differing = sorted(set(names) ^ set(self.class_names or []))
        if differing:
            raise DataError(
                f"{file}: the labels differ from those of {self.csv_files['train']}: "
                f"{', '.join(differing)}; name those to learn in label_columns"
            )

    def facts(self) -> dict[str, object]:
        """What `summary` shows; images by label are those of the training split."""
        assert isinstance(self.train_dataset, ImageDataset)
        counts = self.train_dataset.targets.sum(dim=0).int().tolist()
        names = zip(self.class_names or [], counts, strict=True)
        return {
            "Data dir": self.csv_files["train"],
            **super().facts(),
            **{f"Label: {name}": count for name, count in names},
        }
