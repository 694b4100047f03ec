"""A detector's confidence threshold for each class, and what it finds from there on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.evaluation.coco_figures import ClassMatches, class_matches
from components.evaluation.coco_matching import Integers, match_all
from components.evaluation.detections import Predictions, TrueObjects
from components.models.label_thresholds import DEFAULT, best_f1_threshold


def best_thresholds(
    truth: TrueObjects, predictions: Predictions, image_ids: Integers, num_classes: int
) -> tuple[float, ...]:
    """For each class the score with the best F1 at an overlap of 0.5.

    Args:
        truth: the objects, of other images than those measured.
        predictions: what was found there, weak predictions too.
        image_ids: [I] those images.
        num_classes: C.

    Returns:
        C thresholds; `DEFAULT` for a class without objects, or that was never found.
    """
    thresholds = [DEFAULT] * num_classes
    for item in class_matches(match_all(truth, predictions, image_ids, num_classes)):
        counted = item.counted[0]
        right = item.right[0][counted]
        if right.any():
            total = int(item.num_objects.sum())
            thresholds[item.class_id] = best_f1_threshold(item.score[counted], right, total)
    return tuple(thresholds)


def operating_figures(
    matches: Sequence[ClassMatches], thresholds: Sequence[float]
) -> dict[int, dict[str, float]]:
    """Precision, recall and F1 of each class at its threshold and an overlap of 0.5.

    Args:
        matches: of the classes that have objects.
        thresholds: C; a detection counts whose score is at least that.

    Returns:
        Class id to `threshold`, `precision`, `recall`, `f1`, `num_false`, `num_missed`; 0 where
        undefined.
    """
    figures: dict[int, dict[str, Any]] = {}
    for item in matches:
        threshold = thresholds[item.class_id]
        kept = item.counted[0] & (item.score >= threshold)
        num_found, num_right = int(kept.sum()), int((kept & item.right[0]).sum())
        total = int(np.sum(item.num_objects))
        figures[item.class_id] = {
            "threshold": float(threshold),
            "precision": num_right / max(num_found, 1),
            "recall": num_right / total,
            "f1": 2 * num_right / (num_found + total),
            "num_false": num_found - num_right,
            "num_missed": total - num_right,
        }
    return figures
