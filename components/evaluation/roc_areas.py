"""The area under the ROC curve of each class against all others, and its interval.

Shapes: N images, C classes, R resamples, P images of a class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from components.evaluation.bootstrap import (
    Floats,
    Interval,
    drawn_weights,
    mean_defined,
    percentile_interval,
)

# Resamples times probabilities, some ten seconds of one core; below so many resamples the ends of
# an interval say little.
MAX_WORK, FEWEST_RESAMPLES = 1_000_000_000, 100


def areas_under_roc(probabilities: Floats, targets: NDArray[Any]) -> NDArray[np.float64]:
    """[C] area under each class's ROC curve against all others; NaN without images of both.

    Args:
        probabilities: [N, C].
        targets: [N] class ids, or [N, C] whether an image has the class.
    """
    truth = _of_each_class(targets, probabilities.shape[1])
    areas = np.full(len(truth), np.nan)
    for k, having in enumerate(truth):
        if having.any() and not having.all():
            areas[k] = roc_auc_score(having, probabilities[:, k])
    return areas


def auroc_interval(
    probabilities: Floats, targets: NDArray[Any], num_resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % interval of the mean of `areas_under_roc` by bootstrap over images.

    Args:
        probabilities: [N, C].
        targets: [N] class ids, or [N, C] whether an image has the class.
        num_resamples: R, if that is no more than `MAX_WORK` allows.
        seed: of the resampling.

    Returns:
        `auroc`; empty without resamples, where no class has images of both kinds, or where less
        than `FEWEST_RESAMPLES` could be afforded.
    """
    num_resamples = min(num_resamples, MAX_WORK // max(probabilities.size, 1))
    if num_resamples < FEWEST_RESAMPLES:
        return {}
    truth = _of_each_class(targets, probabilities.shape[1])
    classes = [k for k, having in enumerate(truth) if having.any() and not having.all()]
    if not classes:
        return {}
    means = []
    for weights in drawn_weights(len(probabilities), num_resamples, seed):
        areas = [_resampled_area(probabilities[:, k], truth[k], weights) for k in classes]
        means.append(mean_defined(np.stack(areas, axis=1)))
    interval = percentile_interval(np.concatenate(means))
    return {"auroc": interval} if interval else {}


def _of_each_class(targets: NDArray[Any], num_classes: int) -> NDArray[np.bool_]:
    """[C, N] whether an image has the class."""
    if targets.ndim == 2:
        return targets.T.astype(bool)
    return np.asarray(targets)[None] == np.arange(num_classes)[:, None]


def _resampled_area(
    probability: Floats, having: NDArray[np.bool_], weights: Floats
) -> NDArray[np.float64]:
    """[R] a class's area when image i counts `weights[r, i]` times; NaN without images of both.

    The area is the share of pairs, one image that has the class and one that has not, of which
    the first has the higher probability; an equal one counts half.
    """
    others = np.flatnonzero(~having)
    others = others[np.argsort(probability[others], kind="stable")]
    rising = np.cumsum(weights[:, others], axis=1)
    below_so_many = np.pad(rising, ((0, 0), (1, 0)))
    of_class = probability[having]
    below = np.searchsorted(probability[others], of_class, side="left")  # [P]
    not_above = np.searchsorted(probability[others], of_class, side="right")
    pairs = (below_so_many[:, below] + below_so_many[:, not_above]) / 2
    drawn = weights[:, having]
    total = drawn.sum(axis=1) * rising[:, -1]
    won = (pairs * drawn).sum(axis=1)
    return np.divide(won, total, out=np.full(len(total), np.nan), where=total > 0)
