"""The COCO family on hand-made cases, against a loop-written oracle, and resampled."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools_oracle import run_pycocotools

from components.errors import DataError
from components.evaluation import detection
from components.evaluation.coco_figures import class_matches, resampled_map
from components.evaluation.coco_matching import match_all
from components.evaluation.detection import evaluate_detection, worst_images
from components.evaluation.detections import Predictions, TrueObjects, box_iou_xywh


def objects(*rows) -> TrueObjects:
    """Rows of (image, class, x, y, width, height[, crowd])."""
    table = np.array([[*row, 0][:7] for row in rows], dtype=float).reshape(-1, 7)
    return TrueObjects(
        table[:, 0], table[:, 1], table[:, 2:6], table[:, 4] * table[:, 5], table[:, 6]
    )


def found(*rows) -> Predictions:
    """Rows of (image, class, score, x, y, width, height)."""
    table = np.array(rows, dtype=float).reshape(-1, 7)
    return Predictions(table[:, 0], table[:, 1], table[:, 2], table[:, 3:])


def figures(truth, predictions, images=(0, 1, 2), classes=("a", "b"), **options):
    result = evaluate_detection(
        truth, predictions, images, classes, split="test", bootstrap=0, **options
    )
    json.dumps([result.figures, result.details], allow_nan=False)
    return result.figures


BOX = (10, 10, 50, 50)


@pytest.mark.parametrize(
    ("reason", "truth", "predictions", "wanted"),
    [
        ("all found", [(0, 0, *BOX)], [(0, 0, 0.9, *BOX)], {"map": 1, "mar_1": 1}),
        ("nothing predicted", [(0, 0, *BOX)], [], {"map": 0, "mar_100": 0}),
        ("wrong class", [(0, 0, *BOX)], [(0, 1, 0.9, *BOX)], {"map": 0}),
        (
            "false box in an image without objects, stronger than the right one",
            [(0, 0, *BOX)],
            [(0, 0, 0.8, *BOX), (1, 0, 0.9, *BOX)],
            {"map": 0.5, "map_50": 0.5},
        ),
        (
            "false box weaker than the right one costs nothing",
            [(0, 0, *BOX)],
            [(0, 0, 0.9, *BOX), (1, 0, 0.8, *BOX)],
            {"map": 1},
        ),
        (
            "a second box on the same object is false",
            [(0, 0, *BOX), (1, 0, *BOX)],
            [(0, 0, 0.9, *BOX), (0, 0, 0.8, *BOX), (1, 0, 0.7, *BOX)],
            # recall 0.5 at precision 1 (51 of 101 points), then 2/3
            {"map_50": (51 + 50 * 2 / 3) / 101},
        ),
        (
            "boxes inside a crowd are ignored",
            [(0, 0, *BOX), (0, 0, 100, 100, 200, 200, 1)],
            [(0, 0, 0.8, *BOX), (0, 0, 0.9, 120, 120, 20, 20), (0, 0, 0.9, 150, 150, 20, 20)],
            {"map": 1},
        ),
        (
            "IoU 0.6 counts at the thresholds 0.5, 0.55 and 0.6",
            [(0, 0, 0, 0, 100, 100)],
            [(0, 0, 0.9, 0, 0, 100, 60.1)],
            {"map": 0.3, "map_50": 1, "map_75": 0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_by_hand(reason, truth, predictions, wanted):
    got = figures(objects(*truth), found(*predictions))
    assert {name: got[name] for name in wanted} == pytest.approx(wanted)


def test_sizes_go_by_the_area_given_and_absent_sizes_are_absent():
    small, large = (0, 0, 5, 5, 20, 20), (1, 0, 5, 5, 200, 200)
    got = figures(objects(small, large), found((0, 0, 0.9, 5, 5, 20, 20)))
    assert (got["map_small"], got["map_large"]) == pytest.approx((1, 0))
    assert "map_medium" not in got
    # A segmentation's area is smaller than its box's.
    masked = TrueObjects([0], [0], [[0, 0, 100, 100]], [900.0], [False])
    assert set(figures(masked, found())) & {"map_small", "map_large"} == {"map_small"}


def test_no_object_at_all_leaves_the_numbers_out():
    got = figures(objects(), found((0, 0, 0.9, *BOX)))
    assert got == {"split": "test", "num_images": 3}
    assert figures(objects(), found()) == got
    result = evaluate_detection(
        objects((0, 0, *BOX, 1)), found(), [0], ["a"], split="test", bootstrap=20
    )
    assert result.figures == {"split": "test", "num_images": 1}
    assert result.details["per_class"] == [{"class": "a", "num_objects": 0}]
    assert result.details["precision_recall"] == {}


def test_nothing_is_printed(capsys):
    figures(objects((0, 0, *BOX)), found((0, 0, 0.9, *BOX)))
    assert capsys.readouterr() == ("", "")


def random_case(seed: int, num_images: int = 12, num_classes: int = 3, crowd: bool = True):
    rng = np.random.default_rng(seed)
    truth, predictions = [], []
    for image in range(num_images):
        for _ in range(rng.integers(0, 6)):
            box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(8, 140, 2)])
            label = int(rng.integers(num_classes))
            truth.append((image, label, *box, int(crowd and rng.random() < 0.1)))
            for _ in range(rng.integers(0, 3)):
                near = box + rng.normal(0, 6, 4)
                near[2:] = near[2:].clip(2)
                predictions.append((image, label, rng.random(), *near))
        for _ in range(rng.integers(0, 3)):
            box = np.concatenate([rng.uniform(0, 200, 2), rng.uniform(8, 140, 2)])
            predictions.append((image, int(rng.integers(num_classes)), rng.random(), *box))
    return objects(*truth), found(*predictions)


def average_precision_by_loops(truth, predictions, class_id: int, min_iou: float) -> float:
    """AP of one class with 101 recall points, written as plainly as it can be."""
    true_rows = [i for i in range(len(truth.class_id)) if truth.class_id[i] == class_id]
    rows = [i for i in range(len(predictions.class_id)) if predictions.class_id[i] == class_id]
    rows.sort(key=lambda i: -predictions.score[i])
    taken, right = set(), []
    for row in rows:
        best, best_iou = None, min_iou
        for i in true_rows:
            if i in taken or truth.image_id[i] != predictions.image_id[row]:
                continue
            overlap = box_iou_xywh(
                predictions.boxes_xywh[row : row + 1], truth.boxes_xywh[i : i + 1]
            )[0, 0]
            if overlap >= best_iou:
                best, best_iou = i, overlap
        taken.add(best)
        right.append(best is not None)
        taken.discard(None)
    points, hits = [], 0
    for rank, hit in enumerate(right, start=1):
        hits += hit
        points.append((hits / len(true_rows), hits / rank))
    total = 0.0
    for step in np.linspace(0, 1, 101):
        total += max((p for r, p in points if r >= step), default=0.0)
    return total / 101


@pytest.mark.parametrize("seed", range(4))
def test_per_class_equals_the_loop_written_oracle(seed):
    truth, predictions = random_case(seed, crowd=False)
    result = evaluate_detection(
        truth, predictions, range(12), ["a", "b", "c"], split="test", bootstrap=0
    )
    for class_id, row in enumerate(result.details["per_class"]):
        by_loops = [
            average_precision_by_loops(truth, predictions, class_id, min_iou)
            for min_iou in np.linspace(0.5, 0.95, 10)
        ]
        assert row["ap_50"] == pytest.approx(by_loops[0])
        assert row["ap"] == pytest.approx(np.mean(by_loops))
        curve = np.array(result.details["precision_recall"][row["class"]])
        assert curve.shape == (101, 2)
        assert curve[:, 1].mean() == pytest.approx(row["ap_50"])
    assert result.figures["map"] == pytest.approx(
        np.mean([row["ap"] for row in result.details["per_class"]])
    )


@pytest.mark.parametrize("seed", range(3))
def test_weighted_images_equal_pycocotools_on_repeated_images(seed):
    truth, predictions = random_case(seed)
    ids = np.arange(12)
    matches = class_matches(match_all(truth, predictions, ids, 3))
    rng = np.random.default_rng(seed)
    for draw in (ids, rng.integers(0, 12, 12), rng.integers(0, 12, 12)):
        weights = np.bincount(draw, minlength=12)[None].astype(float)
        got = resampled_map(matches, weights)
        true_parts = [(new, np.flatnonzero(truth.image_id == old)) for new, old in enumerate(draw)]
        parts = [(new, np.flatnonzero(predictions.image_id == old)) for new, old in enumerate(draw)]
        true_rows = np.concatenate([rows for _, rows in true_parts])
        rows = np.concatenate([rows for _, rows in parts])
        repeated = run_pycocotools(
            TrueObjects(
                np.concatenate([np.full(len(rows), new) for new, rows in true_parts]),
                truth.class_id[true_rows],
                truth.boxes_xywh[true_rows],
                truth.area[true_rows],
                truth.is_crowd[true_rows],
            ),
            Predictions(
                np.concatenate([np.full(len(rows), new) for new, rows in parts]),
                predictions.class_id[rows],
                predictions.score[rows],
                predictions.boxes_xywh[rows],
            ),
            ids,
            3,
        )
        assert got.mean() == pytest.approx(repeated.stats[0])
        assert got[0, 0] == pytest.approx(repeated.stats[1])


def test_intervals_hold_the_figure_and_are_seeded():
    truth, predictions = random_case(7, num_images=40)
    options = {"image_ids": range(40), "classes": ["a", "b", "c"], "split": "test"}
    first = evaluate_detection(truth, predictions, bootstrap=300, seed=1, **options)
    again = evaluate_detection(truth, predictions, bootstrap=300, seed=1, **options)
    assert first.figures == again.figures
    for name in ("map", "map_50", "map_75"):
        got = first.figures
        assert got[f"{name}_low"] < got[name] < got[f"{name}_high"]
        assert first.details["intervals"][name] == [got[f"{name}_low"], got[f"{name}_high"]]


def test_resamples_are_capped(monkeypatch):
    truth, predictions = random_case(1)
    monkeypatch.setattr(detection, "MAX_BOOTSTRAP_WORK", 1)
    sizes = []
    real = detection.resampled_map
    monkeypatch.setattr(detection, "resampled_map", lambda m, w: sizes.append(len(w)) or real(m, w))
    evaluate_detection(truth, predictions, range(12), "abc", split="test", bootstrap=5000)
    assert sum(sizes) == 200


def test_worst_images_first():
    truth = objects(
        (0, 0, *BOX),  # found
        (1, 0, *BOX),  # missed
        (2, 0, *BOX),  # taken for b: false and missed
        (3, 0, 0, 0, 200, 200, 1),  # a crowd
    )
    predictions = found(
        (0, 0, 0.9, *BOX),
        (0, 0, 0.7, *BOX),  # duplicate
        (1, 0, 0.4, *BOX),  # too weak to count
        (2, 1, 0.8, *BOX),
        (3, 0, 0.9, 20, 20, 30, 30),  # inside the crowd
        (4, 0, 0.95, *BOX),  # nothing is there
    )
    worst = worst_images(truth, predictions)
    assert [(item.image_id, round(item.badness, 6)) for item in worst] == [
        (2, 1.8),
        (1, 1.0),
        (4, 0.95),
        (0, 0.7),
    ]
    assert (worst[0].false_rows, worst[0].missed_rows) == ((3,), (2,))
    assert worst[3].correct_rows == (0,)
    assert worst_images(objects(), found()) == ()


def test_a_prediction_takes_the_object_it_overlaps_most():
    truth = objects((0, 0, 0, 0, 100, 100), (0, 0, 20, 0, 100, 100))
    predictions = found((0, 0, 0.9, 18, 0, 100, 100), (0, 0, 0.8, 2, 0, 100, 100))
    assert worst_images(truth, predictions) == ()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: figures(objects(), found(), images=()), DataError, "empty"),
        (lambda: figures(objects((9, 0, *BOX)), found()), ValueError, "not measured"),
        (lambda: figures(objects((0, 2, *BOX)), found()), ValueError, "class ids"),
        (lambda: figures(objects(), found(), images=(1, 1)), ValueError, "twice"),
        (lambda: found((0, 0, np.nan, *BOX)), ValueError, "finite"),
        (lambda: Predictions([0], [0], [0.5, 0.6], [[0, 0, 1, 1]]), ValueError, "lengths"),
        (lambda: Predictions([0], [0], [0.5], [[0, 0, 1]]), ValueError, r"\[n, 4\]"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
