"""Labels that are likely wrong, as the model sees it on images that it has not learnt from.

Shapes: N images, C classes, G true objects, D predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.evaluation.bootstrap import Floats
from components.evaluation.detections import (
    Predictions,
    TrueObjects,
    box_iou_xywh,
    rows_by_image,
)

SURE_SCORE = 0.7  # of a detection that may know better than the truth
SAME_IOU = 0.7  # from which on a box is about an object, whatever its class
APART_IOU = 0.3  # below which it is about something else


@dataclass(frozen=True)
class SuspectLabel:
    """An image whose label the model disputes.

    Args:
        index: row of the probabilities.
        given: class id of the label; of several labels an image, of the one disputed.
        proposed: class id that the model has for it instead; of several labels an image equal to
            `given`, which is there and should not be, or the other way round.
        present: of several labels an image: whether the label is there.
        given_probability, proposed_probability: of the two.
    """

    index: int
    given: int
    proposed: int
    present: bool
    given_probability: float
    proposed_probability: float


def suspect_labels(probabilities: Floats, targets: NDArray[Any]) -> tuple[SuspectLabel, ...]:
    """Labels that confident learning disputes, the clearest first.

    A class counts as recognised in an image where its probability reaches the mean that the images
    labelled with it have, so that a model which is unsure of a class altogether accuses nobody. The
    label is disputed where another class is recognised and more probable. After Northcutt et al.,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", 2021.

    Args:
        probabilities: [N, C], of images that the model has not learnt from.
        targets: [N] class ids, or of several labels an image [N, C] of 0 and 1.
    """
    given: NDArray[np.float64] = np.asarray(probabilities, dtype=np.float64)
    targets = np.asarray(targets)
    if targets.ndim == 2:
        return _suspect_of_several(given, targets.astype(bool))
    rows = np.arange(len(targets))
    num_classes = given.shape[1]
    count = np.bincount(targets, minlength=num_classes)
    own = given[rows, targets]
    total = np.bincount(targets, weights=own, minlength=num_classes)
    # Of a class without images nothing can be said.
    usual = np.divide(total, count, out=np.full(num_classes, np.inf), where=count > 0)
    recognised = np.where(given >= usual, given, -1.0)
    recognised[rows, targets] = -1.0
    proposed = recognised.argmax(axis=1)
    best = recognised[rows, proposed]
    disputed = np.flatnonzero(best > own)
    order = disputed[np.argsort(own[disputed] - best[disputed], kind="stable")]
    return tuple(
        SuspectLabel(int(i), int(targets[i]), int(proposed[i]), True, float(own[i]), float(best[i]))
        for i in order
    )


def _suspect_of_several(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[SuspectLabel, ...]:
    """The same for each class by itself: there or not there are its two classes."""
    found = []
    for k in range(probabilities.shape[1]):
        there = truth[:, k]
        if not there.any() or there.all():
            continue
        column = probabilities[:, k]
        usual_there, usual_absent = column[there].mean(), (1 - column[~there]).mean()
        disputed = np.where(there, 1 - column >= usual_absent, column >= usual_there)
        disputed &= np.where(there, column < 0.5, column > 0.5)
        for i in np.flatnonzero(disputed):
            p = float(column[i])
            # The probability of what is given, and of the opposite.
            own, other = (p, 1 - p) if there[i] else (1 - p, p)
            found.append(SuspectLabel(int(i), k, k, bool(there[i]), own, other))
    return tuple(sorted(found, key=lambda item: (item.given_probability, item.index, item.given)))


@dataclass(frozen=True)
class SuspectObject:
    """A box of the truth, or one that lacks there, that the model disputes.

    Args:
        image_id: the image.
        kind: `unlabelled`: a sure detection where the truth has nothing; `class`: a sure detection
            on an object with another name; `unseen`: an object where nothing was found, not even
            weakly.
        weight: how sure, 0 … 1: the detection's score, or the share of objects of that class that
            is seen.
        prediction: row of `Predictions`; -1 for none.
        object: row of `TrueObjects`; -1 for none.
    """

    image_id: int
    kind: Literal["unlabelled", "class", "unseen"]
    weight: float
    prediction: int
    object: int


def suspect_objects(truth: TrueObjects, predictions: Predictions) -> tuple[SuspectObject, ...]:
    """Boxes that are likely wrong in the truth, the surest first.

    Args:
        truth: the objects of images that the model has not learnt from.
        predictions: what was found there, weak predictions too.
    """
    images = np.union1d(truth.image_id, predictions.image_id)
    by_image = zip(
        rows_by_image(truth.image_id, images),
        rows_by_image(predictions.image_id, images),
        strict=True,
    )
    found: list[SuspectObject] = []
    unseen: list[tuple[int, int]] = []
    for (image, objects), (_, rows) in by_image:
        crowd = truth.is_crowd[objects]
        iou = box_iou_xywh(predictions.boxes_xywh[rows], truth.boxes_xywh[objects], crowd)
        same = predictions.class_id[rows][:, None] == truth.class_id[objects][None]
        nearest = iou.max(axis=1, initial=0)
        taken = np.zeros(len(rows), dtype=bool)  # told already, by a surer box at the same place
        own_boxes = box_iou_xywh(predictions.boxes_xywh[rows], predictions.boxes_xywh[rows])
        for i in np.argsort(-predictions.score[rows], kind="stable"):
            score = float(predictions.score[rows[i]])
            if score < SURE_SCORE:
                break
            if taken[i]:
                continue
            taken |= own_boxes[i] >= APART_IOU
            if nearest[i] < APART_IOU:
                found.append(SuspectObject(image, "unlabelled", score, int(rows[i]), -1))
                continue
            best = int(iou[i].argmax())
            # Where a box with the object's own name is as sure, the model does not dispute it.
            agreed = (iou[:, best] >= 0.5) & same[:, best]
            agreed &= predictions.score[rows] >= score / 2
            other = iou[i, best] >= SAME_IOU and not crowd[best] and not same[i, best]
            if other and not agreed.any():
                object_row = int(objects[best])
                found.append(SuspectObject(image, "class", score, int(rows[i]), object_row))
        seen = iou.max(axis=0, initial=0) >= APART_IOU
        unseen += [(image, int(row)) for row in objects[~seen & ~crowd]]
    if unseen:
        labels = truth.class_id[[row for _, row in unseen]]
        num_unseen = np.bincount(labels, minlength=int(truth.class_id.max()) + 1)
        num_all = np.bincount(truth.class_id[~truth.is_crowd], minlength=len(num_unseen))
        for image, row in unseen:
            label = truth.class_id[row]
            share = 1 - float(num_unseen[label] / num_all[label])
            found.append(SuspectObject(image, "unseen", share, -1, row))
    return tuple(sorted(found, key=lambda item: (-item.weight, item.image_id, item.kind)))
