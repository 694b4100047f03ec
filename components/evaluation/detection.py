"""The COCO family: figures of a detector, the numbers themselves by pycocotools.

Shapes: G true objects, D predictions, I images, C classes, T the 10 IoU thresholds 0.50 … 0.95.
Boxes are `xywh` in pixels of the original images, origin top left.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from components.errors import DataError
from components.evaluation.detection_resampling import (
    ClassMatches,
    bootstrap_intervals,
    class_matches,
)

# The metric that decides.
MAIN_METRIC = "map"

# COCOeval's twelve numbers in its order, by torchmetrics' names.
COCO_NAMES = (
    "map",
    "map_50",
    "map_75",
    "map_small",
    "map_medium",
    "map_large",
    "mar_1",
    "mar_10",
    "mar_100",
    "mar_small",
    "mar_medium",
    "mar_large",
)


@dataclass(frozen=True)
class TrueObjects:
    """The objects of all images.

    Args:
        image_id: [G] integers.
        class_id: [G] integers, 0 … C-1.
        boxes_xywh: [G, 4].
        area: [G] square pixels; decides small, medium or large.
        is_crowd: [G] booleans; predictions inside a crowd are neither right nor wrong.
    """

    image_id: NDArray[Any]
    class_id: NDArray[Any]
    boxes_xywh: NDArray[Any]
    area: NDArray[Any]
    is_crowd: NDArray[Any]

    def __post_init__(self) -> None:
        _set_arrays(self, ("image_id", "class_id"), ("area",))
        object.__setattr__(self, "is_crowd", np.asarray(self.is_crowd, dtype=bool).reshape(-1))
        _check_lengths(self, ("image_id", "class_id", "boxes_xywh", "area", "is_crowd"))


@dataclass(frozen=True)
class Predictions:
    """What the model found in all images.

    Args:
        image_id: [D] integers.
        class_id: [D] integers, 0 … C-1.
        score: [D] 0 … 1.
        boxes_xywh: [D, 4].
    """

    image_id: NDArray[Any]
    class_id: NDArray[Any]
    score: NDArray[Any]
    boxes_xywh: NDArray[Any]

    def __post_init__(self) -> None:
        _set_arrays(self, ("image_id", "class_id"), ("score",))
        _check_lengths(self, ("image_id", "class_id", "score", "boxes_xywh"))
        if not (np.isfinite(self.score).all() and np.isfinite(self.boxes_xywh).all()):
            raise ValueError("predictions must be finite")


def _set_arrays(self: Any, integers: tuple[str, ...], floats: tuple[str, ...]) -> None:
    """Give a frozen container arrays of the right type; empty lists become empty arrays."""
    for name in integers:
        object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64).reshape(-1))
    for name in floats:
        object.__setattr__(
            self, name, np.asarray(getattr(self, name), dtype=np.float64).reshape(-1)
        )
    boxes = np.asarray(self.boxes_xywh, dtype=np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"boxes_xywh must be [n, 4], not {list(boxes.shape)}")
    object.__setattr__(self, "boxes_xywh", boxes.reshape(-1, 4))


def _check_lengths(self: Any, names: tuple[str, ...]) -> None:
    lengths = {name: len(getattr(self, name)) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays of different lengths: {lengths}")


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
    """

    figures: dict[str, Any]
    details: dict[str, Any]
    mistakes: tuple[DetectionMistake, ...]
    matches: tuple[ClassMatches, ...]


