"""Lightning's names of the arithmetic, for steps that are run without its trainer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def arithmetic(precision: str, device: str) -> AbstractContextManager[Any]:
    """What a step is to run in.

    Args:
        precision: Lightning's name, such as `bf16-mixed`.
        device: kind of device, such as `cuda`.
    """
    if precision not in _AUTOCAST:
        return nullcontext()
    return torch.autocast(device, dtype=_AUTOCAST[precision])
