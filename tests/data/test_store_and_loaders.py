"""Packed store, splits, and batches that depend on seed, epoch and image alone."""

import numpy as np
import pytest
import torch
from data_helpers import make_store

from components.data.loaders import EpochSampler, PreparedDataModule, PreparedDataset
from components.data.settings import AugmentSettings
from components.data.store import PreparedStore
from components.errors import DataError


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
