"""Settings of the process that runs torch: threads, memory, determinism."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def configure_torch(num_threads: int = 0, seed: int | None = None, num_processes: int = 1) -> None:
    """Make torch use the machine well, and the same way every time.

    Args:
        num_threads: of CPU work; 0 takes what torch finds, or this process's share of it.
        seed: of torch, numpy and Python; None leaves them alone.
        num_processes: that work side by side on this machine.
    """
    import torch
    from lightning import seed_everything

    _keep_freed_memory()
    if num_threads or num_processes > 1:
        torch.set_num_threads(num_threads or max(1, torch.get_num_threads() // num_processes))
    if seed is not None:
        seed_everything(seed, verbose=False)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of handing each back to the kernel.

    Activations of a training step are above glibc's threshold for mapping, so every step would
    map, fault in and unmap all of them again: half of a step's time (benchmarks/memory.py).
    """
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library; it has other habits
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
