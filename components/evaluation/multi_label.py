"""Figures of a classifier whose images have any number of labels, from the probabilities it gave.

Shapes: N images, C classes, R resamples, G groups of images that a class's probability tells apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from components.errors import DataError
from components.evaluation.bootstrap import (
    Floats,
    Interval,
    drawn_weights,
    mean_defined,
    mean_intervals,
    percentile_interval,
)
from components.evaluation.calibration import (
    before_temperature,
    calibration_bins,
    calibration_interval,
    expected_calibration_error,
)
from components.evaluation.roc_areas import areas_under_roc, auroc_interval
from components.evaluation.slices import make_slices, measure_slices

Bools = NDArray[np.bool_]

# The metric that decides, and the one `metrics/evaluate.json` gives an interval of.
MAIN_METRIC = "map"

_CURVE_POINTS = 101  # of a precision-recall curve that is kept


@dataclass(frozen=True)
class MultiLabelMistake:
    """An image with a label too many or too few.

    Args:
        index: row of `probabilities`.
        false_ids: classes that were predicted and are not there, the surest first.
        missed_ids: classes that are there and were not predicted, the surest first.
        correct_ids: classes that are there and were predicted.
        confidence: of the surest wrong decision: the probability of a false label, or one minus
            that of a missed one.
    """

    index: int
    false_ids: tuple[int, ...]
    missed_ids: tuple[int, ...]
    correct_ids: tuple[int, ...]
    confidence: float


@dataclass(frozen=True)
class MultiLabelResult:
    """All that is known about a multi-label classifier on one split.

    Args:
        figures: flat, for `metrics/evaluate.json`.
        details: for `reports/evaluation/details.json`; `mistakes` stays empty until pictures are
            drawn.
        predicted: [N, C] whether a class was predicted.
        mistakes: every image that is not wholly right, the surest wrong decision first.
    """

    figures: dict[str, Any]
    details: dict[str, Any]
    predicted: Bools
    mistakes: tuple[MultiLabelMistake, ...]


def evaluate_multi_label(
    probabilities: Floats,
    targets: NDArray[Any],
    classes: Sequence[str],
    thresholds: Sequence[float],
    *,
    split: str,
    temperature: float = 1.0,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> MultiLabelResult:
    """Measure a multi-label classifier.

    `map` is the mean of the classes' average precision, over the classes that have images; the
    other figures are of what is predicted at the thresholds.

    Args:
        probabilities: [N, C], each 0 to 1.
        targets: [N, C] of 0 and 1, or bool.
        classes: the C names.
        thresholds: C; a class is predicted where its probability is at least that.
        split: name of the images measured, for the record.
        temperature: that the probabilities were made at; the calibration before it is told too.
        columns: for slices, name to a value for each image.
        bootstrap: resamples for the 95 % intervals; 0 for none.
        seed: of the resampling.

    Raises:
        DataError: there is no image, or none has a label.
        ValueError: the arrays do not fit each other or hold something that is no probability.
    """
    probabilities, truth = _checked(probabilities, targets, len(classes), len(thresholds), split)
    predicted = probabilities >= np.asarray(thresholds, dtype=np.float64)
    precision_of_class = average_precisions(probabilities, truth)
    areas = areas_under_roc(probabilities, truth)
    bins = calibration_bins(probabilities.ravel(), truth.ravel())
    losses = label_log_losses(probabilities, truth)
    headline = {
        MAIN_METRIC: float(np.nanmean(precision_of_class)),
        **label_figures(predicted, truth),
        **({} if np.isnan(areas).all() else {"auroc": float(np.nanmean(areas))}),
        "log_loss": float(losses.mean()),
        "ece": expected_calibration_error(bins),
    }

    def measure(images: NDArray[np.int64], weights: Floats) -> Floats:
        return mean_defined(class_precisions(probabilities[images], truth[images], weights.T))

    intervals = {
        **bootstrap_intervals(probabilities, predicted, truth, bootstrap, seed),
        **auroc_interval(probabilities, truth, bootstrap, seed),
        **mean_intervals({"log_loss": losses}, bootstrap, seed),
        **calibration_interval(probabilities, truth, bootstrap, seed),
    }
    figures: dict[str, Any] = {"split": split, "num_images": len(truth), **headline}
    if MAIN_METRIC in intervals:
        figures[f"{MAIN_METRIC}_low"], figures[f"{MAIN_METRIC}_high"] = intervals[MAIN_METRIC]
    details = {
        "task": "classification",
        "multi_label": True,
        "split": split,
        "num_images": len(truth),
        "classes": list(classes),
        "headline": headline,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "per_class": per_class_figures(
            predicted, truth, precision_of_class, areas, thresholds, classes
        ),
        "precision_recall": {
            name: precision_recall_points(probabilities[:, i], truth[:, i])
            for i, name in enumerate(classes)
            if truth[:, i].any()
        },
        "calibration": bins,
        "temperature": before_temperature(probabilities, truth, temperature),
        "slices": measure_slices(make_slices(columns or {}), measure, bootstrap, seed),
        "mistakes": [],
    }
    return MultiLabelResult(
        figures, details, predicted, surest_mistakes(probabilities, predicted, truth)
    )


def _checked(
    probabilities: Floats, targets: NDArray[Any], num_classes: int, num_thresholds: int, split: str
) -> tuple[NDArray[np.float64], Bools]:
    given: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    if targets.ndim != 2 or given.shape != targets.shape:
        raise ValueError(
            f"probabilities {given.shape} and targets {targets.shape} must both be [N, C]"
        )
    if targets.shape[1] != num_classes or num_thresholds != num_classes:
        raise ValueError(
            f"targets {targets.shape} and {num_thresholds} thresholds do not fit "
            f"{num_classes} classes"
        )
    if not ((targets == 0) | (targets == 1)).all():
        raise ValueError("targets must be 0 or 1")
    if not ((given >= 0) & (given <= 1)).all():  # NaN is neither
        raise ValueError("probabilities must lie in 0 … 1")
    if not targets.any():
        raise DataError(
            f"the {split} split has {len(targets)} images and no label, so there is nothing to "
            "measure: choose another evaluate.split, or change the data's splits"
        )
    truth: Bools = targets.astype(bool)
    return given, truth


def average_precisions(probabilities: Floats, truth: Bools) -> NDArray[np.float64]:
    """Area under each class's precision-recall curve, as a sum of steps: [C], NaN without images.

    Args:
        probabilities: [N, C].
        truth: [N, C].
    """
    return class_precisions(probabilities, truth, np.ones((len(truth), 1)))[0]


def class_precisions(probabilities: Floats, truth: Bools, weights: Floats) -> NDArray[np.float64]:
    """[R, C] `average_precisions` under R weightings [N, R] of the images."""
    columns = zip(probabilities.T, truth.T, strict=True)
    return np.stack([_weighted_precision(*column, weights) for column in columns], axis=1)


def _weighted_precision(
    probabilities: Floats, truth: Bools, weights: Floats
) -> NDArray[np.float64]:
    """A class's average precision under R weightings of the images: [R], NaN where none is left.

    Args:
        probabilities: [N].
        truth: [N].
        weights: [N, R].
    """
    if not truth.any():
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-probabilities, kind="stable")
    falling, right = probabilities[order], truth[order]
    # A group ends with the last of equal probabilities. The curve steps where recall grows, so
    # that only groups with a true image count, and what lies between them is put to the next one.
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True))
    num_right = np.cumsum(right)[ends]
    ends = ends[np.diff(num_right, prepend=0) > 0]
    starts = np.append(0, ends[:-1] + 1)
    drawn = weights[order][: ends[-1] + 1]
    num_all = np.add.reduceat(drawn, starts, axis=0).cumsum(axis=0)  # [G, R]
    gained = np.add.reduceat(drawn * right[: len(drawn), None], starts, axis=0)
    num_true = gained.cumsum(axis=0)
    precision = np.divide(num_true, num_all, out=np.zeros_like(num_true), where=num_all > 0)
    total = num_true[-1]
    area = (precision * gained).sum(axis=0)
    return np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0)


def label_figures(predicted: Bools, truth: Bools) -> dict[str, float]:
    """Figures of predictions and truth, both [N, C].

    Returns:
        `macro_f1`: mean over the classes that have images or were predicted. `micro_f1`,
        `micro_precision`, `micro_recall`: over all labels alike; 0 where undefined.
        `exact_match`: share of images that are wholly right. `hamming_loss`: share of the N x C
        decisions that are wrong.
    """
    counts = [float(item.sum()) for item in (predicted & truth, predicted, truth)]
    ones = np.ones((len(truth), 1))
    return {
        "macro_f1": float(_macro_f1(predicted, truth, ones)[0]),
        "micro_f1": _ratio(2 * counts[0], counts[1] + counts[2]),
        "micro_precision": _ratio(counts[0], counts[1]),
        "micro_recall": _ratio(counts[0], counts[2]),
        "exact_match": float((predicted == truth).all(axis=1).mean()),
        "hamming_loss": float((predicted != truth).mean()),
    }


def label_log_losses(probabilities: Floats, truth: Bools) -> NDArray[np.float64]:
    """[N] mean binary cross-entropy over an image's labels, in nats; below 2e-16 counts as that."""
    of_truth = np.where(truth, probabilities, 1 - probabilities)
    tiny = np.finfo(np.float64).eps
    losses: NDArray[np.float64] = -np.log(of_truth.clip(tiny, 1 - tiny)).mean(axis=1)
    return losses


