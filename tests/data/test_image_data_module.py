"""Classification data modules: folders, CSV files, small sets; splits, order, errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from raw_data_helpers import real_data, write_folders, write_image

from components.data.image_data_module import ImageDataModule, MultiLabelImageDataModule
from components.data.image_records import chosen_for_validation
from components.data.record_batches import SeededSampler
from components.data.transform_config import TransformConfig
from components.errors import DataError

FOLDERS = {"train": {"green": 6, "red": 3}, "val": {"red": 2, "green": 2}, "test": {"red": 1}}


def small(module, *args, **settings):
    return module(*args, **{"image_size": 32, "batch_size": 4, "num_workers": 0, **settings})


def names(dataset):
    return dataset.names


class TestFolder:
    def test_a_documented_layout_gives_classes_and_batches(self, tmp_path):
        data = small(ImageDataModule, write_folders(tmp_path, FOLDERS))
        assert data.class_names is None and data.num_classes is None
        data.setup("fit")
        assert data.class_names == ["green", "red"] and data.num_classes == 2
        splits = (data.train_dataset, data.val_dataset, data.test_dataset)
        assert [len(split) for split in splits] == [9, 4, 1]
        batch = next(iter(data.train_dataloader()))
        assert batch["images"].shape == (4, 3, 32, 32) and batch["images"].dtype == torch.float32
        assert batch["labels"].dtype == torch.int64
        image, label = data.test_dataset[0]
        # Red is what its class id says, and normalised about ImageNet's mean.
        assert label == 1 and image[0].max() > 2 and image[1].max() < 1

    def test_class_ids_do_not_shift_where_a_split_lacks_a_class(self, tmp_path):
        folders = {"train": {"blue": 2, "red": 2}, "val": {"red": 2}, "test": {"blue": 1}}
        data = small(ImageDataModule, write_folders(tmp_path, folders))
        data.setup()
        assert data.val_dataset.targets.tolist() == [1, 1]
        assert data.test_dataset.targets.tolist() == [0]

    def test_without_a_split_level_a_share_is_held_out(self, tmp_path):
        write_folders(tmp_path, {"": {"green": 20, "red": 20}})
        data = small(ImageDataModule, tmp_path, val_split=0.25)
        data.setup()
        train, val = set(names(data.train_dataset)), set(names(data.val_dataset))
        assert not train & val and len(train | val) == 40 and 4 <= len(val) <= 16
        again = small(ImageDataModule, tmp_path, val_split=0.25)
        again.setup()
        assert names(again.val_dataset) == names(data.val_dataset)
        with pytest.raises(DataError, match="there is no test split; give a folder test/"):
            data.test_dataloader()

    def test_validation_can_be_switched_off(self, tmp_path):
        data = small(ImageDataModule, write_folders(tmp_path, {"": {"red": 3}}), val_split=0.0)
        data.setup()
        assert data.val_dataset is None and data.val_dataloader() == []

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            ({}, "there is no such folder; it must hold a folder of images per class"),
            ({"train": {"red": 2}, "val": {"blue": 1}}, "class 'blue' has no training image"),
            ({"train": {"red": 1}}, "1 image cannot be shared out"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, tmp_path, folders, message):
        data = small(ImageDataModule, write_folders(tmp_path / "data", folders))
        with pytest.raises(DataError, match=message):
            data.setup()

    def test_a_link_out_of_the_data_is_refused(self, tmp_path):
        write_folders(tmp_path / "data", {"": {"red": 2}})
        write_image(tmp_path / "outside.png")
        (tmp_path / "data" / "red" / "link.png").symlink_to(tmp_path / "outside.png")
        with pytest.raises(DataError, match=r"red/link.png: a symbolic link leads out of the data"):
            small(ImageDataModule, tmp_path / "data").setup()

    def test_real_data_is_read_whole(self):
        data = small(ImageDataModule, real_data("clothing"), image_size=64)
        data.setup()
        assert data.num_classes == 10
        sizes = [len(data.train_dataset), len(data.val_dataset), len(data.test_dataset)]
        assert min(sizes) > 100
        batch = next(iter(data.val_dataloader()))
        assert batch["images"].shape == (4, 3, 64, 64) and batch["images"].isfinite().all()


class TestCsv:
    def write(self, folder, text, images=3, name="train.csv"):
        for number in range(images):
            write_image(folder / "images" / f"{number}.png", number)
        (folder / name).write_text(text)
        return {"train_csv": folder / "train.csv", "image_dir": folder / "images"}

    def test_columns_are_found_or_named(self, tmp_path):
        rows = ["id,file,kind", *(f"{n},{n}.png,{'ba'[n % 2]}" for n in range(6))]
        paths = self.write(tmp_path, "\n".join(rows), images=6)
        columns = {"image_column": "file", "label_column": "kind"}
        data = small(ImageDataModule, **paths, **columns, val_split=0.0)
        data.setup()
        assert data.class_names == ["a", "b"]
        assert data.train_dataset.targets.tolist() == [1, 0, 1, 0, 1, 0]
        assert "Class: a" in data.summary() and "Train samples" in data.summary()

    def test_validation_uses_the_training_classes(self, tmp_path):
        paths = self.write(tmp_path, "image_path,label\n0.png,b\n1.png,a\n")
        self.write(tmp_path, "image_path,label\n2.png,b\n", name="val.csv")
        data = small(ImageDataModule, **paths, val_csv=tmp_path / "val.csv")
        data.setup()
        assert data.val_dataset.targets.tolist() == [1]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("image_path,label\n0.png,a\n9.png,a", r"line 3: image_path = '9.png': there is no "),
            ("image_path,label\n../x.png,a", r"line 2: image_path = '../x.png': the path has a"),
            ("image_path,label\n/etc/hosts,a", r"line 2: image_path = '/etc/hosts': the path is"),
            ("image_path,label\n0.png,", r"line 2: label = '': the class name is empty"),
            ("image_path,label\n0.png", r"line 2: 1 values, but the header has 2"),
            ("image_path,label\n0.png,a,b", r"line 2: 3 values, but the header has 2"),
            ("image_path,label\n0.png,a\n0.png,b", r"line 3: label = 'b': 0.png is 'a' in an"),
            ("image_path,label\n", r"no rows below the header"),
            ("", r"the file is empty"),
            ("image_path", r"no rows below the header"),
            ("image_path\n0.png", r"line 1: no label column beside 'image_path'"),
            ("image_path,image_path\n0.png,a", r"line 1: the column name 'image_path' is there"),
            ('image_path,label\n"0.png,a', r"after line 1: not CSV"),
        ],
    )
    def test_errors_name_file_line_and_value(self, tmp_path, text, message):
        with pytest.raises(DataError, match=rf"train.csv.*{message}"):
            small(ImageDataModule, **self.write(tmp_path, text)).setup()

    def test_an_unknown_class_or_column_is_named(self, tmp_path):
        paths = self.write(tmp_path, "image_path,label\n0.png,b\n1.png,a\n")
        self.write(tmp_path, "image_path,label\n2.png,c\n", name="val.csv")
        with pytest.raises(DataError, match=r"val.csv, line 2: label = 'c': allowed: a, b"):
            small(ImageDataModule, **paths, val_csv=tmp_path / "val.csv").setup()
        with pytest.raises(DataError, match=r"no column 'kind'; there are image_path, label"):
            small(ImageDataModule, **paths, label_column="kind").setup()


class TestMultiLabel:
    def write(self, folder, **texts):
        for number in range(4):
            write_image(folder / f"{number}.png", number)
        for name, text in texts.items():
            (folder / f"{name}.csv").write_text(text)
        return {f"{name}_csv": folder / f"{name}.csv" for name in texts} | {"image_dir": folder}

    TRAIN = "image_path,cat,dog\n0.png,1,0\n1.png,1,1\n2.png,0,0\n"

    def test_labels_are_the_columns(self, tmp_path):
        paths = self.write(tmp_path, train=self.TRAIN)
        data = small(MultiLabelImageDataModule, **paths, val_split=0.0)
        assert data.num_labels is None
        data.setup("fit")
        assert data.num_labels == 2 and data.label_names == ["cat", "dog"]
        labels = torch.cat([batch["labels"] for batch in data.train_dataloader()])
        assert labels.dtype == torch.float32
        assert sorted(labels.tolist()) == [[0, 0], [1, 0], [1, 1]]
        assert "Label: cat" in data.summary()

    def test_another_order_of_columns_does_not_shift_labels(self, tmp_path):
        paths = self.write(tmp_path, train=self.TRAIN, val="image_path,dog,cat\n3.png,1,0\n")
        data = small(MultiLabelImageDataModule, **paths)
        data.setup()
        assert data.val_dataset.targets.tolist() == [[0, 1]]

    def test_other_columns_are_an_error_unless_labels_are_named(self, tmp_path):
        paths = self.write(tmp_path, train=self.TRAIN, val="image_path,cat,cow\n3.png,1,0\n")
        with pytest.raises(DataError, match=r"val.csv: the labels differ .*train.csv: cow, dog"):
            small(MultiLabelImageDataModule, **paths).setup()
        data = small(MultiLabelImageDataModule, **paths, label_columns=["cat"])
        data.setup()
        assert data.val_dataset.targets.tolist() == [[1]]

    @pytest.mark.parametrize("value", ["2", "yes", "", "0.5", "nan"])
    def test_a_label_is_0_or_1(self, tmp_path, value):
        paths = self.write(tmp_path, train=f"image_path,cat\n0.png,{value}\n")
        with pytest.raises(DataError, match=rf"line 2: cat = '{value}': allowed: 0, 1"):
            small(MultiLabelImageDataModule, **paths).setup()


class TestOrder:
    def batches(self, folder, **settings):
        data = small(ImageDataModule, folder, **{"seed": 5, **settings})
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        return torch.cat([batch["images"] for batch in loader])

    def test_a_batch_depends_on_seed_epoch_and_image_alone(self, tmp_path):
        write_folders(tmp_path, FOLDERS)
        first = self.batches(tmp_path)
        torch.rand(3)
        assert torch.equal(self.batches(tmp_path), first)
        assert torch.equal(self.batches(tmp_path, num_workers=2), first)
        assert not torch.equal(self.batches(tmp_path, seed=6), first)

    def test_without_a_seed_it_is_torchs(self, tmp_path):
        write_folders(tmp_path, FOLDERS)
        torch.manual_seed(11)
        first = self.batches(tmp_path, seed=None)
        assert torch.equal(self.batches(tmp_path, seed=11), first)

    def test_a_loop_by_hand_gets_a_new_order_and_new_crops_each_time(self, tmp_path):
        data = small(ImageDataModule, write_folders(tmp_path, FOLDERS), seed=0)
        loader = data.train_dataloader()
        first, second = (torch.cat([b["images"] for b in loader]) for _ in range(2))
        assert not torch.equal(first, second)

    def test_a_last_image_alone_is_left_out_of_training(self, tmp_path):
        data = small(ImageDataModule, write_folders(tmp_path, {"": {"red": 9}}), val_split=0.0)
        assert [len(b["labels"]) for b in data.train_dataloader()] == [4, 4]

    def test_every_image_is_seen_once_an_epoch_and_shared_out_between_processes(self):
        sampler = SeededSampler(10, seed=0)
        assert sorted(row for _, row in sampler) == list(range(10))
        shares = []
        for rank in range(3):
            share = SeededSampler(10, seed=0)
            share.num_replicas, share.rank, share.total_size = 3, rank, 12
            shares.append([row for _, row in share])
        assert [len(share) for share in shares] == [4, 4, 4]
        assert {row for share in shares for row in share} == set(range(10))

    def test_balanced_sampling_makes_classes_equally_frequent(self, tmp_path):
        write_folders(tmp_path, {"train": {"green": 18, "red": 2}, "val": {"red": 1}})
        data = small(ImageDataModule, tmp_path, balanced_sampling=True, seed=0)
        sampler = data.train_dataloader().sampler
        rows = [row for _ in range(40) for _, row in sampler]
        red = data.train_dataset.targets[torch.tensor(rows)].float().mean()
        assert len(rows) == 800 and 0.45 < red < 0.55


class TestHoldingOut:
    def test_the_share_is_about_what_is_asked(self):
        chosen = chosen_for_validation([f"{n}.png" for n in range(2000)], 0.1)
        assert sum(chosen) == pytest.approx(200, abs=40)

    def test_an_image_keeps_its_side_as_data_grows(self):
        files = [f"{n}.png" for n in range(500)]
        assert chosen_for_validation(files, 0.2)[:100] == chosen_for_validation(files[:100], 0.2)

    @pytest.mark.parametrize("share", [0.01, 0.99])
    def test_neither_side_is_ever_empty(self, share):
        assert sum(chosen_for_validation(["a", "b", "c"], share)) in (1, 2)


class TestTransforms:
    def test_custom_transforms_take_a_pillow_image(self, tmp_path):
        def transform(image):
            assert isinstance(image, Image.Image) and image.mode == "RGB"
            return torch.full((3, 5, 5), 7.0)

        folder = write_folders(tmp_path, FOLDERS)
        data = small(ImageDataModule, folder, train_transforms=transform)
        assert (next(iter(data.train_dataloader()))["images"] == 7).all()
        assert next(iter(data.val_dataloader()))["images"].shape[-1] == 32

    def test_images_of_several_sizes_are_an_error_that_says_so(self, tmp_path):
        write_image(tmp_path / "a" / "0.png", size=(40, 30))
        write_image(tmp_path / "a" / "1.png", size=(30, 40))
        data = small(ImageDataModule, tmp_path, val_split=0.0, train_transforms=to_tensor)
        with pytest.raises(DataError, match=r"images of the shapes \(3, 30, 40\), \(3, 40, 30\)"):
            next(iter(data.train_dataloader()))

    def test_the_description_wins_and_brings_the_backbones_statistics(self, tmp_path):
        data = small(
            ImageDataModule,
            write_folders(tmp_path, FOLDERS),
            transform_config=TransformConfig(preset="light", image_size=48),
            backbone="tf_efficientnet_lite0",
        )
        images = next(iter(data.val_dataloader()))["images"]
        assert data.image_size == 48 and images.shape[-1] == 48
        assert images.min() >= -1 and images.max() <= 1  # its mean and deviation are 0.5

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"augmentation_preset": "heavy"}, "preset = 'heavy': allowed: default"),
            ({"transform_backend": "opencv"}, "backend = 'opencv': allowed: torchvision"),
            ({"dataset_name": "STL10"}, "dataset_name = 'STL10': allowed: CIFAR10"),
            ({"val_split": 1.0}, r"val_split = 1.0: must be in \[0, 1\)"),
            ({"batch_size": 0}, "batch_size = 0: must be at least 1"),
            ({"num_workers": -1}, "num_workers = -1: must be at least 0"),
            ({"val_csv": "val.csv"}, "train_csv = None: must be given with val_csv"),
        ],
    )
    def test_a_parameter_that_is_not_allowed_is_named(self, settings, message):
        with pytest.raises(ValueError, match=message):
            small(ImageDataModule, ".", **settings)


def to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def test_a_set_of_torchvisions_is_read_where_it_lies(tmp_path):
    """MNIST's own files, with six digits."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 255, (6, 28, 28), dtype=np.uint8)
    for split in ("train", "t10k"):
        head = np.array([0x803, 6, 28, 28], dtype=">i4").tobytes()
        (folder / f"{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = np.array([0x801, 6], dtype=">i4").tobytes()
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(head + bytes([0, 1, 2, 3, 4, 5]))
    data = small(ImageDataModule, tmp_path, dataset_name="MNIST", val_split=0.3, batch_size=6)
    data.prepare_data()
    data.setup("fit")
    assert data.num_classes == 10 and data.class_names[7].startswith("7")
    assert len(data.train_dataset) + len(data.val_dataset) == 6 and len(data.test_dataset) == 6
    assert next(iter(data.test_dataloader()))["labels"].tolist() == [0, 1, 2, 3, 4, 5]
