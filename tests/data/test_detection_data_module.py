"""Detection data modules: COCO directories and CSV files; classes, boxes, errors."""

import contextlib
import json

import pytest
import torch
from PIL import Image
from raw_data_helpers import CATEGORIES, coco_content, real_data, write_coco, write_image

from components.data.detection_data_module import DetectionDataModule
from components.data.input_transforms import to_original
from components.data.record_batches import InputFormat
from components.data.transform_config import TransformConfig
from components.errors import DataError
from components.models.yolox_detector import YOLOXDetector
from components.training.auto_trainer import AutoTrainer


def small(*args, **settings):
    defaults = {"image_size": 64, "batch_size": 4, "num_workers": 0}
    return DetectionDataModule(*args, **{**defaults, **settings})


def with_annotations(*extra, **changes):
    content = coco_content(3) | changes
    content["annotations"] = [*content["annotations"], *extra]
    return content


def box(**changes):
    return {"id": 99, "image_id": 12, "category_id": 3, "bbox": [10, 5, 20, 20]} | changes


class TestCoco:
    def test_the_layout_of_coco_gives_classes_and_batches(self, tmp_path):
        data = small(write_coco(tmp_path))
        assert data.class_names is None
        data.setup("fit")
        assert data.class_names == ["red", "green"] and data.num_classes == 2
        assert len(data.train_dataset) == 6 and len(data.val_dataset) == 3
        batch = next(iter(data.val_dataloader()))
        assert batch["images"].shape == (3, 3, 64, 64) and batch["images"].dtype == torch.float32
        assert [boxes.tolist() for boxes in batch["boxes"]] == [
            [[16, 8, 48, 40]],
            [[16, 8, 48, 40]],
            [],
        ]
        assert [labels.tolist() for labels in batch["labels"]] == [[0], [1], []]
        assert batch["boxes"][2].shape == (0, 4) and batch["labels"][2].dtype == torch.int64

    def test_measured_boxes_lead_back_to_the_original(self, tmp_path):
        batch = next(iter(small(write_coco(tmp_path)).val_dataloader()))
        scale, size = batch["scales"][0].tolist(), batch["orig_sizes"][0].tolist()
        back = to_original(batch["boxes"][0], tuple(scale), tuple(size))
        assert size == [30, 40] and back.tolist() == [[10, 5, 30, 25]]

    def test_augmented_training_boxes_stay_on_their_object(self, tmp_path):
        data = small(write_coco(tmp_path), seed=0)
        seen = 0
        for epoch in range(5):
            for row in range(5):
                item = data.train_dataloader().dataset[(epoch, row)]
                for (x1, y1, x2, y2), label in zip(item["boxes"], item["labels"], strict=True):
                    inside = item["image"][:, int(y1) + 2 : int(y2) - 1, int(x1) + 2 : int(x2) - 1]
                    assert inside.mean((1, 2)).argmax() == label  # red is 0, green is 1
                    seen += 1
        assert seen >= 20

    @pytest.mark.parametrize("layout", ["train2017", "images/train", "images", ""])
    def test_images_are_found_where_people_put_them(self, tmp_path, layout):
        write_coco(tmp_path)
        (tmp_path / "other").mkdir()
        (tmp_path / "train2017").rename(tmp_path / "other" / "moved")
        target = tmp_path / layout
        target.mkdir(parents=True, exist_ok=True)
        for file in (tmp_path / "other" / "moved").iterdir():
            file.rename(target / file.name)
        data = small(tmp_path)
        data.setup()
        assert len(data.train_dataset[0]["boxes"]) == 1

    def test_files_and_folders_may_be_given_one_by_one(self, tmp_path):
        write_coco(tmp_path / "a")
        write_coco(tmp_path / "b")
        data = small(
            tmp_path / "elsewhere",
            train_ann_file=tmp_path / "a/annotations/instances_train2017.json",
            train_images_dir=tmp_path / "a/train2017",
            val_ann_file=str(tmp_path / "b/annotations/instances_val2017.json"),
            val_images_dir=str(tmp_path / "b/val2017"),
            test_ann_file=tmp_path / "b/annotations/instances_train2017.json",
            test_images_dir=tmp_path / "b/train2017",
        )
        assert len(next(iter(data.train_dataloader()))["boxes"]) == 4
        assert len(data.test_dataset) == 6
        assert len(next(iter(data.test_dataloader()))["boxes"]) == 4

    def test_without_a_test_file_asking_for_it_says_what_to_give(self, tmp_path):
        with pytest.raises(DataError, match="there is no test split; give test_ann_file"):
            small(write_coco(tmp_path)).test_dataloader()

    def test_crowds_and_boxes_outside_are_left_out_and_counted(self, tmp_path):
        train = with_annotations(box(iscrowd=1), box(id=98, bbox=[50, 5, 20, 20]))
        data = small(write_coco(tmp_path, train=train, val=coco_content(2)))
        data.setup()
        assert [len(labels) for labels in data.train_dataset.labels] == [1, 1, 0]
        rows = [line.strip("|").split("|") for line in data.summary().splitlines() if "|" in line]
        facts = {key.strip(): value.strip() for key, value in rows}
        assert facts["Boxes left out: crowds"] == facts["Boxes left out: outside"] == "1"
        assert facts["Train boxes"] == "2" and facts["Train images without boxes"] == "1"

    def test_boxes_are_clipped_to_the_image(self, tmp_path):
        content = with_annotations(box(bbox=[-10, -10, 30, 30]))
        data = small(write_coco(tmp_path, train=content, val=content))
        data.setup()
        assert data.val_dataset[2]["boxes"].tolist() == [[0, 0, 32, 32]]

    def test_small_boxes_are_not_learnt_but_measured(self, tmp_path):
        content = with_annotations(box(bbox=[1, 1, 4, 4]))
        data = small(write_coco(tmp_path, train=content, val=content), min_bbox_area=17)
        data.setup()
        assert [len(labels) for labels in data.train_dataset.labels] == [1, 1, 0]
        assert [len(labels) for labels in data.val_dataset.labels] == [1, 1, 1]

    def test_chosen_classes_are_numbered_anew(self, tmp_path):
        data = small(write_coco(tmp_path), class_ids=[7])
        data.setup()
        assert data.class_names == ["green"]
        # Images of green alone, and the one without objects.
        assert [labels.tolist() for labels in data.train_dataset.labels] == [[0], [0], []]
        with pytest.raises(DataError, match=r"class_ids = \[1\]: allowed: 3 \(red\), 7 \(green\)"):
            small(tmp_path, class_ids=[1]).setup()

    @pytest.mark.parametrize(
        ("categories", "message"),
        [
            ([{"id": 3, "name": "green"}, {"id": 7, "name": "red"}], "3 is 'red' and 'green'"),
            ([{"id": 3, "name": "red"}, {"id": 8, "name": "green"}], "7 is 'green' and 'missing'"),
            ([*CATEGORIES, {"id": 9, "name": "blue"}], "9 is 'missing' and 'blue'"),
        ],
    )
    def test_categories_that_differ_are_an_error_that_names_both_files(
        self, tmp_path, categories, message
    ):
        val = coco_content(3, categories)
        with pytest.raises(DataError, match=message) as caught:
            small(write_coco(tmp_path, train=coco_content(3), val=val)).setup()
        assert "instances_train2017.json" in str(caught.value)
        assert "instances_val2017.json" in str(caught.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (with_annotations(box(category_id=4)), r"annotations\[2\]: category_id names no"),
            (with_annotations(box(image_id=1)), r"annotations\[2\]: image_id names no image"),
            (with_annotations(box(bbox=[1, 2, 3])), r"annotations\[2\]: bbox must be four"),
            (with_annotations(box(bbox=[1, 2, float("nan"), 3])), r"must be finite numbers"),
            (with_annotations(images=[]), r"image_id names no image"),
            ({"images": []}, "not COCO: must be an object with the lists"),
            (coco_content(1) | {"images": [], "annotations": []}, "it names no image"),
        ],
    )
    def test_broken_content_is_named(self, tmp_path, content, message):
        write_coco(tmp_path)
        (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=message) as caught:
            small(tmp_path).setup()
        assert "instances_train2017.json" in str(caught.value)

    @pytest.mark.parametrize("name", ["../outside.png", "/etc/hosts", "link.png"])
    def test_a_path_out_of_the_data_is_refused(self, tmp_path, name):
        root = write_coco(tmp_path / "data")
        write_image(tmp_path / "outside.png")
        (root / "train2017" / "link.png").symlink_to(tmp_path / "outside.png")
        content = coco_content(2)
        content["images"][0]["file_name"] = name
        (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"images\[0\]: (the path|a symbolic link)"):
            small(root).setup()
        folder = {"train_images_dir": root / "train2017"}
        with pytest.raises(DataError, match=r"images\[0\]: (the path|a symbolic link)"):
            small(root, **folder).setup()

    def test_a_missing_image_and_a_missing_split_are_named(self, tmp_path):
        write_coco(tmp_path)
        (tmp_path / "val2017" / "1.png").unlink()
        with pytest.raises(DataError, match=r"images\[1\]: there is no such image file"):
            small(tmp_path).setup()
        (tmp_path / "annotations" / "instances_val2017.json").unlink()
        with pytest.raises(DataError, match="no COCO file of the val split"):
            small(tmp_path).setup()

    def test_of_two_years_the_documented_one_counts(self, tmp_path):
        write_coco(tmp_path, year="2014", train=coco_content(2), val=coco_content(2))
        write_coco(tmp_path)
        data = small(tmp_path)
        data.setup()
        assert len(data.train_dataset) == 6

    def test_an_image_of_another_size_than_declared_is_an_error(self, tmp_path):
        """As when boxes were drawn on the image before its orientation was applied."""
        write_coco(tmp_path)
        exif = Image.Exif()
        exif[0x0112] = 6
        path = tmp_path / "train2017" / "0.png"
        with Image.open(path) as image:
            image.save(path, exif=exif)
        data = small(tmp_path)
        data.setup()
        message = r"0.png: declared as \(40.0, 30.0\) .*the image is \(30, 40\) when upright"
        with pytest.raises(DataError, match=message):
            data.train_dataset[0]

    def test_real_data_is_read_whole(self):
        data = small(real_data("bccd"), image_size=96)
        data.setup()
        assert data.class_names == ["Platelets", "RBC", "WBC"]
        assert len(data.train_dataset) > 200 and len(data.val_dataset) > 50
        for loader in (data.train_dataloader(), data.val_dataloader()):
            batch = next(iter(loader))
            assert batch["images"].isfinite().all()
            assert all(b.min() >= 0 and b.max() <= 96 for b in batch["boxes"] if len(b))
            assert sum(map(len, batch["labels"])) > 10


