"""A detector's confusion matrix, by hand and against the figures at the thresholds."""

import numpy as np
import pytest
from test_coco_equality import case
from test_detection_errors import FAR, shifted
from test_detection_figures import BOX, found, objects

from components.evaluation.coco_matching import match_all
from components.evaluation.detection import evaluate_detection
from components.evaluation.detection_confusion import confused_pairs

A, B, NONE = 0, 1, 2


@pytest.mark.parametrize(
    ("reason", "truth", "predictions", "wanted"),
    [
        ("right", [(0, A, *BOX)], [(0, A, 0.9, *BOX)], [(A, A)]),
        ("another class", [(0, A, *BOX)], [(0, B, 0.9, *BOX)], [(A, B)]),
        ("below the threshold", [(0, A, *BOX)], [(0, A, 0.4, *BOX)], [(A, NONE)]),
        ("at the threshold", [(0, A, *BOX)], [(0, A, 0.5, *BOX)], [(A, A)]),
        ("on nothing", [(0, A, *BOX)], [(0, B, 0.9, *FAR)], [(NONE, B), (A, NONE)]),
        ("inexact", [(0, A, *BOX)], [(0, A, 0.9, *shifted(0.4))], [(NONE, A), (A, NONE)]),
        (
            "of an image without objects",
            [(0, A, *BOX)],
            [(1, A, 0.9, *BOX)],
            [(NONE, A), (A, NONE)],
        ),
        (
            "a second one is about nothing",
            [(0, A, *BOX)],
            [(0, A, 0.9, *BOX), (0, A, 0.8, *BOX)],
            [(A, A), (NONE, A)],
        ),
        (
            "the own class goes first, however unsure",
            [(0, A, *BOX)],
            [(0, B, 0.9, *BOX), (0, A, 0.6, *shifted(0.8))],
            [(A, A), (NONE, B)],
        ),
        (
            "of other classes the surest takes it",
            [(0, A, *BOX)],
            [(0, B, 0.6, *BOX), (0, B, 0.9, *shifted(0.8))],
            [(A, B), (NONE, B)],
        ),
        ("in a crowd nothing is wrong", [(0, A, *BOX, 1)], [(0, A, 0.9, *BOX)], []),
        ("a crowd is not taken for a class", [(0, A, *BOX, 1)], [(0, B, 0.9, *BOX)], [(NONE, B)]),
        ("nothing at all", [], [], []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_by_hand(reason, truth, predictions, wanted):
    truth, predictions = objects(*truth), found(*predictions)
    ids = np.array([0, 1])
    matches = match_all(truth, predictions, ids, 2)
    actual, predicted = confused_pairs(matches, truth, predictions, ids, [0.5, 0.5])
    assert sorted(zip(actual.tolist(), predicted.tolist(), strict=True)) == sorted(wanted)


@pytest.mark.parametrize("options", [{}, {"crowd": 0.4, "tied_scores": True}, {"found": 300}])
def test_it_adds_up_to_the_figures_at_the_thresholds(options):
    truth, predictions, ids, num_classes = case(4, **options)
    result = evaluate_detection(
        truth,
        predictions,
        ids,
        [str(i) for i in range(num_classes)],
        split="test",
        thresholds=[0.3] * num_classes,
        bootstrap=0,
    )
    matrix = np.array(result.details["confusion"])
    assert matrix.shape == (num_classes + 1,) * 2 and matrix[-1, -1] == 0
    for i, row in enumerate(result.details["per_class"]):
        assert matrix[i].sum() == row["num_objects"]
        assert matrix[i, i] == round(row["recall"] * row["num_objects"])
        assert matrix[:, i].sum() - matrix[i, i] == row["num_false"]


def test_without_thresholds_there_is_none():
    result = evaluate_detection(objects((0, A, *BOX)), found(), [0], ["a"], split="t", bootstrap=0)
    assert result.details["confusion"] is None
