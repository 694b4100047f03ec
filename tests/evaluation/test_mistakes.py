"""Words and boxes of mistakes."""

from __future__ import annotations

import numpy as np

from components.evaluation.classification import ClassificationMistake
from components.evaluation.detection import worst_images
from components.evaluation.detections import Predictions, TrueObjects
from components.evaluation.mistakes import (
    describe_classification,
    describe_detection,
    mistake_boxes,
)
from components.evaluation.pictures import draw_boxes


def test_classification():
    title, detail = describe_classification(ClassificationMistake(3, 0, 1, 0.934, 0.04), ["a", "b"])
    assert (title, detail) == ("a taken for b", "93.4 % sure; 4.0 % for a")


def test_detection():
    truth = TrueObjects(
        [5] * 3, [0, 0, 1], [[0, 0, 9, 9], [20, 0, 9, 9], [40, 0, 9, 9]], [81] * 3, [0] * 3
    )
    predictions = Predictions([5, 5], [1, 0], [0.9, 0.8], [[40, 0, 9, 9], [60, 60, 9, 9]])
    (mistake,) = worst_images(truth, predictions)
    assert describe_detection(mistake, truth, predictions, ["RBC", "WBC"]) == (
        "1 false, 2 missed",
        "false: RBC; missed: 2 RBC; 1 found",
    )
    boxes = mistake_boxes(mistake, truth, predictions, ["RBC", "WBC"])
    assert [(box.kind, box.text) for box in boxes] == [
        ("missed", "RBC"),
        ("missed", "RBC"),
        ("correct", ""),
        ("false", "RBC 0.80"),
    ]


def test_drawing_accepts_them():
    truth = TrueObjects([0], [0], [[1, 1, 5, 5]], [25], [0])
    none = Predictions([], [], [], [])
    (mistake,) = worst_images(truth, none)
    draw_boxes(np.zeros((9, 9, 3), np.uint8), mistake_boxes(mistake, truth, none, ["a"]))