class TestCsv:
    HEADER = "image_path,x_min,y_min,x_max,y_max,label\n"

    def write(self, folder, rows, name="train.csv"):
        for number in range(3):
            write_image(folder / f"{number}.png", number)
        (folder / name).write_text(self.HEADER + rows)
        return folder / name

    def test_rows_are_grouped_by_image_and_one_may_be_empty(self, tmp_path):
        file = self.write(
            tmp_path, "0.png,10,5,30,25,b\n1.png,,,,,\n0.png,1,1,5,5,a\n2.png,0,0,40,30,a\n"
        )
        data = small(train_csv=file)
        data.setup("fit")
        assert data.class_names == ["a", "b"] and data.val_dataloader() == []
        assert [labels.tolist() for labels in data.train_dataset.labels] == [[1, 0], [], [0]]
        assert data.train_dataset.boxes[0].tolist() == [[10, 5, 30, 25], [1, 1, 5, 5]]

    def test_columns_may_have_other_names(self, tmp_path):
        write_image(tmp_path / "images" / "0.png")
        file = tmp_path / "boxes.csv"
        file.write_text("class,left,top,right,bottom,file\ncat,1,2,3,4,0.png\n")
        data = small(
            train_csv=file,
            image_dir=tmp_path / "images",
            image_column="file",
            bbox_columns=["left", "top", "right", "bottom"],
            label_column="class",
        )
        data.setup()
        assert data.train_dataset.boxes[0].tolist() == [[1, 2, 3, 4]]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("0.png,1,2,x,4,a", "line 2: x_max = 'x': must be a number of pixels"),
            ("0.png,1,2,inf,4,a", "line 2: x_max = 'inf': must be a number of pixels"),
            ("0.png,5,2,5,4,a", "line 2: x_max = '5': must be above x_min = 5"),
            ("0.png,1,2,3,4,", "line 2: label = '': the class name is empty"),
            ("0.png,1,,3,4,a", "line 2: y_min = '': must be a number of pixels"),
            ("7.png,1,2,3,4,a", "line 2: image_path = '7.png': there is no such file"),
            ("../0.png,1,2,3,4,a", "line 2: image_path = '../0.png': the path has a"),
        ],
    )
    def test_errors_name_file_line_column_and_value(self, tmp_path, row, message):
        with pytest.raises(DataError, match=rf"train.csv, {message}"):
            small(train_csv=self.write(tmp_path, row)).setup()

    def test_a_class_that_is_not_learnt_cannot_be_measured(self, tmp_path):
        train = self.write(tmp_path, "0.png,1,2,3,4,a\n")
        val = self.write(tmp_path, "1.png,1,2,3,4,b\n", "val.csv")
        with pytest.raises(DataError, match=r"val.csv: label = b: allowed: .*train.csv: a"):
            small(train_csv=train, val_csv=val).setup()


