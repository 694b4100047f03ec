"""From which score on a class is said to be there.

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
        best_f1_threshold(column, truth, int(truth.sum()))
        if truth.any() and not truth.all()
        else DEFAULT
        for column, truth in zip(probabilities.T, targets.T, strict=True)
    )


def best_f1_threshold(
    scores: NDArray[np.floating[Any]], right: NDArray[np.bool_], num_true: int
) -> float:
    """The threshold with the best F1, half way between two scores that occur.

    Args:
        scores: [n], each 0 to 1, one at least.
        right: [n] whether what got that score is there.
        num_true: how many there are, found or not.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    # A cut falls behind the last of equal scores.
    cuts = np.flatnonzero(np.append(falling[:-1] != falling[1:], True))
    num_right = np.cumsum(right[order])[cuts]
    f1 = 2 * num_right / (cuts + 1 + num_true)
    best = int(cuts[int(f1.argmax())])
    below = falling[best + 1] if best + 1 < len(falling) else 0.0
    return float((falling[best] + below) / 2)
