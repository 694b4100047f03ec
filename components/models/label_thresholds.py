"""From which probability on a multi-label classifier says that a class is there.

Shapes: N images, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DEFAULT = 0.5  # where the images say nothing about a class


def best_f1_thresholds(
    probabilities: NDArray[np.floating[Any]], targets: NDArray[Any]
) -> tuple[float, ...]:
    """For each class the threshold with the best F1 on these images.

    It lies half way between two probabilities that occur, so that rounding moves no image over it.
    Of thresholds that are equally good the highest counts. A class that no image has, or all have,
    gets `DEFAULT`: F1 then knows one kind of mistake only.

    Args:
        probabilities: [N, C], each 0 to 1.
        targets: [N, C] of 0 and 1, or bool.

    Returns:
        C thresholds; a class is there where its probability is at least that.

    Raises:
        ValueError: the shapes differ.
    """
    probabilities, targets = np.asarray(probabilities, np.float64), np.asarray(targets, bool)
    if probabilities.ndim != 2 or probabilities.shape != targets.shape:
        raise ValueError(
            f"probabilities {probabilities.shape} and targets {targets.shape} must both be [N, C]"
        )
    return tuple(
        _best_f1_threshold(column, truth)
        for column, truth in zip(probabilities.T, targets.T, strict=True)
    )


def _best_f1_threshold(probabilities: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    if not truth.any() or truth.all():
        return DEFAULT
    order = np.argsort(-probabilities, kind="stable")
    falling = probabilities[order]
    # A cut falls behind the last of equal probabilities.
    cuts = np.flatnonzero(np.append(falling[:-1] != falling[1:], True))
    num_right = np.cumsum(truth[order])[cuts]
    f1 = 2 * num_right / (cuts + 1 + truth.sum())
    best = int(cuts[int(f1.argmax())])
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return float((falling[best] + below) / 2)
