"""95 % intervals by bootstrap over images: images are drawn with replacement, figures read anew.

Shapes: N images, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Interval = tuple[float, float]

# Numbers held at once while resampling: keeps the bootstrap below about 100 MB.
_CHUNK_NUMBERS = 2_000_000

# Positions of images [n] and how often each was drawn [R, n] to the main figure [R]; NaN where
# there is none.
Measure = Callable[[NDArray[np.int64], Floats], Floats]


def drawn_weights(
    num_images: int, num_resamples: int, seed: int, width: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each image was drawn, R in all, some resamples at a time.

    Args:
        num_images: N, in each resample too.
        num_resamples: R.
        seed: the same seed gives the same weights.
        width: the widest array the reader makes of a resample, if wider than N.

    Yields:
        [r, N].
    """
    shares = np.full(num_images, 1 / num_images)
    return drawn_counts(num_images, shares, num_resamples, seed, width)


def drawn_counts(
    num_drawn: int, shares: Floats, num_resamples: int, seed: int, width: int = 0
) -> Iterator[NDArray[np.float64]]:
    """How often each cell was drawn, R in all, some resamples at a time.

    Args:
        num_drawn: draws of a resample.
        shares: [K] probability of each cell; they add up to 1.
        num_resamples: R.
        seed: the same seed gives the same counts.
        width: the widest array the reader makes of a resample, if wider than K.

    Yields:
        [r, K].
    """
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_NUMBERS // max(len(shares), width, 1))
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        yield rng.multinomial(num_drawn, shares, size=size).astype(np.float64)


def percentile_interval(values: Floats, confidence: float = 0.95) -> Interval | None:
    """The middle share of the finite `values` [R]: by default the 2.5 % and 97.5 % quantiles.

    None where no value is finite.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    outside = (1 - confidence) / 2
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


def mean_defined(values: Floats, axis: int = -1) -> NDArray[np.float64]:
    """Mean along an axis over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def mean_intervals(
    of_image: Mapping[str, NDArray[Any]], num_resamples: int, seed: int
) -> dict[str, Interval]:
    """Intervals of the means of figures that every image has its own of.

    Args:
        of_image: name to [N].
        num_resamples: R; with 0 there is no interval.
        seed: of the resampling.
    """
    if not (num_resamples and of_image):
        return {}
    table = np.stack(list(of_image.values()), axis=1).astype(np.float64)  # [N, figures]
    num_images = len(table)
    means = [w @ table / num_images for w in drawn_weights(num_images, num_resamples, seed)]
    columns = np.concatenate(means).T
    pairs = zip(of_image, map(percentile_interval, columns), strict=True)
    return {name: interval for name, interval in pairs if interval}
