"""Mosaic, mixup, changing input sizes: boxes stay on what they frame, and nothing hangs."""

import colorsys

import numpy as np
import pytest
import torch
from data_helpers import make_store

from components.data.color import draw_hsv, hsv_shifted, shift_hsv
from components.data.loaders import PreparedDataModule, PreparedDataset, collate
from components.data.mixup import mix_batch
from components.data.mosaic import (
    Mosaic,
    Scene,
    affine_matrix,
    draw_placed,
    join_four,
    mirrored,
    place,
    visible,
    warp,
)
from components.data.multi_scale import InputSizes, resize_batch
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore
from components.errors import DataError

RECIPE = AugmentSettings(
    scale=(1, 1), color=0, mosaic=1, mosaic_scale=(0.3, 2), degrees=10, translate=0.1, shear=2
)
MIXED = RECIPE.model_copy(update={"mixup": 1.0})


def square_scene(box, size=(100, 100), value=250) -> Scene:
    x1, y1, x2, y2 = box
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    pixels[y1:y2, x1:x2] = value
    return Scene(pixels, np.array([box], dtype=np.float32), np.array([1]))


def bright_box(pixels) -> list[int]:
    ys, xs = np.nonzero(pixels[..., 0] > 180)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize(
    ("degrees", "shift", "expected"),
    [
        (0, (5, -4), [15, 16, 35, 46]),
        (90, (0, 100), [20, 70, 50, 90]),  # (x, y) goes to (y, 100 - x)
        (180, (100, 100), [70, 50, 90, 80]),
        (-90, (100, 0), [50, 10, 80, 30]),
    ],
)
def test_quarter_turns_move_pixels_and_boxes_alike(degrees, shift, expected):
    matrix = affine_matrix(degrees, 1, (0, 0), shift)
    turned = warp(square_scene([10, 20, 30, 50]), matrix, (100, 100))
    np.testing.assert_allclose(turned.boxes, [expected], atol=1e-4)
    assert bright_box(turned.pixels) == expected


def test_a_warped_box_still_frames_its_square():
    rng = np.random.default_rng(0)
    whole = cut = 0
    for _ in range(450):
        zoom = rng.uniform(0.3, 2)
        matrix = affine_matrix(
            rng.uniform(-40, 40), zoom, rng.uniform(-10, 10, 2), rng.uniform(-30, 60, 2)
        )
        x, y = rng.integers(0, 60, 2)
        warped = warp(square_scene([x, y, x + 25, y + 35]), matrix, (96, 128))
        if not len(warped.boxes):
            continue
        box, seen = warped.boxes[0], bright_box(warped.pixels)
        inside = (box > 0).all() and box[2] < 128 and box[3] < 96
        if inside:  # tight on all sides
            np.testing.assert_allclose(seen, box, atol=2)
            whole += 1
        else:  # a cut corner may leave the box wider than what is seen
            assert (seen[:2] >= box[:2] - 2).all() and (seen[2:] <= box[2:] + 2).all()
            cut += 1
    assert whole > 100 and cut > 50


def test_four_images_meet_at_the_centre():
    scenes = [square_scene([0, 0, 20, 10], (40, 60), value) for value in (200, 210, 220, 230)]
    joined = join_four(scenes, (30, 70), (40, 60))
    assert joined.pixels.shape == (80, 120, 3)
    # The first's top ten rows, with its square, fall off the canvas; so do the second's, and ten
    # columns more on its right; the fourth loses ten columns on its right.
    assert joined.boxes.tolist() == [[10, 30, 30, 40], [70, 30, 90, 40]]
    assert joined.pixels[35, 20, 0] == 220 and joined.pixels[35, 80, 0] == 230
    assert joined.pixels[29, 69, 0] == 0 and joined.pixels[75, 5, 0] == 114


