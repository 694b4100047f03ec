"""Packed store, splits, and batches that depend on seed, epoch and image alone."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import make_store
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from components.contract.tables import Dataset, build
from components.data.augment import (
    Span,
    View,
    draw_crop,
    draw_window,
    seen_boxes,
    seen_pixels,
)
from components.data.color import (
    STEPS,
    change_for,
    draw_color,
    joined_steps,
    normalize,
    recolor,
)
from components.data.geometry import FILL, scale_image
from components.data.loaders import (
    EpochSampler,
    PreparedDataModule,
    PreparedDataset,
)
from components.data.pack import choose_storage, pack
from components.data.sent_batch import BatchPool, SentBatch
from components.data.settings import AugmentSettings, PreprocessSettings
from components.data.store import PreparedStore, write_index
from components.errors import DataError
from components.files import read_json, sha256, write_json


def test_boxes_are_scaled_from_original_to_stored_pixels(tmp_path):
    store = make_store(tmp_path / "store")
    boxes, labels = store.boxes(0)
    expected = store.objects.iloc[0]
    x, y = expected["x"] / 2, expected["y"] / 2
    assert boxes.tolist() == [[x, y, x + 32, y + 32]]
    assert labels.tolist() == [0]


def test_a_cut_file_is_noticed(tmp_path):
    make_store(tmp_path / "store")
    file = tmp_path / "store" / "images.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"images.bin: \d+ bytes, but the index describes \d+"):
        PreparedStore.open(tmp_path / "store")


class TestStorage:
    """The same images packed as raw pixels and as JPEG."""

    def packed(self, folder, crowd=False, **settings):
        rows, objects = [], []
        raw = folder / "raw"
        if not raw.exists():
            raw.mkdir(parents=True)
            for number in range(8):
                y, x = np.mgrid[: 60 + number, :90]
                pixels = np.stack([x * 2, y * 3, 30 * np.sin(x / 9 + number) + 99], axis=2)
                Image.fromarray(pixels.astype(np.uint8)).save(raw / f"{number}.png")
        for number in range(8):
            split = "val" if number % 4 == 3 else "train"
            text = f"{number:x}"
            rows.append(
                {"path": f"{number}.png", "width": 90, "height": 60 + number, "split": split}
                | {"sha256": sha256(raw / f"{number}.png"), "phash": text * 16}
            )
            box = {"x": 3.5, "y": 7.25, "width": 31.0, "height": 20.0, "area": 620.0}
            objects.append({"image_id": number, "label": "a", "is_crowd": crowd, **box})
        tables = build(rows, objects, "detection")
        dataset = Dataset(*tables, ("a",), "detection", "coco")
        chosen = PreprocessSettings(image_size=64, **settings)
        return pack(dataset, raw, folder / "store", chosen, 10**6, 10**6)

    def test_raw_pixels_are_the_scaled_originals_to_the_bit(self, tmp_path):
        store = self.packed(tmp_path, storage="raw")
        assert store.info.storage == "raw"
        for row in range(8):
            original = np.asarray(Image.open(tmp_path / "raw" / f"{row}.png"))
            expected = scale_image(original, store.image(row).shape[:2])
            assert np.array_equal(store.image(row), expected)

    def test_an_image_that_has_changed_since_validation_is_not_packed(self, tmp_path, monkeypatch):
        """Also one that has kept its size."""
        self.packed(tmp_path)
        monkeypatch.setitem(globals(), "sha256", lambda file: "0" * 64)
        with pytest.raises(DataError, match=r"^0.png: SHA-256 = \w{64} now, 0{64} when it was val"):
            self.packed(tmp_path)

    def test_nothing_to_learn_is_told_before_any_training(self, tmp_path):
        with pytest.raises(DataError, match="none of the 6 images of the train split has a box"):
            self.packed(tmp_path, crowd=True)
        assert not (tmp_path / "store").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"storages": "raw"}, "dataset.json: not of this version: .*'storages'.*preprocess"),
            ({"classes": None}, "dataset.json: not of this version: .*preprocess"),
        ],
    )
    def test_another_version_is_an_error_with_a_remedy(self, tmp_path, change, message):
        make_store(tmp_path / "store")
        file = tmp_path / "store" / "dataset.json"
        write_json(file, read_json(file) | change)
        with pytest.raises(DataError, match=message):
            PreparedStore.open(file.parent)

    def test_jpeg_differs_in_little_but_its_bytes(self, tmp_path):
        raw = self.packed(tmp_path, storage="raw")
        pixels = [raw.image(row) for row in range(8)]
        jpeg = self.packed(tmp_path, storage="jpeg")
        assert jpeg.info.storage == "jpeg"
        size = (jpeg.folder / "images.bin").stat().st_size
        assert size < sum(image.size for image in pixels) / 3
        for row, image in enumerate(pixels):
            ours = jpeg.image(row)
            assert ours.dtype == np.uint8 and ours.shape == image.shape
            assert np.abs(ours.astype(int) - image).mean() < 2
            assert jpeg.scale(row) == raw.scale(row)
            for one, other in zip(jpeg.boxes(row), raw.boxes(row), strict=True):
                assert np.array_equal(one, other)
        assert jpeg.info.statistics == raw.info.statistics

    def test_a_lower_quality_takes_fewer_bytes(self, tmp_path):
        sizes = []
        for quality in (50, 95):
            store = self.packed(tmp_path, storage="jpeg", jpeg_quality=quality)
            sizes.append((store.folder / "images.bin").stat().st_size)
        assert sizes[0] < sizes[1]

    @pytest.mark.parametrize(("spare", "storage"), [(0, "raw"), (-1, "jpeg")])
    def test_auto_is_raw_up_to_the_cap(self, tmp_path, spare, storage):
        raw = self.packed(tmp_path, storage="raw")
        num_bytes = (raw.folder / "images.bin").stat().st_size
        store = self.packed(tmp_path, max_raw_gigabytes=(num_bytes + spare) / 1e9)
        assert store.info.storage == storage

    def test_the_size_of_crops_is_known_before_they_are_made(self):
        """A picture 1 pixel high is trimmed first; its width would be enormous otherwise."""
        images = pd.DataFrame({"height": [1, 100], "width": [50_000, 100]})
        cap = (64 * 64 * 4 + 73 * 73 * 3 + 64 * 74 * 6 * 3) / 1e9
        settings = PreprocessSettings(image_size=64, max_raw_gigabytes=cap)
        assert choose_storage(images, settings, "crop") == "raw"

    def test_jpeg_gives_the_same_items_with_workers(self, tmp_path):
        store = self.packed(tmp_path, storage="jpeg")
        batches = []
        for num_workers in (0, 2):
            data = PreparedDataModule(
                store, 2, (0.5,) * 3, (0.5,) * 3, AugmentSettings(), num_workers=num_workers
            )
            batches.append([batch["images"] for batch in data.train_dataloader()])
        assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))

    def test_a_cut_jpeg_file_is_noticed_on_opening(self, tmp_path):
        file = self.packed(tmp_path, storage="jpeg").folder / "images.bin"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"images.bin: \d+ bytes, but the index describes \d+"):
            PreparedStore.open(tmp_path / "store")
        file.unlink()
        with pytest.raises(DataError, match=r"images.bin: 0 bytes"):
            PreparedStore.open(tmp_path / "store")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data, start, end: data[:start] + bytes(end - start) + data[end:],
            lambda data, start, end: data[: start + 900] + bytes(end - start - 900) + data[end:],
        ],
        ids=["zeros instead", "cut within"],
    )
    def test_a_broken_jpeg_is_named(self, tmp_path, damage):
        store = self.packed(tmp_path, storage="jpeg")
        start, size = (int(store.index[name][7]) for name in ("offset", "num_bytes"))
        file = store.folder / "images.bin"
        file.write_bytes(damage(file.read_bytes(), start, start + size))
        opened = PreparedStore.open(store.folder)
        opened.image(0)
        with pytest.raises(DataError, match=r"images.bin, image 7: not a whole JPEG .* preprocess"):
            opened.image(7)

    def test_an_index_that_does_not_fit_is_noticed(self, tmp_path):
        store = self.packed(tmp_path, storage="jpeg")
        index = store.index.copy()
        index.loc[2, "offset"] += 1
        write_index(store.folder, store.info, index, store.objects)
        with pytest.raises(DataError, match=r"index.parquet: offset: the images do not follow"):
            PreparedStore.open(store.folder)
        index = store.index.copy()
        index.loc[2, "width"] += 1
        write_index(store.folder, store.info, index, store.objects)
        with pytest.raises(DataError, match=r"image 2: 64x\d+ pixels, but the index says 65x\d+"):
            PreparedStore.open(store.folder).image(2)


def test_no_store_names_the_stage_to_run(tmp_path):
    with pytest.raises(DataError, match="run the preprocess stage first"):
        PreparedStore.open(tmp_path)


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_an_item_depends_on_seed_epoch_and_image_alone(tmp_path, task):
    store = make_store(tmp_path / "store", task)
    settings = AugmentSettings(scale=(0.5, 1.0))
    dataset = PreparedDataset(store, settings, seed=1)
    torch.manual_seed(5)
    first = dataset[(3, 2)]
    stream = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), stream)  # the global stream was left alone
    assert torch.equal(dataset[(3, 2)]["image"], first["image"])
    assert not torch.equal(dataset[(4, 2)]["image"], first["image"])
    other = PreparedDataset(store, settings, seed=2)
    assert not torch.equal(other[(3, 2)]["image"], first["image"])


def test_workers_change_nothing(tmp_path):
    store = make_store(tmp_path / "store", num_images=20)

    def batches(num_workers):
        data = PreparedDataModule(
            store, 4, (0.5,) * 3, (0.5,) * 3, AugmentSettings(), seed=3, num_workers=num_workers
        )
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        return list(loader)

    for ours, theirs in zip(batches(0), batches(2), strict=True):
        assert torch.equal(ours["images"], theirs["images"])
        assert all(torch.equal(a, b) for a, b in zip(ours["boxes"], theirs["boxes"], strict=True))


class TestBatchPool:
    """Workers write batches to memory that is used again."""

    def loader(self, tmp_path, num_workers=1):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        store = make_store(folder, num_images=60)
        data = PreparedDataModule(
            store, 4, (0.5,) * 3, (0.5,) * 3, AugmentSettings(), num_workers=num_workers
        )
        return data.train_dataloader()

    def test_images_that_are_held_are_not_written_over(self, tmp_path):
        """Neither as a batch, nor as a view that outlives it; there are more than places."""
        batches = [batch["images"] for batch in self.loader(tmp_path)]
        views = [batch["images"][0, 1, 5:] for batch in self.loader(tmp_path)]
        assert len(batches) > 4  # the places of a worker
        for number, batch in enumerate(self.loader(tmp_path, num_workers=0)):
            assert torch.equal(batches[number], batch["images"])
            assert torch.equal(views[number], batch["images"][0, 1, 5:])

    def test_places_are_used_again(self, tmp_path):
        loader = self.loader(tmp_path)
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            seen = {batch["images"].data_ptr() for batch in loader}
            assert len(seen) <= 4 < len(loader)
        pool = loader.dataset.pool
        assert bytes(pool._taken) == bytes(4)

    def test_without_a_place_all_goes_the_usual_way(self, tmp_path):
        loader = self.loader(tmp_path, num_workers=2)
        loader.dataset.pool = pickle.loads(pickle.dumps(loader.dataset.pool))
        assert loader.dataset.pool is None
        for ours, theirs in zip(loader, self.loader(tmp_path, num_workers=0), strict=True):
            assert torch.equal(ours["images"], theirs["images"])

    def test_a_batch_takes_no_place_outside_of_a_worker(self):
        assert BatchPool(1, 2, 100).take((1, 2, 2, 3)) is None


def test_augmented_boxes_stay_on_their_object(tmp_path):
    """The bright square is where the box says, whatever was done to the image."""
    store = make_store(tmp_path / "store", num_images=10)
    settings = AugmentSettings(flip=0.5, vertical_flip=0.5, scale=(0.6, 1.4), color=0)
    dataset = PreparedDataset(store, settings, seed=0)
    seen = 0
    for epoch in range(6):
        item = dataset[(epoch, 0)]
        assert item["image"].shape == (3, 64, 64)
        for box in item["boxes"]:
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            inside = item["image"][0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float()
            if inside.numel():
                assert inside.mean() > 220
                seen += 1
    assert seen >= 4


def test_order_changes_with_the_epoch_and_holds_every_row():
    sampler = EpochSampler(np.arange(50), seed=0)
    first = [row for _, row, _ in sampler]
    sampler.set_epoch(1)
    second = [row for _, row, _ in sampler]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    sampler.set_epoch(0)
    assert [row for _, row, _ in sampler] == first


def test_a_balanced_epoch_draws_every_class_as_often():
    rows, class_ids = np.arange(100, 1100), np.array([0] * 950 + [2] * 50)
    sampler = EpochSampler(rows, 0, class_ids)
    first = [row for _, row, _ in sampler]
    assert len(first) == len(sampler) == 1000
    assert np.mean(np.array(first) >= 1050) == pytest.approx(0.5, abs=0.05)
    assert [row for _, row, _ in EpochSampler(rows, 0, class_ids)] == first
    sampler.set_epoch(1)
    assert [row for _, row, _ in sampler] != first


def test_balanced_sampling_is_for_training_a_classifier(tmp_path):
    store = make_store(tmp_path / "store", "classification", num_images=20)
    data = PreparedDataModule(store, 4, (0.5,) * 3, (0.5,) * 3, balanced=True)
    drawn = [int(row) for batch in data.train_dataloader() for row in batch["rows"]]
    assert len(drawn) == len(store.rows("train")) and len(set(drawn)) < len(drawn)
    measured = [int(row) for batch in data.val_dataloader() for row in batch["rows"]]
    assert measured == store.rows("val").tolist()
    detection = make_store(tmp_path / "boxes")
    with pytest.raises(ValueError, match="balanced = True: an image of a detection set"):
        PreparedDataModule(detection, 4, (0.5,) * 3, (0.5,) * 3, balanced=True)


SIZE = (64, 64)


def noise(height, width, low=0, high=256) -> torch.Tensor:
    """uint8 [height, width, 3]."""
    pixels = np.random.default_rng(0).integers(low, high, (height, width, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


class TestAsTorchvision:
    """What is done here in fewer steps gives what torchvision's transforms give."""

    boxes = np.array([[3, 4, 20, 25], [10.5, 2.25, 30, 28], [0, 0, 1, 30]], dtype=np.float32)

    def expected(self, image, view):
        """torchvision's crop, resize, flips and pad of an image and its boxes."""
        rows, columns = view.rows, view.columns
        shape = [rows.target_length, columns.target_length]
        below = SIZE[0] - rows.target_start - shape[0]
        right = SIZE[1] - columns.target_start - shape[1]
        padding = [columns.target_start, rows.target_start, right, below]
        box = tv_tensors.BoundingBoxes(
            torch.from_numpy(self.boxes), format="XYXY", canvas_size=tuple(image.shape[:2])
        )
        steps = [
            lambda x: v2.functional.resized_crop(
                x, rows.start, columns.start, rows.length, columns.length, shape, antialias=True
            ),
            lambda x: v2.functional.horizontal_flip(x) if view.mirrored else x,
            lambda x: v2.functional.vertical_flip(x) if view.upside_down else x,
            lambda x: v2.functional.pad(x, padding, fill=FILL),
        ]
        seen = tv_tensors.Image(image.permute(2, 0, 1))
        for step in steps:
            seen, box = step(seen), step(box)
        kept = v2.SanitizeBoundingBoxes(min_size=2)(
            {"boxes": v2.functional.clamp_bounding_boxes(box), "labels": torch.arange(3)}
        )
        return seen.permute(1, 2, 0), kept["boxes"], kept["labels"]

    @pytest.mark.parametrize(
        ("shape", "scale"),
        [
            ((40, 64), (0.8, 1.0)),
            ((64, 40), (0.3, 0.9)),
            ((64, 64), (1.0, 1.0)),
            ((40, 64), (1.1, 2.0)),
            ((64, 31), (1.0, 4.0)),
        ],
        ids=str,
    )
    def test_windows(self, shape, scale):
        settings = AugmentSettings(scale=scale, flip=0.5, vertical_flip=0.5)
        image = noise(*shape)
        for seed in range(12):
            view = draw_window(shape, SIZE, settings, np.random.default_rng(seed))
            pixels, boxes, labels = self.expected(image, view)
            assert torch.equal(seen_pixels(image, view, SIZE), pixels)
            ours, kept = seen_boxes(self.boxes, view, SIZE)
            np.testing.assert_allclose(ours, boxes.numpy(), atol=1e-4)
            assert np.flatnonzero(kept).tolist() == labels.tolist()

    @pytest.mark.parametrize("shape", [(73, 97), (73, 73), (20, 90), (90, 20)], ids=str)
    def test_crops(self, shape):
        settings = AugmentSettings(scale=(0.3, 1.0), flip=0.5, vertical_flip=0.5)
        image = noise(*shape)
        for seed in range(12):
            view = draw_crop(shape, SIZE, settings, np.random.default_rng(seed))
            assert torch.equal(seen_pixels(image, view, SIZE), self.expected(image, view)[0])

    def test_crops_are_drawn_as_torchvision_draws_them(self):
        """Of the narrow shape often nothing fits, and its centre is taken."""
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        settings = AugmentSettings(scale=(0.4, 1.0))
        torchvisions = v2.RandomResizedCrop(64, scale=(0.4, 1.0))
        for height, width in ((73, 97), (90, 20)):
            image = tv_tensors.Image(torch.zeros(3, height, width))
            spans, boxes = [], []
            for _ in range(500):
                view = draw_crop((height, width), SIZE, settings, rng)
                rows, columns = view.rows, view.columns
                spans.append([rows.start, columns.start, rows.length, columns.length])
                theirs = torchvisions.make_params([image])
                boxes.append([theirs[name] for name in ("top", "left", "height", "width")])
            ours, theirs = np.array(spans), np.array(boxes)
            np.testing.assert_allclose(
                ours.mean(0), theirs.mean(0), atol=0.15 * theirs.std(0).max()
            )
            np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.15)

    def test_a_window_falls_anywhere(self):
        settings = AugmentSettings(scale=(0.5, 2.0))
        rng = np.random.default_rng(0)
        views = [draw_window((32, 64), SIZE, settings, rng) for _ in range(2000)]
        zooms = [view.rows.target_length / view.rows.length for view in views]
        assert np.mean(zooms) == pytest.approx(1.25, abs=0.03)
        for span in (view.columns for view in views):
            assert 0 <= span.start <= 64 - span.length
            assert 0 <= span.target_start <= 64 - span.target_length
            assert span.length == 64 or span.target_length == 64
        assert {view.columns.target_start for view in views} > set(range(20))
        assert {view.columns.start for view in views} > set(range(20))
        flips = np.array([(view.mirrored, view.upside_down) for view in views])
        assert np.allclose(flips.mean(0), [0.5, 0], atol=0.05)

    def test_pixels_of_the_store_are_not_written_to(self):
        image = noise(*SIZE)
        before = image.clone()
        span = Span(0, 64, 0, 64)
        for mirrored in (False, True):
            seen_pixels(image, View(span, span, mirrored), SIZE)
            assert torch.equal(image, before)


