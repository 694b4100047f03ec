"""COCO's average precision under other weights of the images, from COCOeval's own matches.

Matching is done within an image, so the matches are used again and only counted otherwise: an image
drawn n times weighs n. The numbers equal those of a COCOeval run on the resampled images (but for
the order of equal scores in different images).

Shapes: D predictions, I images, C classes with objects, T IoU thresholds, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.evaluation.resampling import (
    Floats,
    Interval,
    image_weights,
    mean_defined,
    percentile_interval,
)

# Resamples times predictions: about three seconds on one core.
MAX_BOOTSTRAP_WORK = 100_000_000
# Numbers held at once while resampling: keeps the bootstrap below about 200 MB.
_CHUNK_NUMBERS = 2_000_000
# COCO reads precision at these recalls.
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassMatches:
    """COCOeval's matches of one class over all images, the best score first.

    Args:
        class_id: the class.
        image: [D] position of the image among those measured.
        right: [T, D] matched to an object that counts.
        counted: [T, D] right or wrong; False for matches with a crowd.
        num_objects: [I] objects that count.
    """

    class_id: int
    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    num_objects: NDArray[np.float64]


def class_matches(coco: Any) -> tuple[ClassMatches, ...]:
    """Matches of every class that has objects, at any area and the largest number of detections.

    Args:
        coco: a COCOeval that has run; its categories are class ids.
    """
    params = coco.params
    num_images, num_areas = len(params.imgIds), len(params.areaRng)
    max_detections = params.maxDets[-1]
    found = []
    for k, class_id in enumerate(params.catIds):
        start = k * num_areas * num_images  # evalImgs is ordered by class, area, image
        cells = coco.evalImgs[start : start + num_images]  # area 0 is "all"
        num_objects = np.zeros(num_images)
        image, score, matched, ignored = [], [], [], []
        for i, cell in enumerate(cells):
            if cell is None:
                continue
            num_objects[i] = np.count_nonzero(np.asarray(cell["gtIgnore"]) == 0)
            scores = np.asarray(cell["dtScores"][:max_detections], dtype=np.float64)
            image.append(np.full(len(scores), i))
            score.append(scores)
            matched.append(np.asarray(cell["dtMatches"])[:, :max_detections] > 0)
            ignored.append(np.asarray(cell["dtIgnore"])[:, :max_detections] > 0)
        if not num_objects.any():
            continue
        order = np.argsort(-np.concatenate(score), kind="stable")
        counted = ~np.concatenate(ignored, axis=1)[:, order]
        right = np.concatenate(matched, axis=1)[:, order] & counted
        places = np.concatenate(image)[order]
        found.append(ClassMatches(int(class_id), places, right, counted, num_objects))
    return tuple(found)


def affordable_resamples(matches: Sequence[ClassMatches], wanted: int) -> int:
    """At most `MAX_BOOTSTRAP_WORK` / predictions of the resamples wanted, but 200 at least."""
    num_predictions = max(1, sum(len(item.image) for item in matches))
    return min(wanted, max(200, MAX_BOOTSTRAP_WORK // num_predictions))


def resample_chunk(matches: Sequence[ClassMatches], num_images: int) -> int:
    """How many resamples fit into the memory at once."""
    cells = [len(item.image) for item in matches]
    cells.append(sum(len(item.right) for item in matches))  # [C, T] results
    return max(1, _CHUNK_NUMBERS // max(num_images, *cells))


def bootstrap_intervals(
    matches: Sequence[ClassMatches], num_images: int, num_resamples: int, seed: int
) -> dict[str, Interval]:
    """95 % intervals of `map` and `map_50` by bootstrap over images.

    Args:
        matches: from `class_matches`.
        num_images: I.
        num_resamples: resamples wanted; see `affordable_resamples`.
        seed: the same seed gives the same intervals.

    Returns:
        Name to (low, high), the 2.5 % and 97.5 % quantiles; empty without resamples or objects.
    """
    if num_resamples == 0 or not matches:
        return {}
    num_resamples = affordable_resamples(matches, num_resamples)
    chunk = resample_chunk(matches, num_images)
    maps = [
        resampled_map(matches, weights)
        for weights in image_weights(num_images, num_resamples, seed, chunk)
    ]
    values = np.concatenate(maps)  # [R, T]; NaN where a resample holds no object
    values = values[~np.isnan(values).any(axis=1)]
    if not len(values):
        return {}
    return {
        "map": percentile_interval(values.mean(axis=1)),
        "map_50": percentile_interval(values[:, 0]),
    }


def resampled_map(matches: Sequence[ClassMatches], weights: Floats) -> NDArray[np.float64]:
    """[R, T] mean over classes of `resampled_precisions`; NaN where no class has an object."""
    return mean_defined(resampled_precisions(matches, weights), axis=1)


def resampled_precisions(matches: Sequence[ClassMatches], weights: Floats) -> NDArray[np.float64]:
    """[R, C, T] average precision when image i counts `weights[r, i]` times.

    Args:
        matches: of C classes.
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
            reached = np.searchsorted(RECALL_POINTS, recall, side="right")
            new = np.diff(reached, axis=1, prepend=0)
            result[:, k, t] = (envelope * new).sum(axis=1) / len(RECALL_POINTS)
        result[num_objects == 0, k] = np.nan
    return result