@pytest.mark.parametrize(
    ("box", "expected", "reason"),
    [
        ([-5, 10, 20, 30], [0, 10, 20, 30], "the left edge moves, the right one stays"),
        ([90, 90, 140, 110], [90, 90, 100, 100], "right and bottom"),
        ([99, 10, 105, 30], None, "one pixel wide is too little"),
        ([-190, 10, 10, 30], None, "a twentieth of it is left"),
        ([-50, 10, 10, 30], [0, 10, 10, 30], "a sixth is left"),
        ([120, 10, 130, 30], None, "outside"),
        ([40, 40, 40, 60], None, "no area"),
    ],
)
def test_cut_boxes(box, expected, reason):
    kept, which = visible(np.array([box], dtype=np.float32), (100, 100))
    assert kept.tolist() == ([expected] if expected else []), reason
    assert which.tolist() == [expected is not None]


@pytest.mark.parametrize(("settings", "threshold"), [(RECIPE, 220), (MIXED, 116)])
def test_every_box_lies_on_its_object(tmp_path, settings, threshold):
    """The store's squares are bright in their class's channel alone; half as much when blended."""
    store = make_store(tmp_path / "store", num_images=10)
    mosaic = Mosaic(store, settings, store.rows("train"))
    seen = 0
    for seed in range(150):
        scene = mosaic.draw(0, np.random.default_rng(seed))
        assert scene.pixels.shape == (64, 64, 3)
        for box, label in zip(scene.boxes, scene.labels, strict=True):
            (x1, y1), (x2, y2) = box[:2] + 0.3 * (box[2:] - box[:2]), box[2:] * 0.7 + box[:2] * 0.3
            middle = scene.pixels[round(y1) : round(y2), round(x1) : round(x2), label]
            # A turned square that is cut near its corner may leave the middle of its box.
            on_edge = (box[:2] <= 0).any() or (box[2:] >= 64).any()
            if middle.size and not on_edge:
                assert middle.mean() > threshold
                seen += 1
    assert seen > 50


@pytest.mark.parametrize("flip", [False, True])
def test_a_placed_box_still_frames_its_square(flip):
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(150):
        zoom = rng.uniform(0.4, 2)
        corner = rng.uniform(0, 1, 2) * max(0, zoom - 1) * np.array([80, 120])
        x, y = rng.integers(0, 60, 2)
        scene = square_scene([x, y, x + 25, y + 20], (80, 100))
        placed = place(mirrored(scene) if flip else scene, zoom, tuple(corner), (80, 120))
        if len(placed.boxes):
            np.testing.assert_allclose(bright_box(placed.pixels), placed.boxes[0], atol=1.5)
            seen += 1
    assert seen > 100


def test_a_partner_fills_the_window_when_zoomed_up_and_lies_at_the_top_left_when_not():
    scene = square_scene([0, 0, 96, 64], (64, 96))
    for seed in range(30):
        for low, high in ((1.05, 1.5), (0.5, 0.9)):
            settings = AugmentSettings(mixup_scale=(low, high))
            placed = draw_placed(scene, settings, (64, 96), np.random.default_rng(seed))
            grey = (placed.pixels == 114).all(axis=2)
            assert not grey.any() if low > 1 else not grey[:32, :48].any() and grey[58:, 87:].all()


def test_hardly_any_object_loses_its_box(tmp_path):
    store = make_store(tmp_path / "store", num_images=10)
    mosaic = Mosaic(store, RECIPE, store.rows("train"))
    bright = framed = 0
    for seed in range(40):
        scene = mosaic.draw(1, np.random.default_rng(seed))
        frames = np.zeros((64, 64), dtype=bool)
        for x1, y1, x2, y2 in scene.boxes.round().astype(int):
            frames[y1:y2, x1:x2] = True
        objects = scene.pixels.max(axis=2) > 200
        bright, framed = bright + objects.sum(), framed + (objects & frames).sum()
    assert framed > 0.97 * bright


def without_boxes(store: PreparedStore) -> PreparedStore:
    return PreparedStore(store.folder, store.info, store.index, store.objects.iloc[:0])


