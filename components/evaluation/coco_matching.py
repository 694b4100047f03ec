"""Which prediction is which object, by COCO's rules: COCOeval's matching, for all images at once.

Equal to pycocotools' (`tests/evaluation/test_coco_equality.py`), whose loops over images take most
of an evaluation's time; and unlike faster-coco-eval's, the matches can be read: intervals, slices
and kinds of errors are made from them.

Shapes: G true objects, D predictions, I images, C classes, T the 10 IoU thresholds 0.50 … 0.95,
A the 4 ranges of area (all, small, medium, large), P pairs of a prediction and an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from components.evaluation.detections import Predictions, TrueObjects

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
# Square pixels, both ends belong to a range.
AREA_RANGES = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
MAX_DETECTIONS = 100  # of a class in an image

# Pairs looked at at once: keeps their arrays below about 200 MB.
_CHUNK_PAIRS = 2_000_000


@dataclass(frozen=True)
class Matches:
    """What COCOeval finds out about each image and class, here in flat arrays.

    Of each class in an image the `MAX_DETECTIONS` best predictions are kept. They are ordered by
    class, then by falling score, equal scores by image.

    Args:
        row: [D] of each kept prediction in `Predictions`.
        image: [D] position of its image among those measured, by ascending id.
        class_id: [D].
        score: [D].
        rank: [D] how many predictions of its class in its image are better.
        matched: [A, T, D] row in `TrueObjects` of the object it is matched to; -1 for none.
        ignored: [A, T, D] neither right nor wrong: in a crowd, or not of that size.
        object_image: [G] position of each object's image.
        object_class: [G].
        object_ignored: [A, G] crowds, and objects not of that size.
        num_images, num_classes: I and C.
    """

    row: Integers
    image: Integers
    class_id: Integers
    score: Floats
    rank: Integers
    matched: NDArray[np.int32]
    ignored: Bools
    object_image: Integers
    object_class: Integers
    object_ignored: Bools
    num_images: int
    num_classes: int

    def of_class(self, class_id: int) -> slice:
        """Where a class's predictions stand."""
        start, end = np.searchsorted(self.class_id, [class_id, class_id + 1])
        return slice(int(start), int(end))


def match_all(
    truth: TrueObjects, predictions: Predictions, image_ids: Integers, num_classes: int
) -> Matches:
    """Match predictions with objects.

    Args:
        truth: the objects.
        predictions: what was found.
        image_ids: [I] every image measured.
        num_classes: C.
    """
    ids = np.sort(np.asarray(image_ids, dtype=np.int64))
    object_image = np.searchsorted(ids, truth.image_id)
    rows, image, rank = _best_of_each_cell(predictions, ids, num_classes)
    class_id, score = predictions.class_id[rows], predictions.score[rows]

    outside = np.stack([(truth.area < low) | (truth.area > high) for low, high in AREA_RANGES])
    object_ignored = outside | truth.is_crowd
    shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), len(rows))
    matched = np.full(shape, -1, dtype=np.int32)
    pairs = _overlapping_pairs(truth, predictions, rows, image, object_image, num_classes)
    for area, ignored_objects in enumerate(object_ignored):
        _match_greedily(matched[area], *pairs, rank, ignored_objects, truth.is_crowd)

    areas = predictions.boxes_xywh[rows, 2] * predictions.boxes_xywh[rows, 3]
    beyond = np.stack([(areas < low) | (areas > high) for low, high in AREA_RANGES])
    ignored = np.repeat(beyond[:, None], len(IOU_THRESHOLDS), axis=1)
    if len(truth.class_id):
        of_match = object_ignored[np.arange(len(AREA_RANGES))[:, None, None], matched]
        ignored = np.where(matched >= 0, of_match, ignored)
    order = np.lexsort((image, -score, class_id))
    return Matches(
        row=rows[order],
        image=image[order],
        class_id=class_id[order],
        score=score[order],
        rank=rank[order],
        matched=matched[:, :, order],
        ignored=ignored[:, :, order],
        object_image=object_image,
        object_class=truth.class_id,
        object_ignored=object_ignored,
        num_images=len(ids),
        num_classes=num_classes,
    )


