"""The accuracy family equals scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics

from components.errors import DataError
from components.evaluation.bootstrap import mean_intervals
from components.evaluation.calibration import calibration_bins, expected_calibration_error
from components.evaluation.classification import (
    balanced_accuracy,
    bootstrap_intervals,
    confusion_counts,
    evaluate_classification,
)


def some_probabilities(num_images: int, num_classes: int, seed: int, dtype=np.float64):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, num_classes, num_images)
    logits = rng.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 1.5
    odds = np.exp(logits)
    return (odds / odds.sum(1, keepdims=True)).astype(dtype), targets


@pytest.mark.parametrize(
    ("num_images", "num_classes"),
    [(200, 10), (37, 3), (50, 2), (5, 7)],
    ids=["many", "few classes, no top-5", "two classes", "classes without images"],
)
def test_figures_equal_scikit_learn(num_images, num_classes):
    probabilities, targets = some_probabilities(num_images, num_classes, seed=num_classes)
    classes = [f"c{i}" for i in range(num_classes)]
    result = evaluate_classification(probabilities, targets, classes, split="test", bootstrap=50)
    predicted = probabilities.argmax(1)
    labels = np.arange(num_classes)
    figures = result.figures
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(targets, predicted))
    recalls = metrics.recall_score(
        targets, predicted, labels=np.unique(targets), average="macro", zero_division=0
    )
    assert figures["balanced_accuracy"] == pytest.approx(recalls)
    assert figures["macro_f1"] == pytest.approx(
        metrics.f1_score(targets, predicted, average="macro", zero_division=0)
    )
    assert figures["log_loss"] == pytest.approx(
        metrics.log_loss(targets, probabilities, labels=labels)
    )
    for k in (3, 5):
        assert (f"top_{k}_accuracy" in figures) == (num_classes > k)
        if num_classes > k:
            assert figures[f"top_{k}_accuracy"] == pytest.approx(
                metrics.top_k_accuracy_score(targets, probabilities, k=k, labels=labels)
            )
    areas = [metrics.roc_auc_score(targets == i, probabilities[:, i]) for i in np.unique(targets)]
    assert figures["auroc"] == pytest.approx(np.mean(areas))
    shown = [row["auroc"] for row in result.details["per_class"] if "auroc" in row]
    assert shown == pytest.approx(areas)
    if len(areas) == num_classes > 2:
        assert figures["auroc"] == pytest.approx(
            metrics.roc_auc_score(targets, probabilities, multi_class="ovr")
        )
    assert result.details["confusion"] == (
        metrics.confusion_matrix(targets, predicted, labels=labels).tolist()
    )
    wanted = metrics.classification_report(
        targets, predicted, labels=labels, target_names=classes, output_dict=True, zero_division=0
    )
    for row in result.details["per_class"]:
        want = wanted[row["class"]]
        assert [row["precision"], row["recall"], row["f1"], row["num_images"]] == pytest.approx(
            [want["precision"], want["recall"], want["f1-score"], want["support"]]
        )
    json.dumps([figures, result.details], allow_nan=False)


def test_balanced_accuracy_equals_scikit_learn():
    _, targets = some_probabilities(90, 4, seed=1)
    predicted = np.random.default_rng(2).integers(0, 4, 90)
    assert balanced_accuracy(confusion_counts(predicted, targets, 4)) == pytest.approx(
        metrics.balanced_accuracy_score(targets, predicted)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_low_precision_probabilities_are_accepted(dtype):
    probabilities, targets = some_probabilities(40, 6, seed=3, dtype=dtype)
    result = evaluate_classification(probabilities, targets, list("abcdef"), split="val")
    assert 0 < result.figures["log_loss"] < 5


def test_a_certain_mistake_has_a_finite_log_loss():
    result = evaluate_classification(
        np.array([[1.0, 0.0]]), np.array([1]), ["a", "b"], split="val", bootstrap=10
    )
    assert result.figures["log_loss"] == pytest.approx(36.04, abs=0.01)
    assert (result.figures["accuracy_low"], result.figures["accuracy_high"]) == (0, 0)


def test_calibration_by_hand():
    bins = calibration_bins(
        np.array([0.92, 0.96, 0.55, 0.58, 1.0]), np.array([True, False, True, True, True]), 10
    )
    assert bins == [
        {"confidence": pytest.approx(0.565), "accuracy": 1.0, "count": 2},
        {"confidence": pytest.approx(0.96), "accuracy": pytest.approx(2 / 3), "count": 3},
    ]
    by_hand = 2 / 5 * (1 - 0.565) + 3 / 5 * (0.96 - 2 / 3)
    assert expected_calibration_error(bins) == pytest.approx(by_hand)


def test_bootstrap_equals_drawing_images_one_by_one():
    probabilities, targets = some_probabilities(120, 4, seed=5)
    predicted = probabilities.argmax(1)
    confusion = confusion_counts(predicted, targets, 4)
    rng = np.random.default_rng(0)
    drawn = {"accuracy": [], "balanced_accuracy": [], "macro_f1": []}
    for _ in range(400):
        rows = rng.integers(0, 120, 120)
        drawn["accuracy"].append(metrics.accuracy_score(targets[rows], predicted[rows]))
        drawn["balanced_accuracy"].append(
            metrics.balanced_accuracy_score(targets[rows], predicted[rows])
        )
        drawn["macro_f1"].append(metrics.f1_score(targets[rows], predicted[rows], average="macro"))
    intervals = bootstrap_intervals(confusion, 20_000, seed=1)
    for name, values in drawn.items():
        assert intervals[name] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_the_mean_of_a_figure_of_each_image_has_its_interval():
    losses = np.random.default_rng(0).exponential(size=80)
    rng = np.random.default_rng(1)
    drawn = [losses[rng.integers(0, 80, 80)].mean() for _ in range(4000)]
    got = mean_intervals({"log_loss": losses}, 4000, seed=2)
    assert got["log_loss"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)
    assert mean_intervals({"log_loss": losses}, 0, seed=2) == {}


def test_bootstrap_is_seeded_and_can_be_left_out():
    confusion = np.array([[8, 2], [1, 9]])
    assert bootstrap_intervals(confusion, 100, 3) == bootstrap_intervals(confusion, 100, 3)
    assert bootstrap_intervals(confusion, 100, 3) != bootstrap_intervals(confusion, 100, 4)
    assert bootstrap_intervals(confusion, 0, 3) == {}


def test_most_confident_mistakes_come_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.05, 0.95]])
    result = evaluate_classification(
        probabilities, np.array([0, 0, 1, 0]), ["a", "b"], split="test", bootstrap=0
    )
    assert [item.index for item in result.mistakes] == [3, 1, 2]
    worst = result.mistakes[0]
    assert (worst.target, worst.predicted) == (0, 1)
    assert (worst.confidence, worst.target_probability) == pytest.approx((0.95, 0.05))
    assert "accuracy_low" not in result.figures


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        (np.ones((2, 3)) / 3, np.array([0]), "must be"),
        (np.ones((1, 2)), np.array([0]), "sum to 1"),
        (np.array([[np.nan, 1.0]]), np.array([0]), "finite"),
        (np.array([[0.5, 0.5]]), np.array([2]), "0 … 1"),
        (np.array([[0.5, 0.5]]), np.array([0.0]), "integers"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities, targets, message):
    classes = [str(i) for i in range(probabilities.shape[1])]
    with pytest.raises(ValueError, match=message):
        evaluate_classification(probabilities, targets, classes, split="test")


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="empty"):
        evaluate_classification(np.zeros((0, 2)), np.zeros(0, int), ["a", "b"], split="test")
