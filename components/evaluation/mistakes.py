"""Words and boxes for pictures of mistakes, and of labels that are likely wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from components.evaluation.classification import ClassificationMistake
from components.evaluation.detection import DetectionMistake
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.multi_label import MultiLabelMistake
from components.evaluation.pictures import Box, Kind, NamedLabel
from components.evaluation.suspects import SuspectLabel, SuspectObject

_SUSPECT_WORDS = {
    "unlabelled": "not labelled",
    "class": "of another class",
    "unseen": "seen by no detection",
}


def describe_classification(
    mistake: ClassificationMistake, classes: Sequence[str]
) -> tuple[str, str]:
    """Title and detail of one mistake."""
    title = f"{classes[mistake.target]} taken for {classes[mistake.predicted]}"
    detail = (
        f"{100 * mistake.confidence:.1f} % sure; "
        f"{100 * mistake.target_probability:.1f} % for {classes[mistake.target]}"
    )
    return title, detail


def describe_multi_label(mistake: MultiLabelMistake, classes: Sequence[str]) -> tuple[str, str]:
    """Title and detail of one image's mistakes."""
    groups = {
        "false": mistake.false_ids,
        "missed": mistake.missed_ids,
        "found": mistake.correct_ids,
    }
    words = [f"{word}: {', '.join(classes[i] for i in ids)}" for word, ids in groups.items() if ids]
    title = f"{len(mistake.false_ids)} false, {len(mistake.missed_ids)} missed"
    return title, "; ".join([f"{100 * mistake.confidence:.1f} % sure", *words])


def mistake_labels(
    mistake: MultiLabelMistake, probabilities: Sequence[float], classes: Sequence[str]
) -> list[NamedLabel]:
    """Lines under the picture of an image, what is wrong first.

    Args:
        mistake: the image's.
        probabilities: [C] of the image.
        classes: the C names.
    """
    groups: tuple[tuple[Kind, tuple[int, ...]], ...] = (
        ("false", mistake.false_ids),
        ("missed", mistake.missed_ids),
        ("correct", mistake.correct_ids),
    )
    return [
        NamedLabel(classes[i], float(probabilities[i]), kind) for kind, ids in groups for i in ids
    ]


def describe_detection(
    mistake: DetectionMistake,
    truth: TrueObjects,
    predictions: Predictions,
    classes: Sequence[str],
) -> tuple[str, str]:
    """Title and detail of one image's mistakes."""
    false = _counts(classes[predictions.class_id[i]] for i in mistake.false_rows)
    missed = _counts(classes[truth.class_id[i]] for i in mistake.missed_rows)
    title = f"{len(mistake.false_rows)} false, {len(mistake.missed_rows)} missed"
    parts = [f"{word}: {names}" for word, names in (("false", false), ("missed", missed)) if names]
    return title, "; ".join([*parts, f"{len(mistake.correct_rows)} found"])


def _counts(names: Iterable[str]) -> str:
    """`3 RBC, Platelets`, the most frequent first."""
    counted = Counter(names).most_common()
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counted)


def mistake_boxes(
    mistake: DetectionMistake,
    truth: TrueObjects,
    predictions: Predictions,
    classes: Sequence[str],
) -> list[Box]:
    """Boxes to draw: missed objects, false detections, and what was found (without labels)."""
    boxes = [
        Box(_xywh(truth.boxes_xywh[i]), classes[truth.class_id[i]], None, "missed")
        for i in mistake.missed_rows
    ]
    groups: tuple[tuple[Kind, tuple[int, ...]], ...] = (
        ("correct", mistake.correct_rows),
        ("false", mistake.false_rows),
    )
    for kind, rows in groups:
        for i in rows:
            wrong = kind == "false"
            label = classes[predictions.class_id[i]] if wrong else ""
            score = float(predictions.score[i]) if wrong else None
            boxes.append(Box(_xywh(predictions.boxes_xywh[i]), label, score, kind))
    return boxes


def describe_suspect_label(suspect: SuspectLabel, classes: Sequence[str]) -> tuple[str, str]:
    """Title and detail of a label that is likely wrong."""
    given, proposed = classes[suspect.given], classes[suspect.proposed]
    sure = f"{100 * suspect.proposed_probability:.1f} %"
    if suspect.given != suspect.proposed:
        left = f"{100 * suspect.given_probability:.1f} % for {given}"
        return f"labelled {given}, looks like {proposed}", f"{sure} for {proposed}; {left}"
    if suspect.present:
        return f"labelled {given}, which is not seen", f"{sure} that it is not there"
    return f"not labelled {given}, which is seen", f"{sure} that it is there"


def describe_suspect_objects(
    suspects: Sequence[SuspectObject],
    truth: TrueObjects,
    predictions: Predictions,
    classes: Sequence[str],
) -> tuple[str, str]:
    """Title and detail of an image's boxes that are likely wrong in the truth."""
    counts = Counter(suspect.kind for suspect in suspects)
    title = ", ".join(f"{count} {_SUSPECT_WORDS[kind]}" for kind, count in counts.items())
    parts = []
    for suspect in suspects:
        given = classes[truth.class_id[suspect.object]] if suspect.object >= 0 else ""
        if suspect.prediction < 0:
            seen = f"{100 * suspect.weight:.0f} % of its kind are seen"
            parts.append(f"{given}: {seen}")
            continue
        found = classes[predictions.class_id[suspect.prediction]]
        name = f"{given} looks like {found}" if given else found
        parts.append(f"{name}: score {suspect.weight:.2f}")
    return title, "; ".join(parts)


def suspect_boxes(
    suspects: Sequence[SuspectObject],
    image_truth: Iterable[int],
    truth: TrueObjects,
    predictions: Predictions,
    classes: Sequence[str],
) -> list[Box]:
    """Boxes to draw: the image's truth without names, but for what is disputed.

    Args:
        suspects: of one image.
        image_truth: rows of `truth` in that image.
        truth, predictions: what the suspects point into.
        classes: the C names.
    """
    disputed = {suspect.object: suspect.kind for suspect in suspects if suspect.object >= 0}
    boxes = []
    for row in image_truth:
        name = classes[truth.class_id[row]] if row in disputed else ""
        kind: Kind = "missed" if disputed.get(row) == "unseen" else "true"
        boxes.append(Box(_xywh(truth.boxes_xywh[row]), name, None, kind))
    for suspect in suspects:
        if suspect.prediction >= 0:
            row = suspect.prediction
            found = int(predictions.class_id[row])
            place = _xywh(predictions.boxes_xywh[row])
            boxes.append(Box(place, classes[found], suspect.weight, "predicted", found))
    return boxes


def _xywh(row: Iterable[float]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in row)
    return x, y, width, height