class TestFormat:
    def test_yolox_gets_what_its_preprocess_makes(self, tmp_path):
        """BGR, 0 to 255, in training and measuring as in prediction."""
        data = small(write_coco(tmp_path), seed=0)
        model = YOLOXDetector("yolox-nano", 2, transform_config=TransformConfig(image_size=64))
        seen, step = [], model.validation_step

        def note(batch, batch_idx):
            seen.append(batch["images"])
            step(batch, batch_idx)

        model.validation_step = note
        trainer = AutoTrainer(accelerator="cpu", enable_checkpointing=False)
        with torch.no_grad(), contextlib.redirect_stdout(None):
            trainer.validate(model, datamodule=data, verbose=False)
        with Image.open(tmp_path / "val2017" / "0.png") as image:
            expected = model.preprocess(image)
        # In float32 there and back through the normalisation of other models.
        assert torch.allclose(seen[0][:1], expected, atol=1e-3) and expected.max() > 200
        by_hand = next(iter(data.val_dataloader()))["images"]  # the trainer is known by now
        assert torch.equal(by_hand, seen[0])

    def test_there_and_back(self):
        images = torch.rand(2, 3, 4, 4)
        ours = InputFormat((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        theirs = InputFormat((0.0, 0.1, 0.0), (1 / 255,) * 3, "bgr")
        changed = ours.to(theirs, images)
        pixels = images * torch.tensor(ours.std).view(3, 1, 1) + torch.tensor([0.4, 0.5, 0.6]).view(
            3, 1, 1
        )
        assert torch.allclose(changed[:, 2], pixels[:, 0] * 255, atol=1e-3)
        assert torch.allclose(theirs.to(ours, changed), images, atol=1e-5)


class TestTransforms:
    def test_the_description_wins(self, tmp_path):
        config = TransformConfig(preset="light", image_size=96)
        data = small(write_coco(tmp_path), transform_config=config, backbone="resnet18")
        assert next(iter(data.train_dataloader()))["images"].shape[-1] == 96

    def test_custom_transforms_take_and_give_a_dict(self, tmp_path):
        def transform(item):
            assert isinstance(item["image"], Image.Image)
            return {**item, "image": torch.zeros(3, 8, 8)}

        data = small(write_coco(tmp_path), eval_transforms=transform)
        batch = next(iter(data.val_dataloader()))
        assert batch["images"].shape == (3, 3, 8, 8)
        assert type(batch["boxes"][0]) is torch.Tensor

    def test_a_policy_that_knows_no_boxes_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="preset = 'randaugment' for detection"):
            small(tmp_path, augmentation_preset="randaugment")
