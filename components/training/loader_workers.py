"""How many processes load batches, where the parameters leave it to the machine."""

from __future__ import annotations

import math
import os
from pathlib import Path

# An epoch of fewer steps is over before workers have started and fetched ahead.
LEAST_STEPS = 8
# Without a GPU the network takes all cores; one of several can be spared.
LEAST_CORES_ON_CPU = 4
MOST = 8


def chosen_workers(num_images: int, batch_size: int, cores: int, on_gpu: bool) -> tuple[int, str]:
    """The number of loading processes of one training process, and why.

    Args:
        num_images: of the training split.
        batch_size: images a step.
        cores: that this training process may use.
        on_gpu: whether the network is there, so that the cores are free to load.
    """
    steps = math.ceil(num_images / batch_size)
    if steps < LEAST_STEPS:
        return 0, f"an epoch has {steps} steps, fewer than {LEAST_STEPS}"
    if on_gpu:
        return min(MOST, cores - 1), f"{cores} cores beside a GPU, one of them for the training"
    if cores < LEAST_CORES_ON_CPU:
        return 0, f"{cores} cores, which the network takes"
    return 1, f"{cores} cores, of which the network leaves one"


def usable_cores(num_processes: int = 1, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that each of some processes may use; at least 1.

    Those of the machine that affinity leaves (`taskset`, SLURM), and of these no more than the
    control group's quota (containers).

    Args:
        num_processes: that share them.
        cgroup: where the kernel tells of the control group, version 1 or 2.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    return max(1, int(min(cores, _quota(cgroup)) / num_processes))


def _quota(cgroup: Path) -> float:
    """Cores that the control group may use at a time; infinite where nothing bounds them."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text().strip()
                for name in ("quota", "period")
            )
        return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
    except (OSError, ValueError):
        return math.inf  # no such control group, or not to be read
