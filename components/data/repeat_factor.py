"""Repeat-factor sampling: images with rare classes are shown more often.

Gupta et al. 2019 (LVIS), arXiv:1908.03195.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def repeat_factors(classes_of: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """How often each image is to be shown an epoch, on average; at least 1.

    A class that is on a share f of the images asks for sqrt(threshold / f); an image follows the
    class that asks for most.

    Args:
        classes_of: class ids [G] of each image.
        threshold: share below which a class is rare.
    """
    present = [np.unique(ids) for ids in classes_of]
    factors = np.ones(len(present))
    if not any(len(ids) for ids in present):
        return factors
    counts = np.bincount(np.concatenate(present))
    asked = np.sqrt(threshold * len(present) / np.maximum(counts, 1)).clip(1)
    for number, ids in enumerate(present):
        if len(ids):
            factors[number] = asked[ids].max()
    return factors


def epoch_length(factors: np.ndarray) -> int:
    """Images an epoch: the sum of their factors, rounded up so that none is left out."""
    return math.ceil(float(factors.sum()) - 1e-6)


def repeated(factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions of an epoch, in order: each as often as its factor, rounded up or down at random.

    Their number is the same in every epoch, `epoch_length` (systematic sampling).
    """
    length = epoch_length(factors)
    ends = np.cumsum(factors) * (length / factors.sum())
    ends[-1] = length  # whatever the sum's last digits
    marks = np.floor(ends + rng.random() * (1 - 1e-9))
    counts = np.diff(marks, prepend=0).astype(np.int64)
    return np.repeat(np.arange(len(factors)), counts)
