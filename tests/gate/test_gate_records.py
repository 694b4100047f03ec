"""Figures under weights of the images, and the paired bootstrap: properties and a simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score

from components.evaluation.detection import Predictions, TrueObjects, evaluate_detection
from components.gate.figures import compare, gain_interval
from components.gate.records import (
    BoxRecords,
    LabelRecords,
    MultiLabelRecords,
    as_measured,
    resample,
)
from components.gate.settings import GateSettings

SETTINGS = GateSettings(resamples=200)


def labels(right: np.ndarray, targets: np.ndarray | None = None, balanced=False) -> LabelRecords:
    targets = np.arange(len(right)) % 3 if targets is None else targets
    return LabelRecords((0, 1, 2), targets, np.asarray(right, dtype=bool), balanced)


def several(seed: int, truth: np.ndarray) -> MultiLabelRecords:
    rng = np.random.default_rng(seed)
    return MultiLabelRecords((0, 1, 2), (truth + 2 * rng.random(truth.shape)) / 3, truth)


def boxes(seed: int, num_images: int = 20, at_50: bool = False) -> BoxRecords:
    """Three objects an image, found a little off by a detector that `seed` makes."""
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(num_images), 3)
    corners = rng.integers(0, 200, (len(image), 2))
    truth = np.concatenate([corners, rng.integers(30, 60, (len(image), 2))], axis=1)
    class_id = rng.integers(0, 3, len(image))
    rng = np.random.default_rng(seed)
    found = truth + rng.normal(0, 3, truth.shape)
    result = evaluate_detection(
        TrueObjects(image, class_id, truth, truth[:, 2:].prod(axis=1), np.zeros(len(image))),
        Predictions(image, class_id, rng.random(len(image)), found),
        np.arange(num_images),
        "abc",
        split="test",
        bootstrap=0,
    )
    records = BoxRecords(result.matches, num_images, at_50)
    headline = result.figures["map_50" if at_50 else "map"]
    assert as_measured(records)[0] == pytest.approx(headline)
    return records


TRUTH = np.random.default_rng(3).random((20, 3)) < 0.4
PAIRS = {
    "accuracy": lambda s: labels(np.random.default_rng(s).random(20) < 0.7),
    "balanced": lambda s: labels(np.random.default_rng(s).random(20) < 0.7, balanced=True),
    "several labels": lambda s: several(s, TRUTH),
    "boxes": boxes,
    "boxes at 0.5": lambda s: boxes(s, at_50=True),
}


@pytest.mark.parametrize("balanced", [False, True])
def test_accuracy_of_weighted_images_is_that_of_repeated_ones(balanced):
    rng = np.random.default_rng(0)
    targets, predicted = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    draw = rng.integers(0, 30, 30)
    weights = np.bincount(draw, minlength=30)[None].astype(float)
    main, _ = labels(predicted == targets, targets, balanced).figures(weights)
    score = balanced_accuracy_score if balanced else accuracy_score
    assert main[0] == pytest.approx(score(targets[draw], predicted[draw]))


def test_several_labels_equal_scikit_learn():
    records = several(1, TRUTH)
    main, by_class = as_measured(records)
    expected = [average_precision_score(TRUTH[:, k], records.probabilities[:, k]) for k in range(3)]
    assert list(by_class.values()) == pytest.approx(expected)
    assert main == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_part_of_the_images_is_what_weights_of_0_and_1_say(kind):
    records = PAIRS[kind](1)
    chosen = np.array([1, 4, 5, 6, 11, 12, 17])
    weights = np.zeros((1, 20))
    weights[0, chosen] = 1
    main, by_class = records.figures(weights)
    part = as_measured(records.of_images(chosen))
    assert part[0] == pytest.approx(main[0])
    assert list(part[1].values()) == pytest.approx(by_class[0].tolist(), nan_ok=True)


@pytest.mark.parametrize("kind", ["balanced", "several labels", "boxes"])
def test_a_part_of_the_classes_is_their_mean(kind):
    records = PAIRS[kind](1)
    _, by_class = as_measured(records)
    assert as_measured(records.of_classes([0, 2]))[0] == pytest.approx(
        (by_class[0] + by_class[2]) / 2
    )


def test_images_of_other_classes_do_not_count_for_accuracy():
    records = labels([1, 1, 0, 1, 0, 0], np.array([0, 1, 2, 0, 1, 2]))
    assert records.of_classes([0, 1]).num_images == 4
    assert as_measured(records.of_classes([0, 1]))[0] == 0.75


@pytest.mark.parametrize("kind", PAIRS)
def test_a_model_is_never_told_from_itself(kind):
    records = PAIRS[kind](1)
    found = compare([records, records], {0: ("a", 9)}, {"x": np.arange(9)}, [0], SETTINGS, 0)
    for entry in (
        found["all"],
        found["known_classes"],
        found["classes"]["a"],
        found["slices"]["x"],
    ):
        assert entry["gain"] == entry["low"] == entry["high"] == 0


@pytest.mark.parametrize("kind", PAIRS)
def test_resamples_are_paired_and_seeded(kind):
    one, two = PAIRS[kind](1), PAIRS[kind](2)
    both = resample([one, two], 200, seed=5)
    alone = resample([one], 200, seed=5)
    np.testing.assert_array_equal(both[0][0], alone[0][0])
    assert not np.array_equal(both[0][0], resample([one], 200, seed=6)[0][0])
    gains = compare([one, two], {}, {}, None, SETTINGS, 5)["all"]
    mirrored = compare([two, one], {}, {}, None, SETTINGS, 5)["all"]
    assert gains["gain"] == -mirrored["gain"]
    assert gains["low"] == pytest.approx(-mirrored["high"])
    assert gains["low"] <= gains["gain"] <= gains["high"]


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40), st.integers(0, 9)
)
@settings(deadline=None, max_examples=40)
def test_one_image_more_that_is_right_never_lowers_the_gain(pairs, seed):
    challenger, champion = (np.array(column) for column in zip(*pairs, strict=True))
    better = challenger.copy()
    better[int(np.argmin(challenger))] = True
    options = ({}, {}, None, SETTINGS, seed)
    before = compare([labels(challenger), labels(champion)], *options)["all"]
    after = compare([labels(better), labels(champion)], *options)["all"]
    assert all(after[key] >= before[key] for key in ("gain", "low", "high", "challenger"))


def test_the_interval_follows_from_its_text():
    whole = compare([PAIRS["boxes"](1), PAIRS["boxes"](2)], {}, {}, None, SETTINGS, 0)["all"]
    assert gain_interval(whole["gains"], 0.95) == {"low": whole["low"], "high": whole["high"]}
    narrower = gain_interval(whole["gains"], 0.5)
    assert whole["low"] < narrower["low"] < narrower["high"] < whole["high"]


def promoted_share(wins: float, losses: float, num_images: int, num_models: int) -> float:
    """Share of challengers that come out as better.

    `wins` and `losses`: the probability that only one of the two is right on an image.
    """
    rng = np.random.default_rng(0)
    targets, promoted = np.zeros(num_images, dtype=np.int64), 0
    for seed in range(num_models):
        drawn = rng.random(num_images)
        won, lost = drawn < wins, drawn > 1 - losses
        both = LabelRecords((0,), targets, ~lost), LabelRecords((0,), targets, ~won)
        gains = np.subtract(*(main for main, _ in resample(both, 200, seed)))
        promoted += np.quantile(gains, 0.025) > 0
    return promoted / num_models


def test_a_model_that_is_no_better_is_seldom_promoted_and_one_that_is_often():
    # 150 models: one standard error is 1.6 points at 4 %.
    assert promoted_share(0.05, 0.05, 100, 150) < 0.05
    assert promoted_share(0.04, 0.08, 100, 150) < 0.01
    assert promoted_share(0.15, 0.02, 100, 150) > 0.8
