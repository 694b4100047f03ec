"""Running out of memory: say what to lower; and find the largest batch that fits."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import nn

from components.data.loaders import PreparedDataModule, collate
from components.data.multi_scale import resize_batch
from components.errors import TrainingError
from components.models.optimizers import create_optimizer
from components.models.vision_module import VisionModule
from components.training.precision import arithmetic
from components.training.settings import TrainSettings

# What torch's allocators say; on the CPU it is a plain RuntimeError.
_HOST = ("can't allocate memory", "not enough memory", "bad alloc", "std::bad_alloc")
_WORKER = ("DataLoader worker", "unable to open shared memory", "Bus error")
_HOST_SHARE = 0.8  # of the memory that is free: the rest of the machine goes on


@contextmanager
def explained_memory_errors(settings: TrainSettings, image_size: tuple[int, int]) -> Iterator[None]:
    """Turn the errors of a full memory into one that says what to lower.

    Raises:
        TrainingError: instead of torch's, numpy's and Python's own.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        what = f"{settings.batch_size} images of {image_size[0]} by {image_size[1]} pixels a step"
        if isinstance(error, torch.OutOfMemoryError):
            remedy = (
                f"lower train.batch_size (python -m tasks.largest_batch finds the largest) or "
                f"preprocess.image_size, or set train.precision (now {settings.precision}) to "
                "bf16-mixed"
            )
            raise TrainingError(f"out of GPU memory with {what}: {remedy}") from error
        if isinstance(error, MemoryError) or any(part in text for part in _HOST):
            raise TrainingError(
                f"out of memory with {what}: lower train.batch_size (python -m "
                "tasks.largest_batch finds the largest), preprocess.image_size or "
                f"train.num_workers (now {settings.num_workers})"
            ) from error
        if any(part in text for part in _WORKER):
            raise TrainingError(
                f"a process that loads batches was ended, as happens when memory or /dev/shm is "
                f"full: lower train.num_workers (now {settings.num_workers}) or train.batch_size "
                f"(now {settings.batch_size}); {text}"
            ) from error
        raise


def largest_size(fits: Callable[[int], bool], limit: int) -> int:
    """The largest batch size that fits, to an eighth: by doubling, then by halving the gap.

    Args:
        fits: tries a size; a size above one that does not fit does not fit either.
        limit: never tried beyond; at least 2.

    Returns:
        0 if not even two images fit. One is not tried: it may have no batch-norm statistics.
    """
    if not fits(2):
        return 0
    good, size = 2, 4
    while size <= limit and fits(size):
        good, size = size, size * 2
    if size <= limit:
        bad = size
    elif good < limit and fits(limit):
        return limit
    else:
        bad = min(size, limit)
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def largest_batch(
    module: VisionModule,
    data: PreparedDataModule,
    settings: TrainSettings,
    device: torch.device,
    limit: int = 512,
) -> int:
    """The most images of a training step that one process takes on this machine, to an eighth.

    On a GPU steps are run until memory is full. On a CPU, where a full memory would bring down the
    machine, a size is tried only if it fits by what the sizes before it took.

    Args:
        module: its weights change.
        data: whose training images are used, those with most objects first, at the largest input
            size that the settings ask for.
        settings: of the training.
        device: that it runs on.
        limit: largest size that is tried.
    """
    module.to(device).train()
    options = module.options
    optimizer = create_optimizer(
        module.network, options.optimizer, 1e-6, 0.0, **(options.optimizer_kwargs or {})
    )
    # The moving average of the weights; the gradients on their way to other processes.
    copies = bool(settings.ema_decay) + (settings.num_processes > 1)
    beside = [
        value.clone() for value in module.network.state_dict().values() for _ in range(copies)
    ]
    free = psutil.virtual_memory().available / settings.devices  # those that train on this machine
    start = _peak_bytes()
    per_image = 0.0

    def fits(size: int) -> bool:
        nonlocal per_image
        if device.type == "cpu" and per_image * size > free * _HOST_SHARE:
            return False
        try:
            _step(module, optimizer, _full_batch(data, size, settings, device), settings.precision)
        except torch.OutOfMemoryError:
            return False
        finally:
            module.zero_grad(set_to_none=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        per_image = (_peak_bytes() - start) / size
        return True

    size = largest_size(fits, limit)
    del beside  # held until here
    return size


def _step(
    module: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any], precision: str
) -> None:
    with arithmetic(precision, batch["images"].device.type):
        loss = module.model_step(batch)["loss"]  # type: ignore[operator]
    loss.backward()
    optimizer.step()


def _full_batch(
    data: PreparedDataModule, size: int, settings: TrainSettings, device: torch.device
) -> dict[str, Any]:
    store = data.store
    rows: list[int] = store.rows("train").tolist()
    if store.info.task == "detection":
        rows = sorted(rows, key=lambda row: -len(store.boxes(row)[0]))
    dataset = data.loader("train").dataset
    batch = collate([dataset[(0, rows[n % len(rows)])] for n in range(size)])
    batch = {
        name: value.to(device) if torch.is_tensor(value) else [item.to(device) for item in value]
        for name, value in batch.items()
    }
    batch = data.on_after_batch_transfer(batch, 0)
    most = settings.augment.multi_scale[1]
    if store.info.task == "detection" and most:
        height, width = store.info.image_size
        scale = 1 + most * 32 / height
        batch = resize_batch(batch, (height + most * 32, round(width * scale / 32) * 32))
    return batch


def _peak_bytes() -> int:
    """The most memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
