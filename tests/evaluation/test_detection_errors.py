"""Kinds of errors and what they cost, thresholds, slices and suspect labels of a detector."""

import numpy as np
import pytest
from scipy.special import softmax
from test_coco_equality import case
from test_detection_figures import BOX, found, objects

from components.evaluation.coco_figures import accumulate
from components.evaluation.coco_matching import match_all
from components.evaluation.detection import evaluate_detection
from components.evaluation.detection_errors import KINDS, MISSED, error_table, find_errors
from components.evaluation.detections import of_images
from components.evaluation.operating_points import best_thresholds
from components.evaluation.suspects import suspect_labels, suspect_objects

FAR = (300, 300, 40, 40)


def shifted(iou: float, side: float = 50) -> tuple[float, float, float, float]:
    """A box of BOX's size whose overlap with it is `iou`."""
    step = side * (1 - iou) / (1 + iou)
    return (BOX[0] + step, BOX[1], side, side)


def errors_of(truth, predictions, ids=(0, 1, 2), num_classes=2):
    truth, predictions = objects(*truth), found(*predictions)
    matches = match_all(truth, predictions, np.array(ids), num_classes)
    errors = find_errors(matches, truth, predictions)
    kinds = {int(matches.row[p]): KINDS[k] for p, k in zip(errors.place, errors.kind, strict=True)}
    return kinds, errors.missed.tolist(), error_table(matches, truth, predictions)


