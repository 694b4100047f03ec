"""TrivialAugment, erasing, copy-paste, repeat factors, and the picture that shows them."""

import numpy as np
import pytest
import torch
from data_helpers import make_store
from PIL import Image

from components.data.extra_changes import (
    MOST_HIDDEN,
    CopyPaste,
    erased,
    hidden_shares,
    pasted,
    trivially_augmented,
)
from components.data.geometry import FILL
from components.data.loaders import EpochSampler, PreparedDataModule, PreparedDataset
from components.data.mosaic import Scene
from components.data.multi_scale import InputSizes
from components.data.preview import GAP, preview_picture
from components.data.repeat_factor import repeat_factors, repeated
from components.data.settings import AugmentSettings
from tasks.layout import Layout
from tasks.params import Params
from tasks.preview import preview

NOTHING = {"flip": 0, "scale": (1.0, 1.0), "color": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def picture(side=32):
    return torch.from_numpy(rng().integers(0, 255, (side, side, 3), dtype=np.uint8))


def test_trivial_augment_changes_most_images_each_in_its_own_way_and_repeats_itself():
    image = picture()
    state = torch.get_rng_state()
    changed = [trivially_augmented(image, rng(seed)) for seed in range(20)]
    assert torch.equal(torch.get_rng_state(), state), "torch's own stream is left alone"
    assert sum(torch.equal(image, other) for other in changed) < 8
    assert len({other.numpy().tobytes() for other in changed}) > 10
    assert all(c.shape == image.shape and c.dtype == torch.uint8 for c in changed)
    assert torch.equal(changed[3], trivially_augmented(image, rng(3)))


def test_erasing_paints_one_rectangle_and_leaves_the_store_alone():
    image = torch.zeros(40, 60, 3, dtype=torch.uint8)
    for seed in range(30):
        gone = (erased(image, rng(seed)) == FILL).all(dim=2)
        ys, xs = gone.nonzero(as_tuple=True)
        area = (ys.max() - ys.min() + 1) * (xs.max() - xs.min() + 1)
        assert gone.sum() == area, "a whole rectangle"
        assert 0.015 < float(gone.float().mean()) < 0.36
    assert not image.any()


def test_hidden_shares():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=np.float32)
    assert hidden_shares(boxes, np.array([5, 0, 25, 10])).tolist() == [0.5, 0]


def scene(side=64, boxes=(), value=0):
    pixels = np.full((side, side, 3), value, dtype=np.uint8)
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return Scene(pixels, boxes, np.arange(len(boxes)))


def test_pasted_objects_lie_where_their_boxes_say_and_hide_little():
    own = scene(boxes=[[0, 0, 20, 20], [40, 40, 60, 60]])
    donor = scene(boxes=[[8, 8, 24, 20], [4.5, 30, 10, 44]])
    donor.pixels[:] = 200
    for seed in range(20):
        changed = pasted(own, donor, rng(seed))
        assert np.array_equal(changed.boxes[:2], own.boxes)
        assert not own.pixels.any(), "a copy is painted"
        for box, label in zip(changed.boxes[2:], changed.labels[2:], strict=True):
            whole = donor.boxes[label]
            assert np.allclose(box[2:] - box[:2], whole[2:] - whole[:2])
            x1, y1, x2, y2 = box.round().astype(int)
            assert (changed.pixels[y1:y2, x1:x2] == 200).all()
            assert hidden_shares(own.boxes, box).max() <= MOST_HIDDEN
    assert len(changed.boxes) == 4


@pytest.mark.parametrize(
    ("own", "donor"),
    [
        (scene(), scene()),
        (scene(), scene(boxes=[[0, 0, 40, 10]])),  # more than half as wide
        (scene(boxes=[[0, 0, 64, 64]]), scene(boxes=[[0, 0, 32, 32]] * 9, side=64)),
    ],
    ids=["no object", "too large", "no room for all"],
)
def test_what_does_not_fit_is_left_out(own, donor):
    changed = pasted(own, donor, rng())
    assert len(changed.boxes) <= len(own.boxes) + 5
    if not len(own.boxes):
        assert changed is own


def test_settings_reach_the_training_images_and_nothing_changes_without_them(tmp_path):
    boxes = make_store(tmp_path / "boxes")
    boxes._boxes = boxes._boxes * [1, 1, 0.5, 0.5]
    plain = PreparedDataset(boxes, AugmentSettings(**NOTHING), 0)
    with_more = PreparedDataset(boxes, AugmentSettings(**NOTHING, copy_paste=1), 0)
    assert len(plain[(0, 1)]["boxes"]) == 1
    counts = [len(with_more[(epoch, 1)]["boxes"]) for epoch in range(8)]
    assert max(counts) == 2 and torch.equal(with_more[(3, 1)]["image"], with_more[(3, 1)]["image"])
    assert not CopyPaste(boxes, 0.0, boxes.rows("train")).draw(scene(), rng()).boxes.size
    images = make_store(tmp_path / "images", "classification")
    plain = PreparedDataset(images, AugmentSettings(**NOTHING), 0)
    for extra in ({"erasing": 1}, {"trivial_augment": True}):
        changed = PreparedDataset(images, AugmentSettings(**NOTHING, **extra), 0)
        differ = [
            not torch.equal(plain[(epoch, 0)]["image"], changed[(epoch, 0)]["image"])
            for epoch in range(6)
        ]
        assert sum(differ) >= 4, extra


