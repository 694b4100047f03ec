"""CSV files for `dvc plots`."""

from __future__ import annotations

import csv

import numpy as np

from components.evaluation.classification import evaluate_classification
from components.evaluation.detection import evaluate_detection
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.plots import write_classification_plots, write_detection_plots


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_classification(tmp_path):
    classes = ['say "a", b', "ü"]
    targets = np.array([0, 1, 1])
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    result = evaluate_classification(probabilities, targets, classes, split="test", bootstrap=0)
    write_classification_plots(tmp_path, result, targets, classes)
    assert rows(tmp_path / "confusion.csv") == [
        ["actual", "predicted"],
        [classes[0], classes[0]],
        [classes[1], classes[0]],
        [classes[1], classes[1]],
    ]
    calibration = rows(tmp_path / "calibration.csv")
    assert calibration[0] == ["confidence", "accuracy", "count"]
    assert ["0.6", "0", "1"] in calibration
    assert rows(tmp_path / "precision_recall.csv") == [["class", "recall", "precision"]]


def test_detection(tmp_path):
    box = [1, 1, 9, 9]
    result = evaluate_detection(
        TrueObjects([0, 7], [1, 0], [box, box], [81, 81], [0, 0]),
        Predictions([0, 0], [1, 0], [0.9, 0.8], [box, [50, 50, 9, 9]]),
        [0, 7],
        ["a", "b"],
        split="test",
        thresholds=[0.5, 0.5],
        bootstrap=0,
    )
    write_detection_plots(tmp_path, result)
    curve = rows(tmp_path / "precision_recall.csv")
    assert len(curve) == 203
    assert curve[102] == ["b", "0", "1"]
    assert rows(tmp_path / "confusion.csv") == [
        ["actual", "predicted"],
        ["b", "b"],
        ["(background)", "a"],
        ["a", "(background)"],
    ]
