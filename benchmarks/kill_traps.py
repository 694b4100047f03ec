"""Places inside a training at which `kill_points` sends a signal, by wrapping what runs there.

The wrapping is done in the forked process, from outside: the training has no code for it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import components.files
from components.models.vision_module import VisionModule
from components.training import weight_average
from components.training.resume import SaveProgress
from components.training.weight_average import _FreshNorms

# Name of a place: the owner and name of a function, and whether before, amid or after it.
PLACES: dict[str, tuple[Any, str, str]] = {
    "in a write": (components.files._HashingSink, "write", "amid"),
    "before a sync": (components.files, "sync", "before"),
    "before a rename": (pathlib.Path, "replace", "before"),
    "after a rename": (pathlib.Path, "replace", "after"),
    "before removing an old file": (pathlib.Path, "unlink", "before"),
    "before removing a folder": (shutil, "rmtree", "before"),
    "before an optimizer step": (VisionModule, "on_before_optimizer_step", "before"),
    "before a step's end": (SaveProgress, "on_train_batch_end", "before"),
    "before a validation batch": (SaveProgress, "on_validation_batch_start", "before"),
    "at the end of validation": (SaveProgress, "on_validation_end", "before"),
    "at the end of an epoch": (SaveProgress, "on_train_epoch_end", "before"),
    "at the start of an epoch": (SaveProgress, "on_train_epoch_start", "before"),
    "before an average": (weight_average, "mean_weights", "before"),
    "amid an average's batch norms": (_FreshNorms, "_end_if_asked", "before"),
    "in an average's validation": (_FreshNorms, "on_validation_batch_end", "before"),
}
AVERAGING = tuple(PLACES)[-3:]
AMID_FILES = tuple(PLACES)[:6]


def set_trap(place: str, call: int, number: int) -> None:
    """Send `number` to this process's group at the `call`-th call, from 0, of a place."""
    seen = 0

    def look() -> bool:
        nonlocal seen
        seen += 1
        return seen == call + 1

    _wrap(place, look, lambda: os.killpg(0, number))


def count_places() -> dict[str, int]:
    """Count the calls of all places from now on; returns the counts, which grow."""
    counts = dict.fromkeys(PLACES, 0)

    def look(place: str) -> bool:
        counts[place] += 1
        return False

    for place in PLACES:
        _wrap(place, lambda place=place: look(place), lambda: None)  # type: ignore[misc]
    return counts


def _wrap(place: str, look: Callable[[], bool], strike: Callable[[], None]) -> None:
    owner, name, when = PLACES[place]
    inner = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        now = look()
        if now and when == "amid":
            sink, data = args
            half = memoryview(data)[: memoryview(data).nbytes // 2]
            sink._file.write(half)
            sink._file.flush()
            strike()
            # A signal that is only noted: the write goes on.
            sink._file.write(memoryview(data)[len(half) :])
            sink.digest.update(data)
            return memoryview(data).nbytes
        if now and when == "before":
            strike()
        result = inner(*args, **kwargs)
        if now and when == "after":
            strike()
        return result

    setattr(owner, name, wrapped)
