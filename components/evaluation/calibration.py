"""Whether probabilities mean what they say: the reliability curve and the error it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.bootstrap import Floats, Interval, drawn_weights, percentile_interval
from components.models.temperature import rescaled

# As in Guo et al., "On Calibration of Modern Neural Networks", 2017.
NUM_BINS = 15


def calibration_bins(
    confidence: Floats, correct: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Bins of equal width over the confidence, empty ones left out.

    Args:
        confidence: [N] probability of the predicted class.
        correct: [N] whether it was right.
        num_bins: of equal width.

    Returns:
        One entry a bin: mean `confidence`, `accuracy`, and `count` of images.
    """
    bin_of = _bin_of(confidence, num_bins)
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


def _bin_of(confidence: Floats, num_bins: int = NUM_BINS) -> NDArray[np.intp]:
    # A bin holds its upper edge and not its lower one; a confidence of 0 cannot be a maximum.
    edges = np.linspace(0, 1, num_bins + 1)
    return np.searchsorted(edges[1:-1], confidence, side="left")


def expected_calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Distance of confidence from accuracy, mean over `calibration_bins` by images; 0 … 1."""
    total = sum(item["count"] for item in bins)
    return sum(item["count"] / total * abs(item["confidence"] - item["accuracy"]) for item in bins)


def calibration_interval(
    confidence: Floats, correct: NDArray[np.bool_], num_resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % interval of the `expected_calibration_error` by bootstrap over images.

    An error of absolute values grows with chance alone, in a resample once more: the resamples lie
    above the figure by about as much as the figure lies above the truth. So the interval is the
    basic one, their deviations taken from the figure (Davison and Hinkley 1997, section 5.2), cut
    at 0 and made to hold the figure.

    Args:
        confidence: [N], or [N, C] of several labels an image.
        correct: of the same shape.
        num_resamples: R; with 0 there is no interval.
        seed: of the resampling.

    Returns:
        `ece`.
    """
    num_images = len(confidence)
    labels = confidence.reshape(num_images, -1)
    gaps = labels - correct.reshape(labels.shape)
    bin_of = _bin_of(labels)
    # Of each image and bin, [N, bins]: a resample's bins are sums over images.
    of_image = np.stack(
        [np.where(bin_of == i, gaps, 0).sum(axis=1) for i in range(NUM_BINS)], axis=1
    )
    figure = np.abs(of_image.sum(axis=0)).sum() / labels.size
    values = [
        np.abs(weights @ of_image).sum(axis=1) / labels.size
        for weights in drawn_weights(num_images, num_resamples, seed)
    ]
    interval = percentile_interval(np.concatenate(values)) if values else None
    if interval is None:
        return {}
    low, high = (float(2 * figure - end) for end in reversed(interval))
    return {"ece": (min(max(low, 0.0), float(figure)), max(high, float(figure)))}


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
