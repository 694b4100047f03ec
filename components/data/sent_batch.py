"""A batch on its way from a loader's worker.

Each tensor that a worker sends costs a file of shared memory and a connection to hand it over,
a millisecond or so: much for eight boxes, and a batch of detection has dozens of them. So all but
large tensors are sent as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LARGE = 64 * 1024  # bytes


class SentBatch(dict[str, Any]):
    """A batch, a tensor or a list of tensors by name, that is pickled with few shared files."""

    def __reduce__(self) -> tuple[Callable[..., SentBatch], tuple[dict[str, Any]]]:
        return _received, ({key: _packed(value) for key, value in self.items()},)


def _received(content: dict[str, Any]) -> SentBatch:
    return SentBatch((key, _unpacked(value)) for key, value in content.items())


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
