"""Intervals of AUROC and calibration error equal drawing images one by one."""

import numpy as np
import pytest
from test_classification_figures import some_probabilities
from test_multi_label_figures import some_labels

from components.evaluation import roc_areas
from components.evaluation.bootstrap import drawn_weights
from components.evaluation.calibration import (
    calibration_bins,
    calibration_interval,
    expected_calibration_error,
)
from components.evaluation.classification import evaluate_classification
from components.evaluation.multi_label import evaluate_multi_label
from components.evaluation.roc_areas import areas_under_roc, auroc_interval

LABELLED = {
    "one label": some_probabilities(60, 4, seed=1),
    "equal probabilities": (some_probabilities(60, 3, seed=2)[0].round(1), np.arange(60) % 3),
    "several labels": some_labels(50, 5, seed=3),
    "several labels, ties": some_labels(50, 5, seed=4, decimals=1),
    "a class on no image": some_labels(6, 9, seed=5),
}


def drawn_rows(count: int, num_resamples: int, seed: int):
    (weights,) = drawn_weights(count, num_resamples, seed)
    return [np.repeat(np.arange(count), row.astype(int)) for row in weights]


@pytest.mark.parametrize(("probabilities", "targets"), LABELLED.values(), ids=LABELLED.keys())
def test_auroc_interval_is_of_the_areas_of_drawn_images(probabilities, targets, monkeypatch):
    monkeypatch.setattr(roc_areas, "FEWEST_RESAMPLES", 12)
    with np.errstate(all="raise"):
        got = auroc_interval(probabilities, targets, 12, seed=7)["auroc"]
    means = [
        np.nanmean(areas_under_roc(probabilities[rows], targets[rows]))
        for rows in drawn_rows(len(targets), 12, 7)
    ]
    assert got == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=1e-12)


def test_auroc_interval_is_left_out_where_it_cannot_be(monkeypatch):
    probabilities, targets = some_probabilities(60, 4, seed=1)
    assert auroc_interval(probabilities, np.zeros(60, int), 200, 0) == {}
    assert auroc_interval(probabilities, targets, 0, 0) == {}
    monkeypatch.setattr(roc_areas, "MAX_WORK", 99 * probabilities.size)
    assert auroc_interval(probabilities, targets, 200, 0) == {}


@pytest.mark.parametrize(("probabilities", "targets"), LABELLED.values(), ids=LABELLED.keys())
def test_calibration_interval_is_of_drawn_images_about_the_figure(probabilities, targets):
    confidence, correct = probabilities, targets
    if targets.ndim == 1:
        confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    low, high = calibration_interval(confidence, correct, 200, seed=3)["ece"]

    def error(rows):
        return expected_calibration_error(
            calibration_bins(confidence[rows].ravel(), correct[rows].ravel())
        )

    figure = error(slice(None))
    ends = np.quantile([error(rows) for rows in drawn_rows(len(targets), 200, 3)], [0.975, 0.025])
    basic = 2 * figure - ends
    assert low == pytest.approx(np.clip(basic[0], 0, figure), abs=1e-12)
    assert high == pytest.approx(max(basic[1], figure), abs=1e-12)
    assert calibration_interval(confidence, correct, 0, seed=3) == {}


def test_a_calibrated_model_may_have_no_error_at_all():
    """Plain quantiles would begin above the truth, since chance alone makes resamples worse."""
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 400)
    low, high = calibration_interval(confidence, rng.random(400) < confidence, 500, seed=1)["ece"]
    assert low < 0.01 < 0.02 < high < 0.08


@pytest.mark.parametrize("several", [False, True])
def test_every_figure_has_an_interval_that_holds_it(several):
    probabilities, targets = (some_labels if several else some_probabilities)(80, 4, seed=1)
    if several:
        result = evaluate_multi_label(
            probabilities, targets, list("abcd"), [0.5] * 4, split="t", bootstrap=100
        )
    else:
        result = evaluate_classification(
            probabilities, targets, list("abcd"), split="t", bootstrap=100
        )
    headline, intervals = result.details["headline"], result.details["intervals"]
    assert set(intervals) == set(headline)
    assert all(low <= headline[name] <= high for name, (low, high) in intervals.items())
