"""Figures of several labels an image equal scikit-learn's."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from sklearn import metrics

from components.errors import DataError
from components.evaluation.multi_label import (
    average_precisions,
    bootstrap_intervals,
    evaluate_multi_label,
    label_figures,
    precision_recall_points,
)
from components.evaluation.plots import write_multi_label_plots


def some_labels(num_images: int, num_classes: int, seed: int, decimals: int = 8):
    """Probabilities (few decimals: many are equal) and labels that they fit by and large."""
    rng = np.random.default_rng(seed)
    truth = rng.random((num_images, num_classes)) < 0.3
    logits = rng.normal(size=truth.shape) + 2 * truth - 1
    return np.round(1 / (1 + np.exp(-logits)), decimals), truth


def scikit_learn(probabilities, truth, thresholds) -> dict[str, float]:
    """The figures, over the classes they are defined for."""
    predicted = probabilities >= thresholds
    present = truth.any(axis=0)
    either = present | predicted.any(axis=0)
    return {
        "map": metrics.average_precision_score(truth[:, present], probabilities[:, present]),
        "macro_f1": metrics.f1_score(truth[:, either], predicted[:, either], average="macro"),
        "micro_f1": metrics.f1_score(truth, predicted, average="micro", zero_division=0),
        "micro_precision": metrics.precision_score(
            truth, predicted, average="micro", zero_division=0
        ),
        "micro_recall": metrics.recall_score(truth, predicted, average="micro", zero_division=0),
        "exact_match": metrics.accuracy_score(truth, predicted),
        "hamming_loss": metrics.hamming_loss(truth, predicted),
    }


def scikit_learn_of_probabilities(probabilities, truth) -> dict[str, float]:
    mixed = truth.any(axis=0) & ~truth.all(axis=0)
    return {
        "auroc": metrics.roc_auc_score(truth[:, mixed], probabilities[:, mixed]),
        "log_loss": metrics.log_loss(truth.ravel(), probabilities.ravel().astype(float)),
    }


@pytest.mark.parametrize(
    ("num_images", "num_classes", "decimals"),
    [(200, 6, 8), (150, 3, 1), (8, 12, 8), (40, 2, 0)],
    ids=["plenty", "equal scores", "classes without images", "nothing but ties"],
)
def test_figures_equal_scikit_learn(num_images, num_classes, decimals):
    probabilities, truth = some_labels(num_images, num_classes, num_classes, decimals)
    thresholds = np.linspace(0.3, 0.7, num_classes)
    classes = [f"c{i}" for i in range(num_classes)]
    result = evaluate_multi_label(
        probabilities, truth, classes, thresholds, split="test", bootstrap=20
    )
    wanted = scikit_learn(probabilities, truth, thresholds)
    wanted |= scikit_learn_of_probabilities(probabilities, truth)
    assert {**result.details["headline"], "ece": 0} == pytest.approx({**wanted, "ece": 0})
    assert {name: result.figures[name] for name in wanted} == pytest.approx(wanted)
    assert (result.figures["split"], result.figures["num_images"]) == ("test", num_images)
    predicted = probabilities >= thresholds
    columns = metrics.precision_recall_fscore_support(truth, predicted, zero_division=0)
    counts = metrics.multilabel_confusion_matrix(truth, predicted)
    for i, row in enumerate(result.details["per_class"]):
        found = [row["precision"], row["recall"], row["f1"], row["num_images"]]
        assert found == pytest.approx([column[i] for column in columns])
        assert (row["num_false"], row["num_missed"]) == (counts[i, 0, 1], counts[i, 1, 0])
        assert (row["ap"] is None) == (not truth[:, i].any())
        if row["ap"] is not None:
            ap = metrics.average_precision_score(truth[:, i], probabilities[:, i])
            assert row["ap"] == pytest.approx(ap)
    json.dumps([result.figures, result.details], allow_nan=False)


def test_average_precision_by_hand():
    # Ranked: right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1.
    found = average_precisions(np.array([[0.9], [0.5], [0.4]]), np.array([[1], [0], [1]], bool))
    assert found == pytest.approx([(1 + 2 / 3) / 2])


def test_images_without_a_label_count():
    truth = np.array([[True, False], [False, False]])
    figures = label_figures(truth.copy(), truth)
    assert figures["exact_match"] == 1 and figures["hamming_loss"] == 0
    figures = label_figures(np.array([[True, False], [False, True]]), truth)
    assert figures["exact_match"] == 0.5 and figures["hamming_loss"] == 0.25
    nothing = np.zeros((2, 2), bool)
    assert label_figures(nothing, nothing)["micro_f1"] == 0


def test_intervals_are_quantiles_of_figures_of_repeated_images():
    probabilities, truth = some_labels(30, 3, seed=5, decimals=1)
    thresholds = np.full(3, 0.5)
    draws = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=12)
    drawn: dict[str, list[float]] = {}
    for counts in draws:
        rows = np.repeat(np.arange(30), counts)
        for name, value in scikit_learn(probabilities[rows], truth[rows], thresholds).items():
            drawn.setdefault(name, []).append(value)
    intervals = bootstrap_intervals(probabilities, probabilities >= 0.5, truth, 12, seed=1)
    assert set(intervals) == {"map", *label_figures(truth, truth)}
    for name, interval in intervals.items():
        assert interval == pytest.approx(np.quantile(drawn[name], [0.025, 0.975])), name


def test_bootstrap_is_seeded_and_can_be_left_out():
    probabilities, truth = some_labels(30, 2, seed=0)
    arguments = probabilities, probabilities >= 0.5, truth
    assert bootstrap_intervals(*arguments, 50, 3) == bootstrap_intervals(*arguments, 50, 3)
    assert bootstrap_intervals(*arguments, 50, 3) != bootstrap_intervals(*arguments, 50, 4)
    assert bootstrap_intervals(*arguments, 0, 3) == {}


def test_a_curve_keeps_points_of_the_whole_one():
    probabilities, truth = some_labels(3000, 1, seed=2)
    points = precision_recall_points(probabilities[:, 0], truth[:, 0])
    precision, recall, _ = metrics.precision_recall_curve(truth[:, 0], probabilities[:, 0])
    whole = set(zip(recall.tolist(), precision.tolist(), strict=True))
    assert len(points) <= 101 and all(tuple(point) in whole for point in points)
    recalls = [point[0] for point in points]
    assert recalls == sorted(recalls) and (recalls[0], recalls[-1]) == (0, 1)
    assert metrics.auc(recalls, [point[1] for point in points]) == pytest.approx(
        metrics.average_precision_score(truth[:, 0], probabilities[:, 0]), abs=0.01
    )


def test_the_surest_wrong_decision_comes_first(tmp_path):
    probabilities = np.array([[0.6, 0.9], [0.1, 0.2], [0.05, 0.99], [0.7, 0.7]])
    truth = np.array([[1, 0], [0, 0], [1, 1], [0, 0]])
    result = evaluate_multi_label(
        probabilities, truth, ["a", "b"], (0.5, 0.5), split="val", bootstrap=0
    )
    missed, false, both = result.mistakes
    assert (missed.index, false.index, both.index) == (2, 0, 3)
    assert (missed.missed_ids, missed.correct_ids, missed.false_ids) == ((0,), (1,), ())
    assert missed.confidence == pytest.approx(0.95)
    assert (false.false_ids, both.false_ids) == ((1,), (0, 1))
    assert "map_low" not in result.figures

    write_multi_label_plots(tmp_path, result, truth, ["a", "b"])

    def rows(name: str) -> list[list[str]]:
        return list(csv.reader((tmp_path / f"{name}.csv").read_text().splitlines()))

    assert rows("confusion") == [
        ["actual", "predicted"],
        ["a", "a"],
        ["(absent)", "b"],
        ["a", "(absent)"],
        ["b", "b"],
        ["(absent)", "a"],
        ["(absent)", "b"],
    ]
    assert rows("calibration")[0] == ["confidence", "accuracy", "count"]
    assert sum(int(row[2]) for row in rows("calibration")[1:]) == truth.size
    assert {row[0] for row in rows("precision_recall")[1:]} == {"a", "b"}


@pytest.mark.parametrize(
    ("probabilities", "targets", "thresholds", "error", "message"),
    [
        (np.ones((2, 3)) / 3, np.zeros(2), (0.5,) * 3, ValueError, r"must both be \[N, C\]"),
        (np.ones((1, 2)), np.array([[1, 0]]), (0.5,), ValueError, "1 thresholds do not fit 2"),
        (np.array([[1.2, 0]]), np.array([[1, 0]]), (0.5,) * 2, ValueError, "0 … 1"),
        (np.array([[np.nan, 0]]), np.array([[1, 0]]), (0.5,) * 2, ValueError, "0 … 1"),
        (np.array([[0.5, 0]]), np.array([[2, 0]]), (0.5,) * 2, ValueError, "0 or 1"),
        (np.ones((3, 2)), np.zeros((3, 2)), (0.5,) * 2, DataError, "3 images and no label"),
    ],
)
def test_what_cannot_be_measured_is_refused(probabilities, targets, thresholds, error, message):
    with pytest.raises(error, match=message):
        evaluate_multi_label(probabilities, targets, ["a", "b"], thresholds, split="test")