@pytest.mark.parametrize(
    ("reason", "truth", "predictions", "kinds", "missed"),
    [
        ("right", [(0, 0, *BOX)], [(0, 0, 0.9, *BOX)], {}, []),
        ("class", [(0, 0, *BOX)], [(0, 1, 0.9, *BOX)], {0: "classification"}, []),
        ("box", [(0, 0, *BOX)], [(0, 0, 0.9, *shifted(0.3))], {0: "localisation"}, []),
        ("both", [(0, 0, *BOX)], [(0, 1, 0.9, *shifted(0.3))], {0: "both"}, [0]),
        ("nothing there", [(0, 0, *BOX)], [(0, 0, 0.9, *FAR)], {0: "background"}, [0]),
        ("no object in the image", [(1, 0, *BOX)], [(0, 0, 0.9, *BOX)], {0: "background"}, [0]),
        (
            "a second one",
            [(0, 0, *BOX)],
            [(0, 0, 0.8, *BOX), (0, 0, 0.9, *shifted(0.9))],
            {0: "duplicate"},
            [],
        ),
        ("in a crowd", [(0, 0, *BOX, 1)], [(0, 0, 0.9, *BOX)], {}, []),
        ("on a crowd of another class", [(0, 0, *BOX, 1)], [(0, 1, 0.9, *BOX)], {0: KINDS[4]}, []),
        ("not found", [(0, 0, *BOX), (2, 1, *BOX)], [], {}, [0, 1]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_by_hand(reason, truth, predictions, kinds, missed):
    got_kinds, got_missed, _ = errors_of(truth, predictions)
    assert (got_kinds, got_missed) == (kinds, missed)


@pytest.mark.parametrize(
    ("reason", "kind", "truth", "predictions", "gain"),
    [
        ("a class put right", "classification", [(0, 0, *BOX)], [(0, 1, 0.9, *BOX)], 1.0),
        ("a box put right", "localisation", [(0, 0, *BOX)], [(0, 0, 0.9, *shifted(0.3))], 1.0),
        (
            "only the best of two on one object is put right",
            "localisation",
            [(0, 0, *BOX)],
            [(0, 0, 0.9, *shifted(0.3)), (0, 0, 0.8, *shifted(0.4))],
            1.0,
        ),
        (
            "on an object that is found already it goes",
            "localisation",
            [(0, 0, *BOX)],
            [(0, 0, 0.8, *BOX), (0, 0, 0.9, *shifted(0.3))],
            0.5,
        ),
        (
            "on nothing, before the right one",
            "background",
            [(0, 0, *BOX)],
            [(0, 0, 0.8, *BOX), (0, 0, 0.9, *FAR)],
            0.5,
        ),
        (
            "on nothing, after the right one: it costs nothing",
            "background",
            [(0, 0, *BOX)],
            [(0, 0, 0.9, *BOX), (0, 0, 0.8, *FAR)],
            0.0,
        ),
        (
            "one of two objects is missed: AP50 is 51/101",
            MISSED,
            [(0, 0, *BOX), (1, 0, *BOX)],
            [(0, 0, 0.9, *BOX)],
            50 / 101,
        ),
        ("all are missed", MISSED, [(0, 0, *BOX)], [], 1.0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_costs_by_hand(reason, kind, truth, predictions, gain):
    _, _, table = errors_of(truth, predictions)
    row = next(row for row in table if row["kind"] == kind)
    assert row["ap_50_gain"] == pytest.approx(gain)
    gains = [row["ap_50_gain"] for row in table]
    assert gains == sorted(gains, reverse=True) and len(gains) == 6


@pytest.mark.parametrize("seed", range(3))
def test_every_false_detection_has_one_kind_and_no_fix_costs(seed):
    truth, predictions, ids, num_classes = case(seed, crowd=0.2, found=25)
    matches = match_all(truth, predictions, ids, num_classes)
    table = error_table(matches, truth, predictions)
    false = (matches.matched[0, 0] < 0) & ~matches.ignored[0, 0]
    counts = {row["kind"]: row["count"] for row in table}
    assert sum(counts.values()) - counts[MISSED] == false.sum()
    assert all(row["ap_50_gain"] >= -1e-12 for row in table)
    confident = sum(row.get("confident", 0) for row in table)
    assert confident == (false & (matches.score >= 0.5)).sum()
    assert error_table(match_all(objects(), found(), ids, 2), objects(), found()) == []


@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_has_a_better_f1(seed):
    truth, predictions, ids, num_classes = case(seed, num_images=25, crowd=0.1)
    chosen = best_thresholds(truth, predictions, ids, num_classes)

    def f1(thresholds):
        rows = evaluate_detection(
            truth,
            predictions,
            ids,
            "abc",
            split="val",
            thresholds=thresholds,
            bootstrap=0,
        ).details["per_class"]
        for row in rows:
            # Both figures are of the same detections.
            right = row["num_objects"] - row["num_missed"]
            assert row["recall"] == pytest.approx(right / row["num_objects"])
            assert row["precision"] == pytest.approx(right / max(1, right + row["num_false"]))
        return np.array([row["f1"] for row in rows])

    best = f1(chosen)
    for threshold in np.linspace(0, 1, 25):
        assert (best >= f1([threshold] * num_classes) - 1e-12).all()


def test_a_class_that_val_says_nothing_about_has_the_usual_threshold():
    truth, predictions = objects((0, 0, *BOX), (0, 1, *FAR)), found((0, 0, 0.8, *BOX))
    assert best_thresholds(truth, predictions, np.array([0]), 3) == (0.4, 0.5, 0.5)


@pytest.mark.parametrize("seed", range(2))
def test_a_slice_has_the_figure_of_its_images_alone(seed):
    truth, predictions, ids, num_classes = case(seed, num_images=40, crowd=0.1)
    camera = np.array(["a", "b"] * 20)
    rows = evaluate_detection(
        truth,
        predictions,
        ids,
        "abc",
        split="test",
        columns={"camera": camera},
        bootstrap=30,
    ).details["slices"]
    assert len(rows) == 2 and rows[0]["figure"] <= rows[1]["figure"]
    for row in rows:
        part = ids[camera == row["value"]]
        alone = accumulate(
            match_all(of_images(truth, part), of_images(predictions, part), part, num_classes)
        ).numbers()
        assert row["figure"] == pytest.approx(alone["map"])
        assert row["num_images"] == 20 and row["low"] <= row["figure"] <= row["high"]


@pytest.mark.parametrize(
    ("reason", "truth", "predictions", "wanted"),
    [
        ("all is well", [(0, 0, *BOX)], [(0, 0, 0.95, *BOX)], []),
        (
            "sure, and nothing there",
            [(0, 0, *BOX)],
            [(0, 0, 0.9, *BOX), (0, 1, 0.8, *FAR)],
            [("unlabelled", 1, -1, 0.8)],
        ),
        ("unsure", [(0, 0, *BOX)], [(0, 0, 0.9, *BOX), (0, 1, 0.5, *FAR)], []),
        (
            "told once",
            [(0, 0, *BOX)],
            [(0, 0, 0.9, *BOX), (0, 1, 0.8, *FAR), (0, 0, 0.75, *FAR)],
            [("unlabelled", 1, -1, 0.8)],
        ),
        ("another name", [(0, 0, *BOX)], [(0, 1, 0.9, *BOX)], [("class", 0, 0, 0.9)]),
        (
            "another name, but its own as well",
            [(0, 0, *BOX)],
            [(0, 1, 0.9, *BOX), (0, 0, 0.8, *BOX)],
            [],
        ),
        (
            "one of two is not seen",
            [(0, 0, *BOX), (1, 0, *BOX)],
            [(0, 0, 0.1, *BOX)],
            [("unseen", -1, 1, 0.5)],
        ),
        ("a crowd is no suspect", [(0, 0, *BOX, 1)], [], []),
        ("inside a crowd", [(0, 0, *BOX, 1)], [(0, 0, 0.9, 20, 20, 10, 10)], []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_suspect_objects_by_hand(reason, truth, predictions, wanted):
    got = suspect_objects(objects(*truth), found(*predictions))
    assert [(s.kind, s.prediction, s.object, pytest.approx(s.weight)) for s in got] == wanted


def test_flipped_labels_are_found_and_few_others():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    logits = rng.normal(size=(400, 4))
    logits[np.arange(400), truth] += 4
    probabilities = softmax(logits, axis=1)
    flipped = rng.choice(400, 20, replace=False)
    given = truth.copy()
    given[flipped] = (given[flipped] + 1) % 4
    got = suspect_labels(probabilities, given)
    accused = {item.index for item in got}
    # Those of which the model is as sure as it usually is, and nobody else.
    assert len(accused) >= 12 and accused <= set(flipped.tolist())
    best = got[0]
    assert best.proposed == truth[best.index] and best.given == given[best.index]
    clear = [item.proposed_probability - item.given_probability for item in got]
    assert clear == sorted(clear, reverse=True)


def test_a_model_unsure_of_a_class_accuses_nobody_of_it():
    # 0.6 for class 0 is little, where its own images have 0.9.
    surer = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 4)
    assert suspect_labels(surer, np.array([0] * 4 + [1] * 4)) == ()


def test_flipped_labels_of_several_are_found():
    rng = np.random.default_rng(1)
    truth = rng.random((200, 3)) < 0.4
    probabilities = np.where(truth, 0.9, 0.1) + rng.uniform(-0.08, 0.08, truth.shape)
    given = truth.copy()
    given[3, 1], given[7, 2] = ~given[3, 1], ~given[7, 2]
    for place in ((3, 1), (7, 2)):
        probabilities[place] = 0.98 if truth[place] else 0.02
    got = suspect_labels(probabilities, given.astype(int))
    assert {(item.index, item.given, item.present) for item in got[:2]} == {
        (3, 1, bool(given[3, 1])),
        (7, 2, bool(given[7, 2])),
    }
    assert len(got) == 2