def test_a_store_without_any_box_gives_empty_scenes(tmp_path):
    """The original looks for a box to mix in for ever."""
    store = without_boxes(make_store(tmp_path / "store"))
    item = PreparedDataset(store, MIXED, seed=0)[(0, 0)]
    assert item["boxes"].shape == (0, 4) and item["labels"].shape == (0,)
    assert item["image"].shape == (3, 64, 64)
    assert item["labels"].dtype == torch.int64


def test_one_image_is_its_own_partner(tmp_path):
    store = make_store(tmp_path / "store", num_images=1)
    item = PreparedDataset(store, MIXED, seed=0)[(0, 0)]
    assert item["image"].shape == (3, 64, 64) and len(item["boxes"])


def test_partners_are_training_images(tmp_path):
    store = make_store(tmp_path / "store", num_images=20)
    asked = []
    image, store.image = store.image, lambda row: asked.append(row) or image(row)
    dataset = PreparedDataset(store, MIXED, seed=0)
    for epoch in range(10):
        assert dataset[(epoch, 0)] is not None
    assert set(asked) <= set(store.rows("train").tolist()) and len(set(asked)) > 5


def test_a_mosaic_depends_on_seed_epoch_and_image_alone(tmp_path):
    store = make_store(tmp_path / "store")
    dataset = PreparedDataset(store, MIXED, seed=1)
    torch.manual_seed(5)
    first, stream = dataset[(3, 2)], torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), stream)
    again = PreparedDataset(store, MIXED, seed=1)[(3, 2)]
    assert torch.equal(again["image"], first["image"])
    assert torch.equal(again["boxes"], first["boxes"])
    for other in (dataset[(4, 2)], dataset[(3, 1)], PreparedDataset(store, MIXED, 2)[(3, 2)]):
        assert not torch.equal(other["image"], first["image"])


def test_the_last_epochs_are_plain(tmp_path):
    store = make_store(tmp_path / "store")
    plain = AugmentSettings(scale=(1, 1), color=0)
    ending = MIXED.model_copy(update={"plain_epochs": 2})
    dataset = PreparedDataset(store, ending, seed=1, num_epochs=5)
    for epoch in (2, 3, 4, 5):
        same = torch.equal(
            dataset[(epoch, 0)]["image"], PreparedDataset(store, plain, seed=1)[(epoch, 0)]["image"]
        )
        assert same == (epoch >= 3)
    endless = PreparedDataset(store, ending, seed=1)
    mosaic = PreparedDataset(store, MIXED, seed=1)
    assert torch.equal(endless[(99, 0)]["image"], mosaic[(99, 0)]["image"])


def test_a_share_of_the_images_stays_whole(tmp_path):
    store = make_store(tmp_path / "store")
    mosaic = Mosaic(store, RECIPE.model_copy(update={"mosaic": 0.3}), store.rows("train"))
    drawn = [mosaic.draw(0, np.random.default_rng(seed)) is not None for seed in range(200)]
    assert 0.2 < np.mean(drawn) < 0.4


