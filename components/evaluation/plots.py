"""Small CSV files for `dvc plots`: confusion, precision and recall, calibration."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.evaluation.classification import ClassificationResult, Integers
from components.evaluation.detection import DetectionResult
from components.evaluation.detection_confusion import BACKGROUND
from components.evaluation.multi_label import Bools, MultiLabelResult
from components.files import write_text

CONFUSION = "confusion.csv"
PRECISION_RECALL = "precision_recall.csv"
CALIBRATION = "calibration.csv"
# What a label is taken for that was missed, and what a false one was taken from.
ABSENT = "(absent)"


def write_classification_plots(
    folder: Path, result: ClassificationResult, targets: Integers, classes: Sequence[str]
) -> None:
    """Write the plots of a classifier; `precision_recall.csv` gets its header only.

    DVC wants every declared file of a stage, whatever the task.

    Args:
        folder: `plots/`.
        result: of `evaluate_classification`.
        targets: [N] the class ids it was given.
        classes: the C names.
    """
    pairs = zip(targets, result.predicted, strict=True)
    rows = ((classes[actual], classes[predicted]) for actual, predicted in pairs)
    _write(folder / CONFUSION, ("actual", "predicted"), rows)
    _write_calibration(folder, result.details["calibration"])
    _write(folder / PRECISION_RECALL, ("class", "recall", "precision"), ())


def write_multi_label_plots(
    folder: Path, result: MultiLabelResult, truth: Bools, classes: Sequence[str]
) -> None:
    """Write the plots of a classifier of several labels an image.

    In `confusion.csv` each label that is there or was predicted is a row: a missed one was
    predicted as `ABSENT`, a false one actually is `ABSENT`. `calibration.csv` is over all images
    and classes: `confidence` is the probability, `accuracy` the share that has the label.

    Args:
        folder: `plots/`.
        result: of `evaluate_multi_label`.
        truth: [N, C] the labels it was given.
        classes: the C names.
    """
    pairs = zip(*np.nonzero(np.asarray(truth, bool) | result.predicted), strict=True)
    rows = (
        (
            classes[label] if truth[image, label] else ABSENT,
            classes[label] if result.predicted[image, label] else ABSENT,
        )
        for image, label in pairs
    )
    _write(folder / CONFUSION, ("actual", "predicted"), rows)
    _write_calibration(folder, result.details["calibration"])
    _write_curves(folder, result.details["precision_recall"])


def write_detection_plots(folder: Path, result: DetectionResult) -> None:
    """Write the plots of a detector; `calibration.csv` gets its header only.

    In `confusion.csv` each object and each false detection is a row: a missed object was predicted
    as `BACKGROUND`, a false detection actually is `BACKGROUND`.

    Args:
        folder: `plots/`.
        result: of `evaluate_detection`.
    """
    _write_curves(folder, result.details["precision_recall"])
    names = [*result.details["classes"], BACKGROUND]
    rows = (
        (names[actual], names[predicted])
        for actual, predicted in zip(*result.confused, strict=True)
    )
    _write(folder / CONFUSION, ("actual", "predicted"), rows)
    _write_calibration(folder, ())


def _write_curves(folder: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    rows = (
        (name, _text(recall), _text(precision))
        for name, points in curves.items()
        for recall, precision in points
    )
    _write(folder / PRECISION_RECALL, ("class", "recall", "precision"), rows)


def _write_calibration(folder: Path, bins: Iterable[dict[str, Any]]) -> None:
    rows = ((_text(b["confidence"]), _text(b["accuracy"]), b["count"]) for b in bins)
    _write(folder / CALIBRATION, ("confidence", "accuracy", "count"), rows)


def _text(value: float) -> str:
    return f"{value:.6g}"


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