def _best_of_each_cell(
    predictions: Predictions, ids: Integers, num_classes: int
) -> tuple[Integers, Integers, Integers]:
    """Rows that are kept, by image, class and falling score; their images and their ranks."""
    image = np.searchsorted(ids, predictions.image_id)
    cell = image * num_classes + predictions.class_id
    # Stable: of equal scores the first stays first.
    order = np.lexsort((-predictions.score, cell))
    ordered = cell[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered, side="left")
    kept = rank < MAX_DETECTIONS
    rows = order[kept]
    return rows, image[rows], rank[kept]


def _overlapping_pairs(
    truth: TrueObjects,
    predictions: Predictions,
    rows: Integers,
    image: Integers,
    object_image: Integers,
    num_classes: int,
) -> tuple[Integers, Integers, Floats]:
    """Pairs of the same image and class that overlap by the lowest threshold at least.

    Returns:
        Position of the prediction in `rows`, row of the object, and their IoU: [P] each.
    """
    cell = image * num_classes + predictions.class_id[rows]
    object_cell = object_image * num_classes + truth.class_id
    by_cell = np.argsort(object_cell, kind="stable")
    start = np.searchsorted(object_cell[by_cell], cell, side="left")
    count = np.searchsorted(object_cell[by_cell], cell, side="right") - start
    ends = np.cumsum(count)
    parts: list[tuple[Integers, Integers, Floats]] = []
    first = 0
    while first < len(rows):
        before = ends[first] - count[first]
        last = max(first + 1, int(np.searchsorted(ends, before + _CHUNK_PAIRS, side="right")))
        found = np.repeat(np.arange(first, last), count[first:last])
        within = np.arange(len(found)) - np.repeat(
            ends[first:last] - count[first:last] - before, count[first:last]
        )
        objects = by_cell[start[found] + within]
        iou = _paired_iou(
            predictions.boxes_xywh[rows[found]],
            truth.boxes_xywh[objects],
            truth.is_crowd[objects],
        )
        near = iou >= IOU_THRESHOLDS[0]
        parts.append((found[near], objects[near], iou[near]))
        first = last
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return nothing, nothing, np.empty(0)
    found, objects, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return found, objects, iou


def _paired_iou(boxes: Floats, others: Floats, others_crowd: Bools) -> Floats:
    """[P] overlap of boxes [P, 4] with others [P, 4], in COCO's own order of operations."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    sides = (high - low).clip(0)
    shared = sides[:, 0] * sides[:, 1]
    area = boxes[:, 2] * boxes[:, 3]
    union = np.where(others_crowd, area, area + others[:, 2] * others[:, 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _match_greedily(
    matched: NDArray[np.int32],
    found: Integers,
    objects: Integers,
    iou: Floats,
    rank: Integers,
    ignored: Bools,
    crowd: Bools,
) -> None:
    """Fill `matched` [T, D] for one range of area.

    The best score chooses first: of the objects that are left and overlap enough the one that
    overlaps most, the later of equal ones; an ignored one only where there is no other. A crowd is
    never used up. All images and classes take their turns side by side.

    Args:
        matched: -1 everywhere.
        found, objects, iou: [P] pairs; see `_overlapping_pairs`.
        rank: [D] turn of a prediction.
        ignored, crowd: [G].
    """
    order = np.lexsort((-objects, -iou, ignored[objects], found, rank[found]))
    found, objects, iou = found[order], objects[order], iou[order]
    turns = rank[found]
    taken = np.zeros((len(IOU_THRESHOLDS), len(crowd)), dtype=bool)
    bounds = np.append(np.flatnonzero(np.diff(turns, prepend=-1)), len(turns))
    for begin, end in pairwise(bounds.tolist()):
        these, theirs = found[begin:end], objects[begin:end]
        free = ~taken[:, theirs] | crowd[theirs]
        fits = free & (iou[begin:end] >= IOU_THRESHOLDS[:, None])
        starts = np.flatnonzero(np.diff(these, prepend=-1))
        places = np.where(fits, np.arange(end - begin), end - begin)
        chosen = np.minimum.reduceat(places, starts, axis=1)  # [T, predictions of this turn]
        threshold, column = np.nonzero(chosen < end - begin)
        match = theirs[chosen[threshold, column]]
        matched[threshold, these[starts[column]]] = match
        taken[threshold, match] = True
