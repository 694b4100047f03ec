"""What kinds of errors a detector makes, and what each kind costs.

After Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", 2020, with
its two overlaps: from 0.5 on an object is found, below 0.1 a box is on the background.

Shapes: G true objects, D predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.coco_figures import ClassMatches, class_matches, resampled_map
from components.evaluation.coco_matching import Integers, Matches
from components.evaluation.detections import (
    Predictions,
    TrueObjects,
    box_iou_xywh,
    rows_by_image,
)

FOUND_IOU, BACKGROUND_IOU = 0.5, 0.1
# Of a false detection, the first that applies.
KINDS = ("duplicate", "classification", "localisation", "both", "background")
MISSED = "missed"


@dataclass(frozen=True)
class DetectionErrors:
    """Every error at an overlap of 0.5.

    Args:
        place: [E] of each false detection among the kept ones of `Matches`.
        kind: [E] position in `KINDS`.
        target: [E] row of the object it is about; -1 for none.
        missed: rows of the objects that no detection is about.
    """

    place: Integers
    kind: Integers
    target: Integers
    missed: Integers


def find_errors(matches: Matches, truth: TrueObjects, predictions: Predictions) -> DetectionErrors:
    """Sort every false detection and every object that was not found.

    Args:
        matches: of `truth` and `predictions`.
        truth: the objects; crowds are about nothing.
        predictions: what was found.
    """
    matched, ignored = matches.matched[0, 0], matches.ignored[0, 0]
    false = np.flatnonzero((matched < 0) & ~ignored)
    rows = matches.row[false]
    kind = np.full(len(false), KINDS.index("background"))
    target = np.full(len(false), -1)
    real = np.flatnonzero(~truth.is_crowd)
    images = np.unique(predictions.image_id[rows])
    by_image = zip(
        rows_by_image(predictions.image_id[rows], images),
        rows_by_image(truth.image_id[real], images),
        strict=True,
    )
    for (_, here), (_, there) in by_image:
        objects = real[there]
        if not len(objects):
            continue
        iou = box_iou_xywh(predictions.boxes_xywh[rows[here]], truth.boxes_xywh[objects])
        same = predictions.class_id[rows[here]][:, None] == truth.class_id[objects][None]
        own, others = np.where(same, iou, 0), np.where(same, 0, iou)
        best_own, best_other = own.max(axis=1), others.max(axis=1)
        conditions = [
            best_own >= FOUND_IOU,  # taken, or it would have been matched
            best_other >= FOUND_IOU,
            best_own >= BACKGROUND_IOU,
            best_other >= BACKGROUND_IOU,
        ]
        kind[here] = np.select(conditions, range(4), default=4)
        chosen = np.select(
            conditions, [a.argmax(axis=1) for a in (own, others, own, others)], default=0
        )
        target[here] = np.where(kind[here] < 4, objects[chosen], -1)
    found = np.zeros(len(truth.class_id), dtype=bool)
    found[matched[matched >= 0]] = True
    found[target[np.isin(kind, (1, 2))]] = True
    return DetectionErrors(false, kind, target, np.flatnonzero(~found & ~truth.is_crowd))


def error_table(
    matches: Matches, truth: TrueObjects, predictions: Predictions, min_score: float = 0.5
) -> list[dict[str, Any]]:
    """Each kind of error: how many there are, and what AP50 would gain without them.

    Wrong classes and bad boxes are put right where their object was not found, and go otherwise;
    the other false detections go; missed objects count as not there. The gains do not sum up to
    what is missing to 1: errors hide each other.

    Args:
        matches: of `truth` and `predictions`.
        truth: the objects.
        predictions: what was found.
        min_score: what counts as a confident detection.

    Returns:
        `kind`, `count`, `confident` (of score `min_score` at least; not of missed objects) and
        `ap_50_gain`, the most costly first; empty without objects.
    """
    before = [_at_first_threshold(item) for item in class_matches(matches)]
    if not before:
        return []
    base = _mean_ap(before)
    errors = find_errors(matches, truth, predictions)
    taken = set(matches.matched[0, 0][matches.matched[0, 0] >= 0].tolist())
    rows: list[dict[str, Any]] = []
    for number, kind in enumerate(KINDS):
        chosen = errors.kind == number
        place, target = errors.place[chosen], errors.target[chosen]
        mended: list[tuple[int, int]] = []
        if kind in ("classification", "localisation"):
            # Of several on one object the best counts.
            order = np.argsort(-matches.score[place], kind="stable")
            rising = order[::-1]
            best = dict(zip(target[rising].tolist(), place[rising].tolist(), strict=True))
            mended = [(p, t) for t, p in best.items() if t not in taken]
        fixed = [
            _without(item, matches, place, [m for m in mended if _is_of(item, m, truth)])
            for item in before
        ]
        confident = int((matches.score[place] >= min_score).sum())
        rows.append(
            {
                "kind": kind,
                "count": len(place),
                "confident": confident,
                "ap_50_gain": _mean_ap(fixed) - base,
            }
        )
    fewer = np.bincount(truth.class_id[errors.missed], minlength=matches.num_classes)
    left = [_with_fewer(item, int(fewer[item.class_id])) for item in before]
    left = [item for item in left if item.num_objects.any()]
    gain = (_mean_ap(left) if left else 1.0) - base
    rows.append({"kind": MISSED, "count": len(errors.missed), "ap_50_gain": gain})
    return sorted(rows, key=lambda row: -row["ap_50_gain"])


def _is_of(item: ClassMatches, mended: tuple[int, int], truth: TrueObjects) -> bool:
    return int(truth.class_id[mended[1]]) == item.class_id


def _at_first_threshold(item: ClassMatches) -> ClassMatches:
    """As one image, which is all that a mean over all images needs."""
    return replace(
        item,
        image=np.zeros_like(item.image),
        right=item.right[:1],
        counted=item.counted[:1],
        num_objects=item.num_objects.sum(keepdims=True),
    )


def _mean_ap(items: Sequence[ClassMatches]) -> float:
    return float(resampled_map(items, np.ones((1, 1)))[0, 0])


def _with_fewer(item: ClassMatches, count: int) -> ClassMatches:
    return replace(item, num_objects=item.num_objects - count)


def _without(
    item: ClassMatches,
    matches: Matches,
    wrong: NDArray[np.int64],
    mended: Sequence[tuple[int, int]],
) -> ClassMatches:
    """A class without some false detections, and with those that were put right."""
    part = matches.of_class(item.class_id)
    kept = np.ones(len(item.score), dtype=bool)
    kept[wrong[(wrong >= part.start) & (wrong < part.stop)] - part.start] = False
    new = np.array([matches.score[place] for place, _ in mended], dtype=np.float64)
    score = np.concatenate([item.score[kept], new])
    order = np.argsort(-score, kind="stable")
    more = np.ones((1, len(new)), dtype=bool)
    return replace(
        item,
        image=np.zeros(len(score), dtype=np.int64),
        score=score[order],
        right=np.concatenate([item.right[:, kept], more], axis=1)[:, order],
        counted=np.concatenate([item.counted[:, kept], more], axis=1)[:, order],
    )
