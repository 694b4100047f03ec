"""One seed for everything that draws."""

from __future__ import annotations

import lightning
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
