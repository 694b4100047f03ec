"""GPUs for trials that run side by side on a machine: each its own, as far as there are enough."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names, or the numbers of the GPUs that this machine has."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


@contextmanager
def gpu_slot(folder: Path, each: int, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Variables that show a trial its GPUs alone, for as long as it runs.

    With more trials than GPUs each GPU gets a second one once all have a first. A trial that is
    killed gives its place back: the lock ends with the process that holds it.

    Args:
        folder: of the sweep, on this machine's or a shared disk.
        each: GPUs that a trial trains on (`train.devices`).
        environment: of the sweep.
    """
    gpus = visible_gpus(environment)
    groups = [gpus[first : first + each] for first in range(0, len(gpus) - each + 1, each)]
    if len(groups) < 2:
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    for turn in count():
        for number, group in enumerate(groups):
            # Two machines may share the folder; GPUs they do not.
            with (folder / f"{socket.gethostname()}-{number}-{turn}.lock").open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield {"CUDA_VISIBLE_DEVICES": ",".join(group)}
                return
