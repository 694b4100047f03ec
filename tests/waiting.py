"""Wait for what other processes bring about."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(true: Callable[[], T], what: str | Callable[[], object], seconds: float = 600) -> T:
    """Ask until something is true, and give it.

    Args:
        true: asked again and again.
        what: was waited for, or a function that tells how things stand when it has not come.
        seconds: a bound on life, not on speed.
    """
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.1)
    return found