def evaluate_detection(
    truth: TrueObjects,
    predictions: Predictions,
    image_ids: Sequence[int] | NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    split: str,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DetectionResult:
    """Measure a detector the COCO way: IoU 0.50 to 0.95, at most 100 detections an image.

    Args:
        truth: the objects.
        predictions: what was found, weak predictions too.
        image_ids: [I] every image measured, those without objects too: a detection there is wrong.
        classes: the C names, in the order of the ids.
        split: name of the images measured, for the record.
        bootstrap: resamples for the 95 % intervals of `map` and `map_50`, 0 for none; fewer are
            taken when resamples times predictions would pass `MAX_BOOTSTRAP_WORK`.
        seed: of the resampling.

    Raises:
        DataError: there is no image.
        ValueError: an image or class id that is not among `image_ids` or `classes`.
    """
    ids = np.asarray(image_ids, dtype=np.int64)
    _check_ids(truth, predictions, ids, len(classes))
    coco = _run_coco(truth, predictions, ids, len(classes))
    headline = {
        name: float(value) for name, value in zip(COCO_NAMES, coco.stats, strict=True) if value >= 0
    }
    matches = class_matches(coco)
    intervals = bootstrap_intervals(matches, len(ids), bootstrap, seed)
    figures: dict[str, Any] = {"split": split, "num_images": len(ids), **headline}
    for name, (low, high) in intervals.items():
        figures[f"{name}_low"], figures[f"{name}_high"] = low, high
    details = {
        "task": "detection",
        "split": split,
        "num_images": len(ids),
        "classes": list(classes),
        "headline": headline,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        "per_class": _per_class(coco, truth, classes),
        "precision_recall": _precision_recall(coco, classes),
        "mistakes": [],
    }
    return DetectionResult(figures, details, worst_images(truth, predictions), matches)


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


def _run_coco(
    truth: TrueObjects, predictions: Predictions, ids: NDArray[np.int64], num_classes: int
) -> Any:
    """pycocotools' evaluation, run and summarised; it prints, so its output is caught."""
    images = [{"id": int(i)} for i in ids]
    categories = [{"id": i, "name": str(i)} for i in range(num_classes)]
    # Annotation ids start at 1: COCOeval takes a match with id 0 for no match.
    true_rows = [
        {
            "id": i + 1,
            "image_id": int(truth.image_id[i]),
            "category_id": int(truth.class_id[i]),
            "bbox": truth.boxes_xywh[i].tolist(),
            "area": float(truth.area[i]),
            "iscrowd": int(truth.is_crowd[i]),
        }
        for i in range(len(truth.image_id))
    ]
    predicted_rows = [
        {
            "id": i + 1,
            "image_id": int(predictions.image_id[i]),
            "category_id": int(predictions.class_id[i]),
            "bbox": predictions.boxes_xywh[i].tolist(),
            "area": float(predictions.boxes_xywh[i, 2] * predictions.boxes_xywh[i, 3]),
            "iscrowd": 0,
            "score": float(predictions.score[i]),
        }
        for i in range(len(predictions.image_id))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        tables = []
        for rows in (true_rows, predicted_rows):
            table = COCO()
            table.dataset = {"images": images, "categories": categories, "annotations": rows}
            table.createIndex()
            tables.append(table)
        # COCO.loadRes would refuse an empty list of predictions; a second table does not.
        evaluation = COCOeval(*tables, iouType="bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _mean_defined(values: NDArray[Any]) -> float | None:
    """COCO's mean: over the entries that are not -1; None when all are."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _per_class(coco: Any, truth: TrueObjects, classes: Sequence[str]) -> list[dict[str, Any]]:
    """AP, AP at IoU 0.5 and 0.75, recall; a class without objects has none of them."""
    precision = coco.eval["precision"][:, :, :, 0, -1]  # [T, recall points, C], any area, 100 boxes
    recall = coco.eval["recall"][:, :, 0, -1]  # [T, C]
    num_objects = np.bincount(truth.class_id[~truth.is_crowd], minlength=len(classes))
    rows = []
    for i, name in enumerate(classes):
        values = {
            "ap": _mean_defined(precision[:, :, i]),
            "ap_50": _mean_defined(precision[0, :, i]),
            "ap_75": _mean_defined(precision[5, :, i]),
            "recall_50": _mean_defined(recall[:1, i]),
        }
        row: dict[str, Any] = {"class": name, "num_objects": int(num_objects[i])}
        rows.append(row | {key: value for key, value in values.items() if value is not None})
    return rows


def _precision_recall(coco: Any, classes: Sequence[str]) -> dict[str, list[list[float]]]:
    """Class to its 101 points (recall, precision) at IoU 0.5; classes without objects left out."""
    precision = coco.eval["precision"][0, :, :, 0, -1]  # [recall points, C]
    recall = coco.params.recThrs
    return {
        name: [[float(r), float(p)] for r, p in zip(recall, precision[:, i], strict=True)]
        for i, name in enumerate(classes)
        if (precision[:, i] > -1).all()
    }


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
    confident = predictions.score >= min_score
    for image_id in np.union1d(truth.image_id, predictions.image_id[confident]):
        true_rows = np.flatnonzero(truth.image_id == image_id)
        rows = np.flatnonzero((predictions.image_id == image_id) & confident)
        rows = rows[np.argsort(-predictions.score[rows], kind="stable")]
        correct, false, missed = _match_greedily(truth, predictions, true_rows, rows, min_iou)
        if false or missed:
            badness = float(predictions.score[list(false)].sum()) + len(missed)
            mistakes.append(DetectionMistake(int(image_id), badness, false, missed, correct))
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


def box_iou_xywh(
    boxes: NDArray[Any], others: NDArray[Any], others_crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """[n, m] overlap of `boxes` [n, 4] with `others` [m, 4].

    With a crowd the overlap is measured against the box alone, as COCO does.
    """
    end, other_end = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(end[:, None], other_end[None])
    shared = (high - low).clip(0).prod(axis=2)
    area = boxes[:, 2:].prod(axis=1)[:, None]
    union = area + others[:, 2:].prod(axis=1)[None] - shared
    if others_crowd is not None:
        union = np.where(others_crowd[None, :], area, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
