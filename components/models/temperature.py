"""Temperature scaling: one number that makes a classifier's probabilities say what they mean.

Logits are divided by the temperature before softmax or sigmoid: above 1 it makes a model less
sure. No image changes its class. After Guo et al., "On Calibration of Modern Neural Networks",
2017.

Shapes: N images, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

Floats = NDArray[np.floating[Any]]

# A model that errs on no validation image would want 0, and be infinitely sure of its next error.
LOWEST, HIGHEST = 0.25, 10.0
_TINY = 1e-38  # of float32: smaller probabilities are written as 0


def fit_temperature(probabilities: Floats, targets: NDArray[Any]) -> float:
    """The temperature with the smallest log loss on these images.

    Args:
        probabilities: [N, C] at temperature 1.
        targets: [N] class ids, of a softmax; or [N, C] of 0 and 1, of sigmoids.

    Returns:
        Between `LOWEST` and `HIGHEST`; 1 where no other does better.

    Raises:
        ValueError: the shapes do not fit, or a probability is none.
    """
    given: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    if given.ndim != 2 or targets.shape not in (
        given.shape,
        given.shape[:1],
    ):
        raise ValueError(
            f"probabilities {given.shape} must be [N, C], targets {targets.shape} [N] or [N, C]"
        )
    if not ((given >= 0) & (given <= 1)).all():  # NaN is neither
        raise ValueError("probabilities must lie in 0 … 1")
    if not len(targets):
        return 1.0
    multi_label = targets.ndim == 2
    logits = _logits(given, multi_label)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        if multi_label:
            return -float(log_expit(np.where(targets.astype(bool), scaled, -scaled)).mean())
        rows = np.arange(len(targets))
        return -float(log_softmax(scaled, axis=1)[rows, targets].mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def rescaled(probabilities: Floats, temperature: float, multi_label: bool = False) -> Floats:
    """Probabilities [N, C] as they would be had their logits been divided by `temperature` more."""
    logits = _logits(np.asarray(probabilities, np.float64), multi_label) / temperature
    return expit(logits) if multi_label else softmax(logits, axis=1)


def _logits(probabilities: NDArray[np.float64], multi_label: bool) -> NDArray[np.float64]:
    """Logits that give these probabilities; of a softmax up to a constant for each image."""
    logs = np.log(probabilities.clip(_TINY))
    # 1 - p of a float32 is a multiple of 6e-8.
    return logs - np.log((1 - probabilities).clip(1e-8)) if multi_label else logs
