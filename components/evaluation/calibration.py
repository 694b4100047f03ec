"""Whether probabilities mean what they say: the reliability curve and the error it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.bootstrap import Floats
from components.models.temperature import rescaled


def calibration_bins(
    confidence: Floats, correct: NDArray[np.bool_], num_bins: int = 15
) -> list[dict[str, Any]]:
    """Bins of equal width over the confidence, empty ones left out.

    Args:
        confidence: [N] probability of the predicted class.
        correct: [N] whether it was right.
        num_bins: 15 as in Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Returns:
        One entry a bin: mean `confidence`, `accuracy`, and `count` of images.
    """
    # A bin holds its upper edge and not its lower one; a confidence of 0 cannot be a maximum.
    edges = np.linspace(0, 1, num_bins + 1)
    bin_of = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(bin_of, minlength=num_bins)
    confidence_sum = np.bincount(bin_of, weights=confidence, minlength=num_bins)
    correct_sum = np.bincount(bin_of, weights=correct, minlength=num_bins)
    return [
        {
            "confidence": float(confidence_sum[i] / count[i]),
            "accuracy": float(correct_sum[i] / count[i]),
            "count": int(count[i]),
        }
        for i in np.flatnonzero(count)
    ]


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Distance of confidence from accuracy, mean over `calibration_bins` by images; 0 … 1."""
    total = sum(item["count"] for item in bins)
    return sum(item["count"] / total * abs(item["confidence"] - item["accuracy"]) for item in bins)


def before_temperature(
    probabilities: Floats, targets: NDArray[Any], temperature: float
) -> dict[str, Any]:
    """The calibration that the model would have without its temperature.

    Args:
        probabilities: [N, C] at the temperature.
        targets: [N] class ids, or [N, C] whether an image has the class.
        temperature: of the model.

    Returns:
        `value`, the temperature; `ece_before`, and `calibration_before` as `calibration_bins`.
    """
    multi_label = targets.ndim == 2
    plain = rescaled(probabilities, 1 / temperature, multi_label)
    if multi_label:
        bins = calibration_bins(plain.ravel(), targets.ravel().astype(bool))
    else:
        bins = calibration_bins(plain.max(axis=1), plain.argmax(axis=1) == targets)
    error = expected_calibration_error(bins)
    return {"value": temperature, "ece_before": error, "calibration_before": bins}