class TestBatches:
    settings = MIXED.model_copy(update={"multi_scale": (-1, 2), "multi_scale_every": 2})

    def data(self, store, num_workers=0) -> PreparedDataModule:
        return PreparedDataModule(
            store, 4, (0.5,) * 3, (0.5,) * 3, self.settings, seed=3, num_workers=num_workers
        )

    def epochs(self, data, numbers):
        loader = data.train_dataloader()
        for number in numbers:
            loader.sampler.set_epoch(number)
            yield from loader

    def test_a_resumed_training_and_workers_change_nothing(self, tmp_path):
        store = make_store(tmp_path / "store", num_images=24)
        through = list(self.epochs(self.data(store), [0, 1, 2]))[4:]
        resumed = list(self.epochs(self.data(store), [1, 2]))
        worked = list(self.epochs(self.data(store, num_workers=2), [1, 2]))
        for ours, *others in zip(through, resumed, worked, strict=True):
            for theirs in others:
                assert torch.equal(ours["images"], theirs["images"])
                assert all(
                    torch.equal(a, b) for a, b in zip(ours["boxes"], theirs["boxes"], strict=True)
                )
                assert ours["size"] == theirs["size"]

    def test_a_batch_is_its_items(self, tmp_path):
        store = make_store(tmp_path / "store")
        dataset = PreparedDataset(store, MIXED, seed=0)
        items = [dataset[(1, row)] for row in range(3)]
        batch = collate(items)
        for number, item in enumerate(items):
            assert torch.equal(batch["images"][number], item["image"])
            assert torch.equal(batch["boxes"][number], item["boxes"])
            assert type(batch["boxes"][number]) is torch.Tensor

    def test_only_training_changes_size_and_follows_the_step(self, tmp_path):
        store = make_store(tmp_path / "store", num_images=24)  # 14 of them, so 4 batches, to train
        data = self.data(store)
        sizes = InputSizes((64, 64), (-1, 2), 2, seed=3)
        batches = list(self.epochs(data, [0, 1, 2, 3]))
        assert len(batches) == 16
        for step, batch in enumerate(batches):
            moved = data.on_after_batch_transfer(batch, 0)
            assert batch["size"] == sizes.at(step) == tuple(moved["images"].shape[-2:])
        assert len({batch["size"] for batch in batches}) > 1
        for batch in data.val_dataloader():
            assert data.on_after_batch_transfer(batch, 0)["images"].shape[-2:] == (64, 64)


