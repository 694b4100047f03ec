"""A detector's confusion matrix: what each object was taken for, and what was taken for an object.

Shapes: G true objects, D predictions, I images, C classes, K entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from components.evaluation.coco_matching import Integers, Matches, match_all
from components.evaluation.detections import Predictions, TrueObjects

# What an object is taken for that was missed, and what a false detection was taken from.
BACKGROUND = "(background)"


def confused_pairs(
    matches: Matches,
    truth: TrueObjects,
    predictions: Predictions,
    image_ids: Integers,
    thresholds: Sequence[float],
) -> tuple[Integers, Integers]:
    """Actual and predicted class of every object, and of every detection that is about none.

    Only detections from their class's threshold on count, at an overlap of 0.5. Each first finds
    the object of its own class, as COCO matches; of what is left over, the surest detection takes
    the object of another class that it overlaps most. So the diagonal is what `operating_figures`
    counts as right.

    Args:
        matches: of `truth` and `predictions`.
        truth: the objects; crowds are neither found nor missed.
        predictions: what was found.
        image_ids: [I] every image measured.
        thresholds: C scores.

    Returns:
        Two arrays [K] of class ids, with C for the background.
    """
    background = matches.num_classes
    matched, ignored = matches.matched[0, 0], matches.ignored[0, 0]
    kept = ~ignored & (matches.score >= np.asarray(thresholds)[matches.class_id])
    right = kept & (matched >= 0)
    found = matches.class_id[right]

    free = ~truth.is_crowd
    free[matched[right]] = False
    objects, rows = np.flatnonzero(free), matches.row[kept & (matched < 0)]
    actual, predicted = truth.class_id[objects], predictions.class_id[rows]
    # Once more without classes: what still overlaps is of another one.
    others = match_all(
        TrueObjects(
            truth.image_id[objects],
            np.zeros(len(objects)),
            truth.boxes_xywh[objects],
            truth.area[objects],
            np.zeros(len(objects)),
        ),
        Predictions(
            predictions.image_id[rows],
            np.zeros(len(rows)),
            predictions.score[rows],
            predictions.boxes_xywh[rows],
        ),
        image_ids,
        1,
    )
    taken = others.matched[0, 0]
    target = np.full(len(rows), -1)
    target[others.row] = taken
    missed = np.ones(len(objects), dtype=bool)
    missed[taken[taken >= 0]] = False
    of_false = np.where(target >= 0, np.append(actual, background)[target], background)
    return (
        np.concatenate([found, of_false, actual[missed]]),
        np.concatenate([found, predicted, np.full(int(missed.sum()), background)]),
    )
