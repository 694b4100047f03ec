"""One seed for everything that draws, and the states of all that does."""

from __future__ import annotations

import random
from typing import Any, cast

import lightning
import numpy as np
import torch


def seed_everything(
    seed: int = 42, deterministic: bool = False, workers: bool = True, verbose: bool = False
) -> int:
    """Seed Python, numpy and torch.

    Args:
        seed: 0 to 2^32 - 1.
        deterministic: also take deterministic algorithms, where torch has them; a warning names an
            operation that has none.
        workers: seed the loaders' processes too.
        verbose: let Lightning say so.

    Returns:
        The seed.
    """
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
    return lightning.seed_everything(seed, workers=workers, verbose=verbose)


def random_states() -> dict[str, Any]:
    """The states of all random streams, as tensors, numbers, strings and tuples.

    Of Python, of numpy's old interface (each `Generator` is its owner's affair), of torch on the
    CPU and on each accelerator that is in use.
    """
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Set all random streams to what `random_states` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