class TestInputSizes:
    def test_nano_sees_10_to_20_times_32(self):
        sizes = InputSizes((416, 416), (-3, 7), 10, seed=0)
        drawn = [sizes.at(step) for step in range(3000)]
        assert {height for height, _ in drawn} == {32 * count for count in range(10, 21)}
        assert all(height == width for height, width in drawn)
        assert all(len(set(drawn[i : i + 10])) == 1 for i in range(0, 3000, 10))

    def test_the_shape_is_kept_as_multiples_of_32_allow(self):
        sizes = InputSizes((256, 320), (-2, 2), 1, seed=0)
        assert {sizes.at(step) for step in range(200)} == {
            (192, 256),
            (224, 288),
            (256, 320),
            (288, 352),
            (320, 384),
        }

    def test_too_small_an_input_names_both_settings(self):
        with pytest.raises(DataError, match=r"multi_scale = \[-2, 5\].*image_size = \[64, 96\]"):
            InputSizes((64, 96), (-2, 5), 10, seed=0)

    def test_boxes_are_resized_with_their_image(self):
        scene = square_scene([10, 20, 30, 50])
        images = torch.from_numpy(scene.pixels).permute(2, 0, 1)[None].float()
        batch = {"images": images, "boxes": [torch.from_numpy(scene.boxes)], "rows": 1}
        resized = resize_batch(batch, (160, 128))
        assert resized["boxes"][0].tolist() == [pytest.approx([12.8, 32, 38.4, 80])]
        pixels = resized["images"][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(bright_box(pixels), [12.8, 32, 38.4, 80], atol=1)
        assert resized["rows"] == 1


SHIFTS = [(0.1, 0, 0), (0, -0.2, 0), (0, 0, 0.15), (-0.05, 0.1, -0.1)]


@pytest.mark.parametrize("shifts", SHIFTS)
def test_hue_saturation_and_value_move_as_colorsys_says(shifts):
    colours = np.random.default_rng(0).uniform(0, 1, (200, 3))
    colours[:3] = [[0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4]]
    for ours, colour in zip(shift_hsv(colours, shifts), colours, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*colour)
        moved = (h + shifts[0]) % 1, min(1, max(0, s + shifts[1])), min(1, max(0, v + shifts[2]))
        np.testing.assert_allclose(ours, colorsys.hsv_to_rgb(*moved), atol=1e-9)


@pytest.mark.parametrize("shifts", SHIFTS)
def test_a_picture_s_colours_move_as_each_would(shifts):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    exact = 255 * shift_hsv(pixels.reshape(-1, 3) / 255, shifts).reshape(40, 40, 3)
    difference = np.abs(hsv_shifted(pixels, shifts) - exact)
    assert difference.mean() < 2 and np.quantile(difference, 0.99) < 12


def test_each_colour_moves_half_of_the_time():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_hsv((0.1, 0.2, 0.3), rng) for _ in range(2000)])
    assert np.allclose((drawn != 0).mean(0), 0.5, atol=0.05)
    assert np.allclose(np.abs(drawn).max(0), [0.1, 0.2, 0.3], rtol=0.02)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"degrees": 10, "mixup": 0.5}, r"degrees \(10\), mixup \(0.5\) change a mosaic"),
        ({"mosaic_scale": (2, 1)}, r"\[low, high\] with 0.05 <= low <= high <= 4"),
        ({"mixup_scale": (0, 1)}, r"\[low, high\] with 0.05 <= low <= high <= 4"),
        ({"hsv": (0, 0, 1.5)}, r"\[hue, saturation, value\], each from 0 to 1"),
        ({"multi_scale": (1, 3)}, r"-127 <= low <= 0 <= high <= 127"),
        ({"mosaic": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_say_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message):
        AugmentSettings(**values)


def test_one_number_of_steps_means_each_way():
    assert AugmentSettings(multi_scale=5).multi_scale == (-5, 5)


class TestMixedBatches:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8)
    labels = torch.arange(6)

    def seeded(self, seed, **alphas):
        generator = torch.Generator().manual_seed(seed)
        return mix_batch(self.images, self.labels, 6, generator=generator, **alphas)

    @pytest.mark.parametrize("alphas", [{"mixup_alpha": 0.8}, {"cutmix_alpha": 1.0}])
    def test_labels_have_the_shares_of_the_pixels(self, alphas):
        for seed in range(5):
            images, soft = self.seeded(seed, **alphas)
            assert soft.shape == (6, 6) and torch.allclose(soft.sum(1), torch.ones(6))
            # An image's value is its class, so the mean pixel is the labels' mean class.
            expected = (soft * torch.arange(6.0)).sum(1)
            assert torch.allclose(images.mean((1, 2, 3)), expected, atol=1e-5)

    def test_a_generator_decides_and_the_global_stream_goes_on(self):
        torch.manual_seed(5)
        first, soft = self.seeded(1, mixup_alpha=1.0)
        stream = torch.rand(3)
        torch.manual_seed(5)
        assert torch.equal(torch.rand(3), stream)
        again, soft_again = self.seeded(1, mixup_alpha=1.0)
        assert torch.equal(first, again) and torch.equal(soft, soft_again)
        assert not torch.equal(self.seeded(2, mixup_alpha=1.0)[1], soft)

    def test_both_take_turns(self):
        def is_cut(images):
            return bool((images == images.round()).all())

        kinds = [
            is_cut(self.seeded(seed, mixup_alpha=1.0, cutmix_alpha=1.0)[0]) for seed in range(40)
        ]
        assert 8 < sum(kinds) < 32

    def test_smoothing_alone_leaves_the_images(self):
        images, soft = mix_batch(self.images, self.labels, 6, smoothing=0.3)
        assert images is self.images
        assert soft[2].tolist() == pytest.approx([0.05, 0.05, 0.75, 0.05, 0.05, 0.05])

    def test_multi_label_targets_are_mixed_and_not_smoothed(self):
        targets = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        _, soft = mix_batch(self.images[:2], targets, 2, mixup_alpha=1.0)
        assert torch.allclose(soft.sum(0), torch.ones(2)) and 0 < soft[0, 0] < 1
        with pytest.raises(ValueError, match=r"smoothing = 0.1: labels of shape \[2, 2\]"):
            mix_batch(self.images[:2], targets, 2, smoothing=0.1)
