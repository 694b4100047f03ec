"""A batch on its way from a loader's worker.

Each tensor that a worker sends costs a file of shared memory and a connection to hand it over,
a millisecond or so: much for eight boxes, and a batch of detection has dozens of them. So all but
large tensors are sent as bytes. And each page of a file is cleared by the kernel and mapped anew,
in both processes, which takes as long as to draw the images. So they are written to a `BatchPool`,
memory that both share for as long as the loader lives.
"""

from __future__ import annotations

import itertools
import math
import mmap
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_LARGE = 64 * 1024  # bytes
_pool_numbers = itertools.count()
_pools: weakref.WeakValueDictionary[int, BatchPool] = weakref.WeakValueDictionary()


class Place(NamedTuple):
    """Where in a pool the images of a batch lie.

    Attributes:
        pool: its number.
        number: of the place, within the pool.
        shape: of the images, uint8 [B, H, W, 3].
    """

    pool: int
    number: int
    shape: tuple[int, ...]


class BatchPool:
    """Places for batches of images, shared by a process and the loader's workers it will fork.

    A worker takes one of its own places that is free; it is free again when the process that was
    sent the batch has let go of the images. Memory is used by the places that are ever taken.

    Args:
        num_workers: of the loader.
        num_places: for each worker.
        num_bytes: of the largest batch's images.

    Raises:
        OSError: the system gives no such memory.
    """

    def __init__(self, num_workers: int, num_places: int, num_bytes: int):
        self._num_places, self._num_bytes = num_places, num_bytes
        # Without a name or file, so that nothing is left behind, however the processes end.
        self._memory = mmap.mmap(-1, num_workers * num_places * num_bytes)
        self._taken = mmap.mmap(-1, num_workers * num_places)
        self._number = next(_pool_numbers)
        _pools[self._number] = self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a process that is not forked has no part in it

    def take(self, shape: tuple[int, ...]) -> Place | None:
        """A free place of this worker for uint8 images of `shape`, or None."""
        worker = get_worker_info()
        if worker is None or math.prod(shape) > self._num_bytes:
            return None
        first = worker.id * self._num_places
        for index in range(first, first + self._num_places):
            if not self._taken[index]:
                self._taken[index] = 1
                return Place(self._number, index, shape)
        return None

    def images(self, place: Place) -> Tensor:
        """The images at a place of this pool, in the worker."""
        return torch.from_numpy(self._array(place))

    def received(self, place: Place) -> Tensor:
        """The same in the process that was sent them; the place is free once they are let go of."""
        array = self._array(place)
        # The tensor's memory, and so that of each of its views, holds on to the array.
        weakref.finalize(array, self._free, place.number).atexit = False
        return torch.from_numpy(array)

    def _array(self, place: Place) -> np.ndarray:
        count, offset = math.prod(place.shape), place.number * self._num_bytes
        return np.frombuffer(self._memory, np.uint8, count, offset).reshape(place.shape)

    def _free(self, index: int) -> None:
        self._taken[index] = 0


class SentBatch(dict[str, Any]):
    """A batch, a tensor or a list of tensors by name, that is pickled with few shared files.

    Attributes:
        place: where `images`, [B, 3, H, W] with channels last in memory, lie in a pool.
    """

    place: Place | None = None

    def __reduce__(self) -> tuple[Callable[..., SentBatch], tuple[Any, ...]]:
        content = {
            key: None if key == "images" and self.place else _packed(value)
            for key, value in self.items()
        }
        return _received, (content, self.place)


def _received(content: dict[str, Any], place: Place | None) -> SentBatch:
    batch = SentBatch((key, _unpacked(value)) for key, value in content.items())
    if place is not None:
        batch["images"] = _pools[place.pool].received(place).permute(0, 3, 1, 2)
    return batch


def _packed(value: Any) -> Any:
    if isinstance(value, list):
        return [_packed(item) for item in value]
    if isinstance(value, Tensor) and value.nbytes < _LARGE:
        return value.numpy()
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpacked(item) for item in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