class TestColor:
    images = noise(96, 64, 60, 180).view(2, 48, 64, 3).permute(0, 3, 1, 2)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)

    def test_normalisation(self):
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        expected = (self.images.float() - mean.mul(255).view(3, 1, 1)) / std.mul(255).view(3, 1, 1)
        ours = normalize(self.images, self.mean, self.std)
        assert torch.equal(ours, expected) and ours.dtype == torch.float32

    @pytest.mark.parametrize("channels", ["rgb", "bgr"])
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
    def test_steps_joined_are_torchvisions_one_after_the_other(self, order, channels):
        """On floats, which are not rounded between; nothing is clipped here, which differs."""
        factors = torch.tensor([[0.85, 1.2, 0.7], [1.1, 0.8, 1.3]]).tolist()
        adjust = [
            v2.functional.adjust_brightness,
            v2.functional.adjust_contrast,
            v2.functional.adjust_saturation,
        ]
        changes, expected = [], []
        for image, chosen in zip(self.images, factors, strict=True):
            change = joined_steps([(STEPS[step], chosen[step]) for step in order])
            changes.append(change_for(image.permute(1, 2, 0), change))
            changed = image.float() / 255
            for step in order:
                changed = adjust[step](changed, chosen[step])
            expected.append(changed * 255)
        shifted = torch.stack(expected).round()  # normalize takes whole numbers
        theirs = normalize(shifted, self.mean, self.std, channels)
        ours = recolor(self.images, torch.stack(changes), self.mean, self.std, channels)
        assert (ours - theirs).abs().max() < 1.2 / 255 / min(self.std)
        assert ours.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize(
        "place",
        [
            *((0, 0, 48, 64), (5, 9, 40, 61), (0, 0, 1, 1)),
            *((5, 0, 48, 64), (0, 9, 48, 64), (5, 9, 48, 64), (0, 9, 48, 61), (0, 0, 48, 61)),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("channels", ["rgb", "bgr"])
    def test_only_the_place_of_an_image_is_worked_on(self, place, channels):
        top, left, bottom, right = place
        images = torch.full_like(self.images, FILL)
        images[..., top:bottom, left:right] = self.images[..., top:bottom, left:right]
        changes = torch.tensor([[0.9, 0.2, -0.1], [1.2, -0.3, 0.2]])
        form = (images, changes, self.mean, self.std, channels)
        known = recolor(*form, seen=torch.tensor([place] * 2))
        assert torch.allclose(known, recolor(*form), atol=1e-6)

    def test_values_are_cut_to_what_a_picture_can_hold(self):
        white, black = [torch.full((1, 3, 32, 32), value).byte() for value in (255, 0)]
        for image, change in ((white, (1.5, 0, 0)), (black, (1, 0, 0)), (black, (-1.0, 0, 0))):
            ours = recolor(image, torch.tensor([change]), self.mean, self.std)
            assert torch.allclose(ours, normalize(image, self.mean, self.std), atol=1e-5)

    def test_draws_are_those_of_the_jitter(self):
        rng = np.random.default_rng(0)
        drawn = np.array([draw_color(0.2, rng) for _ in range(4000)])
        # What comes of a grey picture has the factor of brightness alone.
        brightness = drawn.sum(axis=1)
        assert 0.8 <= brightness.min() < 0.81 and 1.19 < brightness.max() <= 1.2
        assert brightness.mean() == pytest.approx(1, abs=0.01)
        own = drawn[:, 0]  # the product of three
        assert own.mean() == pytest.approx(1, abs=0.02)
        assert own.std() == pytest.approx(np.sqrt((1 + 0.04 / 3) ** 3 - 1), rel=0.05)


def test_a_batch_comes_from_a_worker_as_it_was():
    batch = SentBatch(
        images=torch.zeros(2, 3, 128, 128, dtype=torch.uint8),
        boxes=[torch.rand(3, 4), torch.zeros(0, 4)],
        rows=torch.tensor([4, 5]),
        size=(64, 96),
    )
    sent = ForkingPickler.dumps(batch)
    assert len(sent) < 1500  # the images are in a file, the rest is here
    received = pickle.loads(sent)
    assert type(received) is SentBatch and received["size"] == (64, 96)
    assert torch.equal(received["images"], batch["images"])
    assert torch.equal(received["rows"], batch["rows"]) and received["rows"].dtype == torch.int64
    for ours, theirs in zip(received["boxes"], batch["boxes"], strict=True):
        assert torch.equal(ours, theirs)
        ours.add_(1)  # writable
