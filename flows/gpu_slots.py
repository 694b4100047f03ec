"""GPUs for trials that run side by side on a machine: each its own, as far as there are enough."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names, or the numbers of the GPUs that this machine has.

    Args:
        environment: of the sweep.
        devices: folder in which the driver shows each GPU as a file.
    """
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(number) for number in range(len(list(devices.glob("nvidia[0-9]*"))))]


@contextmanager
def gpu_slot(folder: Path, each: int, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Variables that show a trial its GPUs alone, for as long as it runs.

    With more trials than GPUs, a trial gets the GPU that has the fewest. One that is killed gives
    its place back: the lock ends with the process that holds it.

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
    # Two machines may share the folder; GPUs they do not.
    ours = folder / socket.gethostname()
    ours.mkdir(parents=True, exist_ok=True)
    with (ours / "choosing.lock").open("a") as choosing:
        # None looks while another one, that has looked, has not taken its place yet.
        fcntl.flock(choosing, fcntl.LOCK_EX)
        number = min(range(len(groups)), key=lambda number: _num_trials(ours, number))
        place = _free_place(ours, number)
    with place:
        yield {"CUDA_VISIBLE_DEVICES": ",".join(groups[number])}


def _num_trials(folder: Path, number: int) -> int:
    """How many trials a group of GPUs has now."""
    num_held = 0
    for path in folder.glob(f"{number}-*.lock"):
        file = _locked(path)
        if file is None:
            num_held += 1
        else:
            file.close()
    return num_held


def _free_place(folder: Path, number: int) -> IO[str]:
    """Take a place at a group of GPUs; it is free again once the file is closed."""
    places = (_locked(folder / f"{number}-{turn}.lock") for turn in count())
    return next(place for place in places if place is not None)


def _locked(path: Path) -> IO[str] | None:
    """The file, locked; None where another process, or another one of this, has locked it."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