def _macro_f1(predicted: Bools, truth: Bools, weights: Floats) -> Floats:
    """[R] macro F1 under R weightings [N, R] of the images."""
    num_right = (predicted & truth).astype(np.float64).T @ weights  # [C, R]
    either = (predicted.astype(np.float64) + truth).T @ weights
    f1 = np.divide(2 * num_right, either, out=np.zeros_like(either), where=either > 0)
    present = (either > 0).sum(axis=0)
    return f1.sum(axis=0) / np.maximum(present, 1)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def per_class_figures(
    predicted: Bools,
    truth: Bools,
    precision_of_class: Floats,
    areas: Floats,
    thresholds: Sequence[float],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Figures of each class: `ap` and `auroc`, None without images; precision, recall and F1 at
    `threshold`, 0 where undefined; `num_false` and `num_missed` labels.
    """
    num_right = (predicted & truth).sum(axis=0)
    num_predicted, num_images = predicted.sum(axis=0), truth.sum(axis=0)
    return [
        {
            "class": name,
            "num_images": int(num_images[i]),
            "ap": None if np.isnan(precision_of_class[i]) else float(precision_of_class[i]),
            "auroc": None if np.isnan(areas[i]) else float(areas[i]),
            "threshold": float(thresholds[i]),
            "precision": _ratio(int(num_right[i]), int(num_predicted[i])),
            "recall": _ratio(int(num_right[i]), int(num_images[i])),
            "f1": _ratio(2 * int(num_right[i]), int(num_predicted[i] + num_images[i])),
            "num_false": int(num_predicted[i] - num_right[i]),
            "num_missed": int(num_images[i] - num_right[i]),
        }
        for i, name in enumerate(classes)
    ]


def precision_recall_points(probabilities: Floats, truth: Bools) -> list[list[float]]:
    """At most `_CURVE_POINTS` points (recall, precision) of a class's curve, by rising recall.

    Args:
        probabilities: [N].
        truth: [N], one true at least.
    """
    precision, recall, _ = precision_recall_curve(truth, probabilities)
    precision, recall = precision[::-1], recall[::-1]
    # The first point of each recall is where the next image of the class was found.
    levels = np.linspace(0, 1, _CURVE_POINTS)
    kept = np.unique(np.searchsorted(recall, levels, side="left"))
    return [[float(recall[i]), float(precision[i])] for i in kept]


def bootstrap_intervals(
    probabilities: Floats, predicted: Bools, truth: Bools, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % intervals by bootstrap over images.

    Args:
        probabilities, predicted, truth: [N, C].
        num_resamples: R; with 0 there is no interval.
        seed: the same seed gives the same intervals.

    Returns:
        Of `map` and of what `label_figures` gives (low, high): the 2.5 % and 97.5 % quantiles of
        the resamples. One without any label has no `map` and counts not.
    """
    if num_resamples == 0:
        return {}
    num_images, num_classes = truth.shape
    of_image = {
        "right": (predicted & truth).sum(axis=1),
        "predicted": predicted.sum(axis=1),
        "true": truth.sum(axis=1),
        "exact_match": (predicted == truth).all(axis=1),
        "wrong": (predicted != truth).sum(axis=1),
    }
    values: dict[str, list[Floats]] = defaultdict(list)
    for drawn in drawn_weights(num_images, num_resamples, seed):
        weights = np.ascontiguousarray(drawn.T)  # [N, R]
        sums = {name: column @ weights for name, column in of_image.items()}
        values["map"].append(mean_defined(class_precisions(probabilities, truth, weights)))
        values["macro_f1"].append(_macro_f1(predicted, truth, weights))
        either = sums["predicted"] + sums["true"]
        values["micro_f1"].append(2 * sums["right"] / np.maximum(either, 1))
        values["micro_precision"].append(sums["right"] / np.maximum(sums["predicted"], 1))
        values["micro_recall"].append(sums["right"] / np.maximum(sums["true"], 1))
        values["exact_match"].append(sums["exact_match"] / num_images)
        values["hamming_loss"].append(sums["wrong"] / (num_images * num_classes))
    found = {name: percentile_interval(np.concatenate(parts)) for name, parts in values.items()}
    return {name: interval for name, interval in found.items() if interval}


def surest_mistakes(
    probabilities: Floats, predicted: Bools, truth: Bools
) -> tuple[MultiLabelMistake, ...]:
    """Every image that is not wholly right, the surest wrong decision first, ties by row.

    Args:
        probabilities, predicted, truth: [N, C].
    """
    sure = np.where(predicted, probabilities, 1 - probabilities)
    worst = np.where(predicted != truth, sure, -1).max(axis=1)
    wrong = np.flatnonzero(worst >= 0)
    return tuple(
        MultiLabelMistake(
            index=int(i),
            false_ids=_by_confidence(predicted[i] & ~truth[i], sure[i]),
            missed_ids=_by_confidence(~predicted[i] & truth[i], sure[i]),
            correct_ids=_by_confidence(predicted[i] & truth[i], sure[i]),
            confidence=float(worst[i]),
        )
        for i in wrong[np.argsort(-worst[wrong], kind="stable")]
    )


def _by_confidence(chosen: Bools, sure: Floats) -> tuple[int, ...]:
    ids = np.flatnonzero(chosen)
    return tuple(int(i) for i in ids[np.argsort(-sure[ids], kind="stable")])
