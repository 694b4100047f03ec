"""The accuracy family: figures of a classifier from the probabilities it gave.

Shapes: N images, C classes, R resamples, K cells of the confusion matrix that are not empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import (
    precision_recall_fscore_support,
    roc_auc_score,
)

from components.errors import DataError
from components.evaluation.bootstrap import (
    Floats,
    Interval,
    drawn_counts,
    mean_intervals,
    percentile_interval,
)
from components.evaluation.calibration import (
    before_temperature,
    calibration_bins,
    expected_calibration_error,
)
from components.evaluation.slices import make_slices, measure_slices

Integers = NDArray[np.integer[Any]]

# The metric that decides, and the one `metrics/evaluate.json` gives an interval of.
MAIN_METRIC = "accuracy"

# Whether the true class is among the k most probable ones, where there are more classes than k.
TOP_K = (3, 5)


@dataclass(frozen=True)
class ClassificationMistake:
    """An image whose most probable class is not its own.

    Args:
        index: row of `probabilities`.
        target: id of the true class.
        predicted: id of the most probable class.
        confidence: probability of `predicted`.
        target_probability: probability of `target`.
    """

    index: int
    target: int
    predicted: int
    confidence: float
    target_probability: float


@dataclass(frozen=True)
class ClassificationResult:
    """All that is known about a classifier on one split.

    Args:
        figures: flat, for `metrics/evaluate.json`.
        details: for `reports/evaluation/details.json`; `mistakes` stays empty
            until pictures are drawn.
        predicted: [N] id of the most probable class.
        mistakes: every mistake, the most confident first.
    """

    figures: dict[str, Any]
    details: dict[str, Any]
    predicted: NDArray[np.int64]
    mistakes: tuple[ClassificationMistake, ...]


def evaluate_classification(
    probabilities: Floats,
    targets: Integers,
    classes: Sequence[str],
    *,
    split: str,
    temperature: float = 1.0,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ClassificationResult:
    """Measure a single-label classifier.

    Args:
        probabilities: [N, C], rows that sum to 1.
        targets: [N] ids of the true classes, 0 … C-1.
        classes: the C names, in the order of the ids.
        split: name of the images measured, for the record.
        temperature: that the probabilities were made at; the calibration before it is told too.
        columns: for slices, name to a value for each image.
        bootstrap: resamples for the 95 % intervals; 0 for none.
        seed: of the resampling.

    Raises:
        DataError: there is no image.
        ValueError: the arrays do not fit each other or hold something that is no probability.
    """
    probabilities, targets = _checked(probabilities, targets, len(classes))
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    confusion = confusion_counts(predicted, targets, len(classes))
    bins = calibration_bins(confidence, predicted == targets)

    right = predicted == targets
    losses = log_losses(probabilities, targets)
    areas = areas_under_roc(probabilities, targets)
    in_top = {
        f"top_{k}_accuracy": in_top_k(probabilities, targets, k) for k in TOP_K if k < len(classes)
    }
    headline = {
        "accuracy": float(right.mean()),
        "balanced_accuracy": balanced_accuracy(confusion),
        "macro_f1": macro_f1(confusion),
        **{name: float(column.mean()) for name, column in in_top.items()},
        **({} if np.isnan(areas).all() else {"auroc": float(np.nanmean(areas))}),
        "log_loss": float(losses.mean()),
        "ece": expected_calibration_error(bins),
    }
    intervals = {
        **bootstrap_intervals(confusion, bootstrap, seed),
        **mean_intervals({**in_top, "log_loss": losses}, bootstrap, seed),
    }

    def measure(images: Integers, weights: Floats) -> Floats:
        return weights @ right[images] / weights.sum(axis=1)

    figures: dict[str, Any] = {"split": split, "num_images": len(targets), **headline}
    if MAIN_METRIC in intervals:
        figures[f"{MAIN_METRIC}_low"], figures[f"{MAIN_METRIC}_high"] = intervals[MAIN_METRIC]
    details = {
        "task": "classification",
        "split": split,
        "num_images": len(targets),
        "classes": list(classes),
        "headline": headline,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "per_class": per_class_figures(predicted, targets, areas, classes),
        "confusion": confusion.tolist(),
        "calibration": bins,
        "temperature": before_temperature(probabilities, targets, temperature),
        "slices": measure_slices(make_slices(columns or {}), measure, bootstrap, seed),
        "mistakes": [],
    }
    return ClassificationResult(
        figures, details, predicted, most_confident_mistakes(probabilities, targets)
    )


def _checked(
    probabilities: Floats, targets: Integers, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    probabilities = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    if targets.ndim != 1 or probabilities.shape != (len(targets), num_classes):
        raise ValueError(
            f"probabilities {probabilities.shape} must be [N, C] for targets {targets.shape} "
            f"and {num_classes} classes"
        )
    if len(targets) == 0:
        raise DataError("no image to measure on: the split is empty")
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"targets must be class ids (integers), not {targets.dtype}")
    if targets.min() < 0 or targets.max() >= num_classes:
        raise ValueError(f"targets must lie in 0 … {num_classes - 1}")
    sums = probabilities.sum(axis=1, keepdims=True)
    # Half precision softmax is off by up to about 1e-3; logits are off by far more.
    if not (
        np.isfinite(sums).all() and (probabilities >= 0).all() and np.allclose(sums, 1, 0, 1e-2)
    ):
        raise ValueError("probabilities must be finite, not negative, and sum to 1 in every row")
    return probabilities / sums, targets.astype(np.int64)


def confusion_counts(predicted: Integers, targets: Integers, num_classes: int) -> NDArray[np.int64]:
    """[C, C] numbers of images: rows are the actual classes, columns the predicted ones."""
    cells = np.asarray(targets, dtype=np.int64) * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(confusion: Integers) -> float:
    """Mean recall over the classes that have images. `confusion`: [C, C] counts."""
    support = confusion.sum(axis=1)
    present = support > 0
    return float((confusion.diagonal()[present] / support[present]).mean())


def macro_f1(confusion: Integers) -> float:
    """Mean F1 over the classes that have images or were predicted. `confusion`: [C, C] counts."""
    either = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * confusion.diagonal()[either > 0] / either[either > 0]).mean())


def log_losses(probabilities: Floats, targets: Integers) -> NDArray[np.float64]:
    """[N] -ln(probability of the true class), in nats; probabilities below 2e-16 count as that.

    Args:
        probabilities: [N, C].
        targets: [N] class ids.
    """
    of_target = np.asarray(probabilities, dtype=np.float64)[np.arange(len(targets)), targets]
    tiny = np.finfo(np.float64).eps
    return -np.log(of_target.clip(tiny, 1 - tiny))


def in_top_k(probabilities: Floats, targets: Integers, k: int) -> NDArray[np.bool_]:
    """[N] whether the true class is among the k most probable; of equal ones the higher id first.

    Args:
        probabilities: [N, C].
        targets: [N] class ids.
        k: 1 to C.
    """
    best = np.argsort(probabilities, axis=1, kind="stable")[:, -k:]
    return (best == np.asarray(targets)[:, None]).any(axis=1)


def areas_under_roc(probabilities: Floats, targets: NDArray[Any]) -> NDArray[np.float64]:
    """[C] area under each class's ROC curve against all others; NaN without images of both.

    Args:
        probabilities: [N, C].
        targets: [N] class ids, or [N, C] whether an image has the class.
    """
    targets = np.asarray(targets)
    areas = np.full(probabilities.shape[1], np.nan)
    for k in range(len(areas)):
        truth = targets == k if targets.ndim == 1 else targets[:, k]
        if truth.any() and not truth.all():
            areas[k] = roc_auc_score(truth, probabilities[:, k])
    return areas


def per_class_figures(
    predicted: Integers, targets: Integers, areas: Floats, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, 0 where undefined; its `areas_under_roc`, absent
    where undefined; and how many images it has.
    """
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=np.arange(len(classes)), zero_division=0
    )
    return [
        {
            "class": name,
            "num_images": int(support[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            **({} if np.isnan(areas[i]) else {"auroc": float(areas[i])}),
        }
        for i, name in enumerate(classes)
    ]


def bootstrap_intervals(confusion: Integers, num_resamples: int, seed: int) -> dict[str, Interval]:
    """95 % intervals of `accuracy`, `balanced_accuracy` and `macro_f1` by bootstrap over images.

    Drawing N images with replacement and counting them is drawing the confusion matrix from a
    multinomial distribution over its cells, so no image is drawn one by one.

    Args:
        confusion: [C, C] counts.
        num_resamples: R; with 0 there is no interval.
        seed: the same seed gives the same intervals.

    Returns:
        Name to (low, high): the 2.5 % and 97.5 % quantiles of the resamples.
    """
    if num_resamples == 0:
        return {}
    num_classes = len(confusion)
    actual, predicted = np.nonzero(confusion)
    total = int(confusion.sum())
    shares = confusion[actual, predicted] / total
    one = np.ones(len(actual))
    cells = np.arange(len(actual))
    shape = (len(actual), num_classes)
    to_actual = sparse.csr_array((one, (cells, actual)), shape=shape)
    to_predicted = sparse.csr_array((one, (cells, predicted)), shape=shape)
    right = (actual == predicted).astype(np.float64)
    to_right = sparse.csr_array((right, (cells, actual)), shape=shape)

    values: dict[str, list[Floats]] = {"accuracy": [], "balanced_accuracy": [], "macro_f1": []}
    for drawn in drawn_counts(total, shares, num_resamples, seed, num_classes):  # [r, K]
        num_actual = drawn @ to_actual  # [R, C]
        num_right = drawn @ to_right
        num_either = num_actual + drawn @ to_predicted
        values["accuracy"].append(num_right.sum(axis=1) / total)
        values["balanced_accuracy"].append(_mean_where(num_right, num_actual))
        values["macro_f1"].append(_mean_where(2 * num_right, num_either))
    found = {name: percentile_interval(np.concatenate(parts)) for name, parts in values.items()}
    return {name: interval for name, interval in found.items() if interval}


def _mean_where(numerator: Floats, denominator: Floats) -> Floats:
    """[R] mean of numerator / denominator over the columns whose denominator is not 0."""
    present = denominator > 0
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=present)
    return ratio.sum(axis=1) / present.sum(axis=1)


def most_confident_mistakes(
    probabilities: Floats, targets: Integers
) -> tuple[ClassificationMistake, ...]:
    """Every wrongly classified image, the most confident mistake first, ties by row.

    Args:
        probabilities: [N, C].
        targets: [N] class ids.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return tuple(
        ClassificationMistake(
            index=int(i),
            target=int(targets[i]),
            predicted=int(predicted[i]),
            confidence=float(confidence[i]),
            target_probability=float(probabilities[i, targets[i]]),
        )
        for i in order
    )
