"""The bootstrap over images, as all metrics use it: an image that is drawn n times weighs n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Interval = tuple[float, float]


def image_weights(
    num_images: int, num_resamples: int, seed: int, chunk: int
) -> Iterator[NDArray[np.float64]]:
    """How often each image is drawn, resample by resample.

    Args:
        num_images: I.
        num_resamples: how many in all.
        seed: the same seed gives the same weights, whatever the chunk.
        chunk: most resamples at once.

    Yields:
        [r, I] whole numbers that sum to I in each row.
    """
    rng = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        yield rng.multinomial(num_images, shares, size=size).astype(np.float64)


def percentile_interval(values: Floats, confidence: float = 0.95) -> Interval:
    """The middle share `confidence` of `values` [R]: by default from 2.5 % to 97.5 %."""
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


def mean_defined(values: Floats, axis: int = -1) -> NDArray[np.float64]:
    """Mean along an axis over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
