"""The COCO family: figures of a detector, equal to pycocotools'.

Shapes: G true objects, D predictions, I images, C classes, T the 10 IoU thresholds 0.50 … 0.95.
Boxes are `xywh` in pixels of the original images, origin top left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.errors import DataError
from components.evaluation.bootstrap import (
    Floats,
    Interval,
    drawn_weights,
    percentile_interval,
)
from components.evaluation.classification import confusion_counts
from components.evaluation.coco_figures import (
    RECALL_LEVELS,
    ClassMatches,
    CocoTables,
    accumulate,
    class_matches,
    coco_mean,
    resampled_map,
)
from components.evaluation.coco_matching import match_all
from components.evaluation.detection_confusion import confused_pairs
from components.evaluation.detection_errors import error_table
from components.evaluation.detections import (
    Predictions,
    TrueObjects,
    box_iou_xywh,
    rows_by_image,
)
from components.evaluation.operating_points import operating_figures
from components.evaluation.slices import make_slices, measure_slices

# The metric that decides.
MAIN_METRIC = "map"

# Resamples times predictions: about three seconds on one core.
MAX_BOOTSTRAP_WORK = 100_000_000


@dataclass(frozen=True)
class DetectionMistake:
    """An image and what is wrong in it; rows point into the arrays that were measured.

    Args:
        image_id: the image.
        badness: sum over its mistakes: a false detection weighs its score, a missed object 1.
        false_rows: rows of `Predictions` that are confident and match no object, best score first.
        missed_rows: rows of `TrueObjects` that no confident prediction found.
        correct_rows: rows of `Predictions` that are confident and right.
    """

    image_id: int
    badness: float
    false_rows: tuple[int, ...]
    missed_rows: tuple[int, ...]
    correct_rows: tuple[int, ...]


@dataclass(frozen=True)
class DetectionResult:
    """All that is known about a detector on one split.

    Args:
        figures: flat, for `metrics/evaluate.json`; a number COCO leaves undefined (-1, no object
            of that kind) is absent, `map` too when there is no object at all.
        details: for `reports/evaluation/details.json`; `mistakes` stays empty
            until pictures are drawn.
        mistakes: every image with a mistake, the worst first.
        matches: of every class with objects, to be counted anew under other weights of the images.
        confused: actual and predicted classes; see `confused_pairs`. Empty without thresholds.
    """

    figures: dict[str, Any]
    details: dict[str, Any]
    mistakes: tuple[DetectionMistake, ...]
    matches: tuple[ClassMatches, ...]
    confused: tuple[NDArray[np.int64], NDArray[np.int64]]


def evaluate_detection(
    truth: TrueObjects,
    predictions: Predictions,
    image_ids: Sequence[int] | NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    split: str,
    thresholds: Sequence[float] | None = None,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DetectionResult:
    """Measure a detector as COCO does: IoU 0.50 to 0.95, at most 100 boxes of a class an image.

    Args:
        truth: the objects.
        predictions: what was found, weak predictions too.
        image_ids: [I] every image measured, those without objects too: a detection there is wrong.
        classes: the C names, in the order of the ids.
        split: name of the images measured, for the record.
        thresholds: C scores from which on a detection of the class is taken for true, chosen on
            other images; for `precision`, `recall` and `f1` of each class, and the confusion
            matrix. None: without these.
        columns: for slices, name to a value for each of `image_ids`.
        bootstrap: resamples for the 95 % intervals of `map`, `map_50` and `map_75`, 0 for none;
            fewer are taken when resamples times predictions would pass `MAX_BOOTSTRAP_WORK`.
        seed: of the resampling.

    Raises:
        DataError: there is no image.
        ValueError: an image or class id that is not among `image_ids` or `classes`.
    """
    ids = np.asarray(image_ids, dtype=np.int64)
    _check_ids(truth, predictions, ids, len(classes))
    matches = match_all(truth, predictions, ids, len(classes))
    tables, of_class = accumulate(matches), class_matches(matches)
    headline = tables.numbers()
    intervals = bootstrap_intervals(of_class, len(ids), bootstrap, seed)
    figures: dict[str, Any] = {"split": split, "num_images": len(ids), **headline}
    for name, (low, high) in intervals.items():
        figures[f"{name}_low"], figures[f"{name}_high"] = low, high
    points: dict[int, dict[str, float]] = {}
    confused = (np.empty(0, np.int64), np.empty(0, np.int64))
    confusion = None
    if thresholds is not None:
        points = operating_figures(of_class, thresholds)
        confused = confused_pairs(matches, truth, predictions, ids, thresholds)
        confusion = confusion_counts(confused[1], confused[0], len(classes) + 1).tolist()
    details = {
        "task": "detection",
        "split": split,
        "num_images": len(ids),
        "classes": list(classes),
        "headline": headline,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "per_class": _per_class(tables, truth, classes, points),
        "confusion": confusion,
        "precision_recall": _precision_recall(tables, classes),
        "errors": error_table(matches, truth, predictions),
        "slices": _slices(of_class, ids, columns or {}, bootstrap, seed),
        "mistakes": [],
    }
    return DetectionResult(
        figures, details, worst_images(truth, predictions), tuple(of_class), confused
    )


def _check_ids(
    truth: TrueObjects, predictions: Predictions, ids: NDArray[np.int64], num_classes: int
) -> None:
    if len(ids) == 0:
        raise DataError("no image to measure on: the split is empty")
    if len(np.unique(ids)) != len(ids):
        raise ValueError("image_ids: an image stands there twice")
    for kind, rows in (("true objects", truth), ("predictions", predictions)):
        strangers = np.setdiff1d(rows.image_id, ids)
        if len(strangers):
            raise ValueError(f"{kind}: image ids that are not measured: {strangers[:5].tolist()}")
        if len(rows.class_id) and not (
            0 <= rows.class_id.min() <= rows.class_id.max() < num_classes
        ):
            raise ValueError(f"{kind}: class ids must lie in 0 … {num_classes - 1}")


def _per_class(
    tables: CocoTables,
    truth: TrueObjects,
    classes: Sequence[str],
    points: Mapping[int, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """AP, also by overlap and size, recall, and the figures at the threshold; a class without
    objects has none of them.
    """
    num_objects = np.bincount(truth.class_id[~truth.is_crowd], minlength=len(classes))
    rows = []
    for i, name in enumerate(classes):
        precision, recall = tables.precision[:, :, i], tables.recall[:, i]
        values = {
            "ap": coco_mean(precision[..., 0]),
            "ap_50": coco_mean(precision[0, :, 0]),
            "ap_75": coco_mean(precision[5, :, 0]),
            "ap_small": coco_mean(precision[..., 1]),
            "ap_medium": coco_mean(precision[..., 2]),
            "ap_large": coco_mean(precision[..., 3]),
            "ar": coco_mean(recall[:, 0]),
            "recall_50": coco_mean(recall[:1, 0]),
            **points.get(i, {}),
        }
        row: dict[str, Any] = {"class": name, "num_objects": int(num_objects[i])}
        rows.append(row | {key: value for key, value in values.items() if value is not None})
    return rows


def _precision_recall(tables: CocoTables, classes: Sequence[str]) -> dict[str, list[list[float]]]:
    """Class to its 101 points (recall, precision) at IoU 0.5; classes without objects left out."""
    precision = tables.precision[0, :, :, 0]  # [recall levels, C]
    return {
        name: [[float(r), float(p)] for r, p in zip(RECALL_LEVELS, precision[:, i], strict=True)]
        for i, name in enumerate(classes)
        if (precision[:, i] > -1).all()
    }


def affordable_resamples(wanted: int, num_predictions: int) -> int:
    """As many as wanted, but no more work than `MAX_BOOTSTRAP_WORK`; 200 at least."""
    return min(wanted, max(200, MAX_BOOTSTRAP_WORK // max(1, num_predictions)))


def bootstrap_intervals(
    matches: Sequence[ClassMatches], num_images: int, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % intervals of `map`, `map_50` and `map_75` by bootstrap over images.

    Args:
        matches: of the classes with objects.
        num_images: I.
        num_resamples: resamples wanted; see `affordable_resamples`.
        seed: the same seed gives the same intervals.

    Returns:
        Name to (low, high), the 2.5 % and 97.5 % quantiles; empty without resamples or objects.
    """
    if num_resamples == 0 or not matches:
        return {}
    num_resamples = affordable_resamples(num_resamples, sum(len(m.image) for m in matches))
    widest = max(len(item.image) for item in matches)
    drawn = drawn_weights(num_images, num_resamples, seed, widest)
    values = np.concatenate([resampled_map(matches, weights) for weights in drawn])  # [R, T]
    found = {
        "map": percentile_interval(values.mean(axis=1)),
        "map_50": percentile_interval(values[:, 0]),
        "map_75": percentile_interval(values[:, 5]),
    }
    return {name: interval for name, interval in found.items() if interval}


