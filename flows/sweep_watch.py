"""Who is told of each trial of a sweep as it ends.

In a module of its own: Prefect sends the flow to Dask's and Ray's workers with what it names, and
a context variable cannot be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from flows.sweep_trial import Row

_watcher: ContextVar[Callable[[Row, int], None]] = ContextVar("watcher")


def watch(told: Callable[[Row, int], None]) -> None:
    """Have `told` called with each row as it comes, and how many trials there are."""
    _watcher.set(told)


def tell(row: Row, total: int) -> None:
    """A trial has ended; a flow run by a worker has nobody to tell."""
    told = _watcher.get(None)
    if told is not None:
        told(row, total)
