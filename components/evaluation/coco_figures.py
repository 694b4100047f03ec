"""COCO's figures from the matches: precision and recall of each class, and the twelve numbers.

Shapes: D predictions, I images, C classes, T the 10 IoU thresholds, A the 4 ranges of area, L the
101 recall levels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.bootstrap import mean_defined
from components.evaluation.coco_matching import (
    AREA_RANGES,
    IOU_THRESHOLDS,
    MAX_DETECTIONS,
    Bools,
    Floats,
    Integers,
    Matches,
)

RECALL_LEVELS: Floats = np.linspace(0, 1, 101)
# Most detections of a class in an image that the three recalls count.
RECALL_DETECTIONS = (1, 10, MAX_DETECTIONS)
# The twelve numbers in COCOeval's order, by torchmetrics' names.
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
class CocoTables:
    """What COCOeval accumulates; -1 where a class has no object of a size.

    Args:
        precision: [T, L, C, A] interpolated, at `MAX_DETECTIONS`.
        recall: [T, C, A] at `MAX_DETECTIONS`.
        recall_few: [T, C, 2] of any size, at 1 and at 10 detections.
    """

    precision: Floats
    recall: Floats
    recall_few: Floats

    def numbers(self) -> dict[str, float]:
        """The twelve numbers by name; those that COCO leaves undefined are absent."""
        values = [
            self.precision[..., 0],
            self.precision[0, :, :, 0],
            self.precision[5, :, :, 0],
            *(self.precision[..., area] for area in (1, 2, 3)),
            *(self.recall_few[..., i] for i in (0, 1)),
            *(self.recall[..., area] for area in (0, 1, 2, 3)),
        ]
        named = zip(COCO_NAMES, map(coco_mean, values), strict=True)
        return {name: value for name, value in named if value is not None}


def coco_mean(values: Floats) -> float | None:
    """COCO's mean: over the entries that are not -1; None when all are."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def accumulate(matches: Matches) -> CocoTables:
    """Precision and recall of each class, threshold and size, as COCOeval's `accumulate`."""
    shape = (len(IOU_THRESHOLDS), matches.num_classes, len(AREA_RANGES))
    precision = np.full((shape[0], len(RECALL_LEVELS), *shape[1:]), -1.0)
    recall, recall_few = np.full(shape, -1.0), np.full((*shape[:2], 2), -1.0)
    num_objects = [
        np.bincount(matches.object_class[~ignored], minlength=matches.num_classes)
        for ignored in matches.object_ignored
    ]
    for k in range(matches.num_classes):
        part = matches.of_class(k)
        for area in range(len(AREA_RANGES)):
            total = int(num_objects[area][k])
            if not total:
                continue
            counted = ~matches.ignored[area, :, part]
            right = (matches.matched[area, :, part] >= 0) & counted
            precision[:, :, k, area] = _interpolated(right, counted, total)
            recall[:, k, area] = right.sum(axis=1) / total
            if area == 0:
                for i, most in enumerate(RECALL_DETECTIONS[:2]):
                    few = right & (matches.rank[part] < most)
                    recall_few[:, k, i] = few.sum(axis=1) / total
    return CocoTables(precision, recall, recall_few)


def _interpolated(right: Bools, counted: Bools, num_objects: int) -> Floats:
    """[T, L] highest precision at each recall level or beyond; 0 where it is not reached."""
    num_right = np.cumsum(right, axis=1, dtype=np.float64)  # [T, D]
    num_all = np.cumsum(counted, axis=1, dtype=np.float64)
    precision = num_right / (num_all + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.pad(envelope, ((0, 0), (0, 1)))
    places = [np.searchsorted(row, RECALL_LEVELS, side="left") for row in num_right / num_objects]
    return np.take_along_axis(padded, np.array(places), axis=1)


@dataclass(frozen=True)
class ClassMatches:
    """Matches of one class over images, of any size, the best score first.

    Args:
        class_id: the class.
        image: [D] position of the image.
        score: [D].
        right: [T, D] matched to an object that counts; of T thresholds, or of the first only.
        counted: [T, D] right or wrong; False for matches with a crowd.
        num_objects: [I] objects that count.
    """

    class_id: int
    image: Integers
    score: Floats
    right: Bools
    counted: Bools
    num_objects: Floats

    def within(self, images: Integers) -> ClassMatches:
        """The same of some images only, which are counted anew in the order given."""
        place = np.full(len(self.num_objects), -1)
        place[images] = np.arange(len(images))
        kept = place[self.image] >= 0
        return replace(
            self,
            image=place[self.image[kept]],
            score=self.score[kept],
            right=self.right[:, kept],
            counted=self.counted[:, kept],
            num_objects=self.num_objects[images],
        )


def class_matches(matches: Matches) -> list[ClassMatches]:
    """Matches of every class that has an object that counts."""
    found = []
    real = ~matches.object_ignored[0]
    for k in range(matches.num_classes):
        images = matches.object_image[real & (matches.object_class == k)]
        if not len(images):
            continue
        part = matches.of_class(k)
        counted = ~matches.ignored[0, :, part]
        found.append(
            ClassMatches(
                k,
                matches.image[part],
                matches.score[part],
                (matches.matched[0, :, part] >= 0) & counted,
                counted,
                np.bincount(images, minlength=matches.num_images).astype(np.float64),
            )
        )
    return found


def resampled_map(matches: Sequence[ClassMatches], weights: NDArray[np.floating[Any]]) -> Floats:
    """[R, T] mean over classes of `resampled_precisions`; NaN where no class has an object."""
    return mean_defined(resampled_precisions(matches, weights), axis=1)


def resampled_precisions(
    matches: Sequence[ClassMatches], weights: NDArray[np.floating[Any]]
) -> Floats:
    """[R, C, T] average precision when image i counts `weights[r, i]` times.

    Matching is done within an image, so the matches are used again and only counted otherwise. The
    numbers equal those of COCOeval on the resampled images (but for the order of equal scores in
    different images).

    Args:
        matches: of C classes with objects, one class at least.
        weights: [R, I] how often each image was drawn.

    Returns:
        NaN where a class has no object in a resample.
    """
    num_thresholds = len(matches[0].right)
    result = np.zeros((len(weights), len(matches), num_thresholds))
    for k, item in enumerate(matches):
        num_objects = weights @ item.num_objects  # [R]
        drawn = weights[:, item.image]  # [R, D]
        so_far: dict[bytes, Floats] = {}
        for t in range(num_thresholds):
            # Without crowds all thresholds share this sum.
            key = item.counted[t].tobytes()
            if key not in so_far:
                so_far = {key: np.cumsum(drawn * item.counted[t], axis=1)}
            # Interpolated precision changes at right detections only.
            rows = np.flatnonzero(item.right[t])
            if not len(rows):
                continue
            num_right = np.cumsum(drawn[:, rows], axis=1)
            precision = num_right / np.maximum(so_far[key][:, rows], 1)
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            recall = num_right / np.maximum(num_objects, 1)[:, None]
            reached = np.searchsorted(RECALL_LEVELS, recall, side="right")
            new = reached.copy()
            new[:, 1:] -= reached[:, :-1]
            result[:, k, t] = np.einsum("rd,rd->r", envelope, new) / len(RECALL_LEVELS)
        result[num_objects == 0, k] = np.nan
    return result
