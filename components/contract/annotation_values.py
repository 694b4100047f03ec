"""Numbers as annotations write them: as text (CSV, XML, YOLO) or in JSON.

NaN and infinity are numbers here: what is wrong with them is for the checks of boxes to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_LONGEST_NUMBER = 64  # characters


def number(text: str) -> float | None:
    """A decimal number; None for any other text."""
    # Python alone would also take 1_000 and digits of other scripts.
    if len(text) > _LONGEST_NUMBER or "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def numbers(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers that texts are, as `number` reads them, all at once.

    Returns:
        values: [N] float64, NaN where the text is no number.
        are: [N] bool, whether it is one.
    """
    together = "".join(texts)
    if together.isascii() and "_" not in together and max(map(len, texts), default=0) < 65:
        try:
            values = np.fromiter(map(float, texts), dtype=np.float64, count=len(texts))
            return values, np.ones(len(texts), dtype=bool)
        except ValueError:
            pass
    found = [number(text) for text in texts]
    values = np.array([math.nan if value is None else value for value in found], dtype=np.float64)
    return values, np.array([value is not None for value in found], dtype=bool)


def json_number(value: Any) -> float | None:
    """A JSON number as float; None for all else."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def json_whole(value: Any) -> int | None:
    """A JSON integer; None for all else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
