"""Is the ONNX file the model? Compared prediction by prediction on real images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Outputs = tuple[np.ndarray, ...]

# Pixels. Of a box next to nothing wide, as detectors give at an image's edge, rounding decides the
# IoU, and one without any area overlaps nothing, not even itself.
_SAME_EDGES = 0.01


@dataclass(frozen=True)
class Parity:
    """Differences found.

    Attributes:
        num_images: compared.
        num_compared: probabilities or detections compared.
        num_sure: images of classifiers; detections of both sides that must have a match.
        num_unmatched: those among them that have none.
        max_score_difference: of what was matched; infinite where a prediction of the file is no
            number.
        min_iou: of boxes matched by it; 1 for classifiers.
    """

    num_images: int = 0
    num_compared: int = 0
    num_sure: int = 0
    num_unmatched: int = 0
    max_score_difference: float = 0.0
    min_iou: float = 1.0

    def __add__(self, other: Parity) -> Parity:
        return Parity(
            self.num_images + other.num_images,
            self.num_compared + other.num_compared,
            self.num_sure + other.num_sure,
            self.num_unmatched + other.num_unmatched,
            max(self.max_score_difference, other.max_score_difference),
            min(self.min_iou, other.min_iou),
        )

    @property
    def share_matched(self) -> float:
        """Of what must have a match; 1 where nothing must."""
        return 1 - self.num_unmatched / self.num_sure if self.num_sure else 1.0

    def holds(self, score_tolerance: float) -> bool:
        """Nothing unmatched, and no score further off than the tolerance."""
        return self.num_unmatched == 0 and self.max_score_difference <= score_tolerance


def compare_probabilities(
    ours: np.ndarray, theirs: np.ndarray, score_tolerance: float = 1e-4
) -> Parity:
    """Class probabilities [B, C] of PyTorch and of the file; an image is matched if none differs by
    more than `score_tolerance`."""
    # A NaN on either side must not pass as "no difference".
    differences = np.nan_to_num(np.abs(ours - theirs).max(axis=1, initial=0.0), nan=np.inf)
    unmatched = int((differences > score_tolerance).sum())
    largest = float(differences.max(initial=0.0))
    return Parity(len(ours), ours.size, len(ours), unmatched, largest)


def compare_detections(
    ours: Outputs, theirs: Outputs, iou_tolerance: float, score_tolerance: float, threshold: float
) -> Parity:
    """Padded detections (boxes [B, D, 4], scores [B, D], labels [B, D]) of PyTorch and of the file.

    A detection is matched by one of the same class with IoU of at least `iou_tolerance`, or with
    all edges within a hundredth of a pixel, and a score within `score_tolerance`, one to one. One
    without a match is forgiven only where a score so near to a cut that rounding decides may be
    there on one side alone: at the threshold, or at the end of a list that is full.
    """
    total = Parity()
    for boxes_a, scores_a, labels_a, boxes_b, scores_b, labels_b in zip(
        *ours, *theirs, strict=True
    ):
        total += _compare_image(
            (boxes_a, scores_a, labels_a),
            (boxes_b, scores_b, labels_b),
            iou_tolerance,
            score_tolerance,
            threshold,
        )
    return total


def _compare_image(
    ours: Outputs, theirs: Outputs, iou_tolerance: float, score_tolerance: float, threshold: float
) -> Parity:
    boxes_a, scores_a, labels_a = ours
    boxes_b, scores_b, labels_b = theirs
    if not (np.isfinite(boxes_b).all() and np.isfinite(scores_b).all()):
        return Parity(1, 0, len(scores_b), len(scores_b), np.inf)
    free = scores_b > 0
    unmatched = 0
    score_difference, min_iou, compared = 0.0, 1.0, 0
    # A list's last score cuts only where both lists are full.
    cut = max(threshold, min(scores_a[-1], scores_b[-1])) + score_tolerance
    for box, score, label in zip(boxes_a, scores_a, labels_a, strict=True):
        if score <= 0:
            continue
        compared += 1
        overlap = iou_one_to_many(box, boxes_b)
        same = overlap >= iou_tolerance
        fits = free & (labels_b == label) & (same | _edges_equal(box, boxes_b))
        fits &= np.abs(scores_b - score) <= score_tolerance
        if not fits.any():
            unmatched += int(score > cut)
            continue
        partner = int(np.where(fits, overlap, -1).argmax())
        free[partner] = False
        score_difference = max(score_difference, float(abs(scores_b[partner] - score)))
        if same[partner]:
            min_iou = min(min_iou, float(overlap[partner]))
    unmatched += int((scores_b[free] > cut).sum())
    sure = int((scores_a > cut).sum() + (scores_b > cut).sum())
    return Parity(1, compared, sure, unmatched, score_difference, min_iou)


def _edges_equal(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether all edges of a box [4] are those of boxes [N, 4], but for rounding: bool [N]."""
    return np.abs(boxes - box).max(axis=1, initial=0.0) <= _SAME_EDGES


def iou_one_to_many(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box xyxy [4] with boxes [N, 4], in float64: [N]."""
    box, boxes = box.astype(np.float64), boxes.astype(np.float64)
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    inter = (high - low).clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return inter / np.maximum(areas - inter, 1e-12)
