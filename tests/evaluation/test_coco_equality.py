"""COCO's numbers are pycocotools' own, entry by entry."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools_oracle import run_pycocotools

from components.evaluation.coco_figures import COCO_NAMES, accumulate
from components.evaluation.coco_matching import match_all
from components.evaluation.detections import Predictions, TrueObjects


def random_boxes(rng, count: int, largest: float) -> np.ndarray:
    # Whole pixels, so that overlaps and areas fall on thresholds and on each other.
    start = rng.integers(0, 200, (count, 2))
    return np.concatenate([start, rng.integers(4, largest, (count, 2))], axis=1).astype(float)


def case(
    seed: int,
    num_images: int = 12,
    num_classes: int = 3,
    objects: int = 6,
    found: int = 12,
    crowd: float = 0.0,
    tied_scores: bool = False,
    masks: bool = False,
    largest: float = 140,
):
    rng = np.random.default_rng(seed)
    truth: list[list[np.ndarray]] = []
    predictions: list[list[np.ndarray]] = []
    # Ids that neither start at 0 nor are in order.
    ids = rng.permutation(num_images) * 3 + 5
    for image in ids:
        count = int(rng.integers(0, objects + 1))
        boxes, labels = random_boxes(rng, count, largest), rng.integers(0, num_classes, count)
        area = boxes[:, 2] * boxes[:, 3] * (rng.uniform(0.3, 1, count) if masks else 1)
        truth.append([np.full(count, image), labels, boxes, area, rng.random(count) < crowd])
        made = int(rng.integers(0, found + 1))
        near = random_boxes(rng, made, largest)
        of = rng.integers(0, max(count, 1), made)
        if count:
            copied = rng.random(made) < 0.8
            shift = rng.integers(-6, 7, (made, 4))
            near[copied] = (boxes[of] + shift)[copied]
            near[:, 2:] = near[:, 2:].clip(1)
        kinds = rng.integers(0, num_classes, made)
        if count:
            kinds = np.where(rng.random(made) < 0.8, labels[of], kinds)
        score = rng.random(made)
        predictions.append([np.full(made, image), kinds, score.round(1) if tied_scores else score])
        predictions[-1].append(near)
    true_columns = [np.concatenate(column) for column in zip(*truth, strict=True)]
    found_columns = [np.concatenate(column) for column in zip(*predictions, strict=True)]
    return TrueObjects(*true_columns), Predictions(*found_columns), ids, num_classes


CASES = {
    "plain": {},
    "crowds": {"crowd": 0.4},
    "crowds and equal scores": {"crowd": 0.4, "tied_scores": True},
    "areas of masks": {"masks": True, "crowd": 0.1},
    "small boxes": {"largest": 40},
    "more detections than count": {"num_images": 3, "num_classes": 1, "found": 260, "objects": 30},
    "more than count, crowds, ties": {
        **{"num_images": 3, "num_classes": 2, "found": 400, "objects": 30},
        **{"crowd": 0.3, "tied_scores": True},
    },
    "classes without objects": {"num_classes": 40, "objects": 2},
    "no object": {"objects": 0},
    "nothing found": {"found": 0},
    "neither": {"objects": 0, "found": 0},
    "only crowds": {"crowd": 1.1},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_every_entry_equals_pycocotools(options, seed):
    truth, predictions, ids, num_classes = case(seed, **options)
    want = run_pycocotools(truth, predictions, ids, num_classes)
    got = accumulate(match_all(truth, predictions, ids, num_classes))
    np.testing.assert_allclose(got.precision, want.eval["precision"][..., -1], rtol=1e-12)
    np.testing.assert_allclose(got.recall, want.eval["recall"][..., -1], rtol=1e-12)
    np.testing.assert_allclose(got.recall_few, want.eval["recall"][:, :, 0, :2], rtol=1e-12)
    wanted = {n: v for n, v in zip(COCO_NAMES, want.stats, strict=True) if v >= 0}
    assert got.numbers() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_every_match_equals_pycocotools(seed):
    """Not only the sums: which object is whose."""
    truth, predictions, ids, num_classes = case(seed, crowd=0.3, tied_scores=True, found=30)
    matches = match_all(truth, predictions, ids, num_classes)
    want = run_pycocotools(truth, predictions, ids, num_classes)
    places = {int(row): place for place, row in enumerate(matches.row)}
    cells = [cell for cell in want.evalImgs if cell is not None]
    num_areas, compared = 4, 0
    for number, cell in enumerate(want.evalImgs):
        if cell is None:
            continue
        area = number // len(ids) % num_areas
        for column, row in enumerate(cell["dtIds"]):
            place = places[row - 1]
            ours = matches.matched[area, :, place] + 1
            np.testing.assert_array_equal(ours, cell["dtMatches"][:, column])
            np.testing.assert_array_equal(
                matches.ignored[area, :, place], cell["dtIgnore"][:, column] > 0
            )
            compared += 1
    assert compared == num_areas * len(matches.row) and cells