def test_repeat_factors_follow_the_rarest_class():
    common, rare = np.array([0]), np.array([0, 0, 1])
    classes_of = [common] * 98 + [rare, np.empty(0, dtype=np.int64)]
    factors = repeat_factors(classes_of, 0.04)
    assert factors[:98].tolist() == [1] * 98 and factors[99] == 1
    assert factors[98] == pytest.approx(2)  # sqrt(0.04 / 0.01)
    assert repeat_factors([np.empty(0, dtype=np.int64)] * 3, 0.5).tolist() == [1, 1, 1]


def test_an_epoch_shows_each_image_as_often_as_its_factor_says():
    factors = np.array([1, 2.5, 1, 1.3, 1])
    counts = np.zeros(5)
    for seed in range(400):
        order = repeated(factors, rng(seed))
        assert len(order) == 7
        counts += np.bincount(order, minlength=5)
    assert counts / 400 == pytest.approx(factors * 7 / 6.8, abs=0.06)
    sampler = EpochSampler(np.arange(10, 15), 0, factors=factors)
    keys = list(sampler)
    assert len(sampler) == len(keys) == 7
    assert {row for _, row, _ in keys} == set(range(10, 15))
    with pytest.raises(ValueError, match="need a seed"):
        EpochSampler(np.arange(5), None, factors=factors)


def test_a_rare_class_comes_more_often(tmp_path):
    store = make_store(tmp_path / "store", num_images=40)
    rows = store.rows("train")
    store._class_ids = np.zeros_like(store._class_ids)
    store._class_ids[store._targets[rows[0]][0]] = 1  # one image of 24
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3, repeat_threshold=0.5)
    shown = [row for batch in data.train_dataloader() for row in batch["rows"].tolist()]
    assert shown.count(rows[0]) in (3, 4) and len(shown) == 27  # sqrt(0.5 * 24) = 3.46
    assert set(shown) == set(rows.tolist())


@pytest.mark.parametrize("kind", ["classification", "several labels", "detection"])
def test_the_preview_shows_each_image_as_it_stands_and_changed(tmp_path, kind):
    several = kind == "several labels"
    task = "classification" if several else kind
    store = make_store(tmp_path / "data" / "prepared", task, multi_label=several)
    augment = AugmentSettings(scale=(0.5, 1.0))
    data = PreparedDataModule(store, 3, (0.0,) * 3, (1 / 255,) * 3, augment)
    rows = store.rows("train")[:3].tolist()
    drawn = preview_picture(data, rows, 2)
    assert drawn.shape == (3 * (64 + GAP) + GAP, 3 * (64 + GAP) + GAP, 3)
    first = drawn[GAP : GAP + 64, GAP : GAP + 64].astype(int)
    assert (np.abs(first - store.image(rows[0])) > 2).any(axis=2).mean() < 0.15, (
        "but for the drawing"
    )
    params = Params.model_validate({"base": {"task": task, "data": "raw", "multi_label": several}})
    file = preview(params, Layout(tmp_path), 2, 1)
    with Image.open(file) as image:
        assert image.size == (2 * (64 + GAP) + GAP,) * 2


def test_the_preview_shows_what_is_mixed(tmp_path):
    store = make_store(tmp_path / "store", "classification")
    data = PreparedDataModule(store, 3, (0.0,) * 3, (1 / 255,) * 3, AugmentSettings(**NOTHING))
    rows = store.rows("train")[:3].tolist()
    alone = preview_picture(data, rows, 1)
    mixed = preview_picture(data, rows, 1, mixup_alpha=1000)  # halves, nearly
    changed = slice(2 * GAP + 64, 2 * GAP + 128)
    assert (alone[:, : changed.start] == mixed[:, : changed.start]).all(), "as it stands"
    expected = (store.image(rows[0]) / 2.0 + store.image(rows[2]) / 2.0)[20:]  # below the label
    found = mixed[GAP + 20 : GAP + 64, changed]
    assert np.median(np.abs(found - expected)) < 8


def test_the_preview_shows_the_input_sizes_of_a_training(tmp_path):
    store = make_store(tmp_path / "store")
    augment = AugmentSettings(**NOTHING, multi_scale=(0, 1))
    seed = next(n for n in range(99) if InputSizes((64, 64), (0, 1), 10, n).at(0) == (96, 96))
    data = PreparedDataModule(store, 2, (0.0,) * 3, (1 / 255,) * 3, augment, seed)
    drawn = preview_picture(data, store.rows("train")[:2].tolist(), 1)
    assert drawn.shape == (2 * (96 + GAP) + GAP, 64 + 96 + 3 * GAP, 3)
    smaller = drawn[GAP + 64 : GAP + 96, GAP : GAP + 64]
    assert (smaller == 255).all(), "as it stands it is smaller"


def test_copy_paste_that_mosaics_leave_no_image_for_is_refused():
    with pytest.raises(ValueError, match=r"copy_paste \(0.5\) changes images outside mosaics"):
        AugmentSettings(copy_paste=0.5, mosaic=1)
    assert AugmentSettings(copy_paste=0.5, mosaic=1, plain_epochs=2).copy_paste == 0.5