def _slices(
    matches: Sequence[ClassMatches],
    ids: NDArray[np.int64],
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    bootstrap: int,
    seed: int,
) -> list[dict[str, Any]]:
    """`map` on slices of the images, the worst first."""
    if not (matches and columns):
        return []
    place = np.argsort(np.argsort(ids))  # matches count images by ascending id

    def measure(images: NDArray[np.int64], weights: Floats) -> Floats:
        parts = [item.within(place[images]) for item in matches]
        parts = [item for item in parts if item.num_objects.any()]
        return (
            resampled_map(parts, weights).mean(axis=1) if parts else np.full(len(weights), np.nan)
        )

    work = len(columns) * sum(len(item.image) for item in matches)
    resamples = affordable_resamples(bootstrap, work)
    return measure_slices(make_slices(columns), measure, resamples, seed)


def worst_images(
    truth: TrueObjects,
    predictions: Predictions,
    *,
    min_score: float = 0.5,
    min_iou: float = 0.5,
) -> tuple[DetectionMistake, ...]:
    """Images ranked by their confident mistakes, the worst first; images without one left out.

    Within an image and class, predictions take the free object they overlap most, the best score
    first. One that finds none is false, unless it lies in a crowd.

    Args:
        truth: the objects.
        predictions: what was found.
        min_score: weaker predictions count as not made.
        min_iou: overlap from which an object counts as found.
    """
    mistakes = []
    strong = np.flatnonzero(predictions.score >= min_score)
    images = np.union1d(truth.image_id, predictions.image_id[strong])
    by_image = zip(
        rows_by_image(truth.image_id, images),
        rows_by_image(predictions.image_id[strong], images),
        strict=True,
    )
    for (image_id, true_rows), (_, here) in by_image:
        rows = strong[here]
        rows = rows[np.argsort(-predictions.score[rows], kind="stable")]
        correct, false, missed = _match_greedily(truth, predictions, true_rows, rows, min_iou)
        if false or missed:
            badness = float(predictions.score[list(false)].sum()) + len(missed)
            mistakes.append(DetectionMistake(image_id, badness, false, missed, correct))
    return tuple(sorted(mistakes, key=lambda item: (-item.badness, item.image_id)))


def _match_greedily(
    truth: TrueObjects,
    predictions: Predictions,
    true_rows: NDArray[np.intp],
    rows: NDArray[np.intp],
    min_iou: float,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Rows of one image that are (correct, false, missed)."""
    crowd = truth.is_crowd[true_rows]
    free = ~crowd
    iou = box_iou_xywh(
        predictions.boxes_xywh[rows], truth.boxes_xywh[true_rows], crowd
    )  # [rows, true_rows]
    same = predictions.class_id[rows][:, None] == truth.class_id[true_rows][None, :]
    overlap = np.where(same, iou, 0.0)
    correct, false = [], []
    for i, row in enumerate(rows):
        candidates = np.where(free, overlap[i], 0.0)
        best = int(candidates.argmax()) if len(candidates) else -1
        if best >= 0 and candidates[best] >= min_iou:
            free[best] = False
            correct.append(int(row))
        elif not (crowd & (overlap[i] >= min_iou)).any():
            false.append(int(row))
    return tuple(correct), tuple(false), tuple(int(row) for row in true_rows[free])
