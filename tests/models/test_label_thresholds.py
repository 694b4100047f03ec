"""Thresholds of several labels an image: no other cut of the same images has a better F1."""

from __future__ import annotations

import numpy as np
import pytest

from components.models.label_thresholds import DEFAULT, best_f1_thresholds


def f1(labels, predicted) -> float:
    right = int((labels & predicted).sum())
    return 2 * right / int(labels.sum() + predicted.sum())


@pytest.mark.parametrize("decimals", [6, 1], ids=["all apart", "many equal"])
def test_no_other_threshold_is_better(decimals):
    rng = np.random.default_rng(1)
    truth = rng.random((60, 4)) < [0.5, 0.1, 0.9, 0.3]
    probabilities = np.round(
        (rng.random(truth.shape) + truth * rng.random(truth.shape)) / 2, decimals
    )
    for number, threshold in enumerate(best_f1_thresholds(probabilities, truth)):
        column, labels = probabilities[:, number], truth[:, number]
        tried = [f1(labels, column >= cut) for cut in np.unique(column)]
        assert f1(labels, column >= threshold) == pytest.approx(max(tried))
        assert threshold not in column  # rounding cannot move an image over it


@pytest.mark.parametrize(
    ("probabilities", "truth", "wanted"),
    [
        ([0.9, 0.7, 0.2], [1, 1, 0], 0.45),
        ([0.02, 0.01, 0.9], [1, 0, 1], 0.015),
        ([0.9, 0.8, 0.6], [1, 0, 0], 0.85),
        ([0.2, 0.8, 0.9], [1, 0, 0], 0.1),
        ([0.5, 0.5], [1, 0], 0.25),
        ([0.9, 0.7], [0, 0], DEFAULT),
        ([0.3, 0.2], [1, 1], DEFAULT),
    ],
    ids=["half way", "low", "high", "all of them", "equal", "on no image", "on every image"],
)
def test_by_hand(probabilities, truth, wanted):
    found = best_f1_thresholds(np.array([probabilities]).T, np.array([truth]).T)
    assert found == pytest.approx((wanted,))


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"must both be \[N, C\]"):
        best_f1_thresholds(np.zeros((3, 2)), np.zeros(3))
