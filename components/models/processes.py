"""What the processes of one training tell each other, apart from gradients. Alone, each is a no-op.

Every call waits for the same call in all other processes: none may be left out on a branch that
only some of them take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

Value = TypeVar("Value")


_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Be as if there were no other process: for what not all of them do."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def num_processes() -> int:
    """How many train together; 1 where there is no process group."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradients. The tensor may be changed."""
    if num_processes() == 1:
        return values
    dist.all_reduce(values)
    return values / dist.get_world_size()


def gathered(value: Value) -> list[Value]:
    """Each process's value, by rank. Tensors in it are best on the CPU."""
    if num_processes() == 1:
        return [value]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, value, group=_on_the_cpu(dist.group.WORLD))
    return values


def largest(number: int) -> int:
    """The largest of the processes' numbers."""
    if num_processes() == 1:
        return number
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX, group=_on_the_cpu(dist.group.WORLD))
    return int(shared)


def share_buffers(network: torch.nn.Module) -> None:
    """Give all processes the first one's buffers: batch norms that are not shared have drifted."""
    if num_processes() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


@cache
def _on_the_cpu(world: dist.ProcessGroup) -> Any:
    """A group that sends from main memory: to send from a GPU would wait for what it is doing."""
    if dist.get_backend(world) == "gloo":
        return world
    return dist.new_group(backend="gloo")
