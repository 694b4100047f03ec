"""torchvision's small data sets, for trying things out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from components.data.record_batches import ImageDataset
from components.errors import DataError

BUILTIN_DATASETS = ("CIFAR10", "CIFAR100", "FashionMNIST", "MNIST")


class ArrayDataset(ImageDataset):
    """Images that lie in memory as one array."""

    def __init__(
        self, data: Any, rows: Tensor, targets: Tensor, transform: Callable[..., Any]
    ) -> None:
        super().__init__(Path(), [str(row) for row in rows.tolist()], targets, transform)
        self.data, self.rows = data, rows

    def pixels(self, row: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return np.array(Image.fromarray(np.asarray(self.data[self.rows[row]])).convert("RGB"))


def open_builtin(name: str, folder: Path, train: bool, download: bool = False) -> Any:
    """A set as torchvision gives it, with `data`, `targets` and `classes`.

    Raises:
        DataError: it is not there, or cannot be downloaded.
    """
    from torchvision import datasets

    try:
        return getattr(datasets, name)(str(folder), train=train, download=download)
    except (RuntimeError, OSError) as fault:
        raise DataError(f"dataset_name = {name}, data_dir = {folder}: {fault}") from None
