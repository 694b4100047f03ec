"""Images that are read from their files as they are needed, their order, and what a batch is.

Every random choice of a training image is drawn from a seed made of (seed, epoch, row), as in
`loaders`: which worker loads it, and in which order, changes nothing.

Shapes: B images, G boxes of one image, C classes; H = W = the transform's `image_size`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torch.utils.data.distributed import DistributedSampler

from components.contract.paths import resolve_inside
from components.contract.pixels import load_rgb
from components.data.loaders import Batch, derived_seed
from components.errors import DataError

Key = int | tuple[int, int]  # row, or (epoch, row)


@dataclass(frozen=True)
class InputFormat:
    """What the values of an image mean.

    Attributes:
        mean, std: of the normalisation, of values in [0, 1], by RGB channel.
        channels: order of colours.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str = "rgb"

    def to(self, other: InputFormat, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] of this format in another."""
        if self == other:
            return images
        rgb = images.flip(1) if self.channels == "bgr" else images
        shape = (1, 3, 1, 1)
        mean, std = (torch.tensor(v).view(shape) for v in (self.mean, self.std))
        new_mean, new_std = (torch.tensor(v).view(shape) for v in (other.mean, other.std))
        changed = (rgb * std + mean - new_mean) / new_std
        return changed.flip(1) if other.channels == "bgr" else changed


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
