"""Detection data for Lightning: a COCO directory, or CSV files of boxes.

Names and defaults are AutoTimm's. A batch is `{"images": float [B, 3, S, S] normalised, "boxes":
list of [G, 4] xyxy pixels of the input, "labels": list of int64 [G], "rows": [B] positions in the
data set, "orig_sizes": [B, 2] height and width of the originals, "scales": [B, 2] input pixels per
original pixel, down and across}`. Scales hold for the built-in evaluation transforms;
`input_transforms.to_original` divides by them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors

from components.data.detection_records import (
    BOX_COLUMNS,
    DetectionRecords,
    find_coco_file,
    read_coco_records,
    read_csv_records,
)
from components.data.input_transforms import letterbox_scale
from components.data.loaders import Batch
from components.data.record_batches import RecordDataset, stacked
from components.data.record_data_module import RecordDataModule
from components.data.sent_batch import SentBatch
from components.data.transform_config import TransformConfig
from components.errors import DataError

Item = dict[str, Any]


class DetectionDataset(RecordDataset):
    """Images with boxes: items are dicts of what a batch holds, of one image.

    Args:
        records: the images and their boxes.
        class_ids: class id by name.
        transform: of a dict `image` (Pillow), `boxes` (`tv_tensors.BoundingBoxes`, xyxy, unclipped)
            and `labels`; gives such a dict with the image as a tensor [3, S, S].
        seed: see `RecordDataset`.
    """

    def __init__(
        self,
        records: DetectionRecords,
        class_ids: Mapping[str, int],
        transform: Callable[[Item], Item],
        seed: int | None = None,
    ):
        super().__init__(records.root, records.names, transform, seed)
        self.source = records.source
        self.sizes = records.sizes
        self.boxes = records.boxes
        self.labels = [
            np.array([class_ids[label] for label in labels], dtype=np.int64)
            for labels in records.labels
        ]

    def item(self, row: int) -> Item:
        """The transformed image with its boxes; without boxes they are [0, 4]."""
        pixels = self.pixels(row)
        height, width = pixels.shape[:2]
        if self.sizes[row] not in (None, (width, height)):
            raise DataError(
                f"{self.source}: {self.names[row]}: declared as {self.sizes[row]} pixels (width, "
                f"height), but the image is {(width, height)} when upright, so its boxes would not "
                "fit"
            )
        # The image's edge is where an object ends; what lies beyond is nothing to be seen.
        boxes = self.boxes[row].clip(0, [width, height, width, height])
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        item = {
            "image": Image.fromarray(pixels),
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(boxes[inside].astype(np.float32)),
                format="XYXY",
                canvas_size=(height, width),
                clamping_mode=None,
            ),
            "labels": torch.from_numpy(self.labels[row][inside]),
        }
        item = self.transform(item)
        image = item["image"]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return {
            "image": image,
            "boxes": item["boxes"].as_subclass(Tensor).reshape(-1, 4),
            "labels": item["labels"],
            "row": torch.tensor(row),
            "orig_size": torch.tensor([height, width]),
            "scale": torch.tensor(letterbox_scale(height, width, size)),
        }


def collate_detections(items: list[Item]) -> Batch:
    """See the module's text."""
    return SentBatch(
        images=stacked([item["image"] for item in items]),
        boxes=[item["boxes"] for item in items],
        labels=[item["labels"] for item in items],
        rows=torch.stack([item["row"] for item in items]),
        orig_sizes=torch.stack([item["orig_size"] for item in items]),
        scales=torch.stack([item["scale"] for item in items]),
    )


class DetectionDataModule(RecordDataModule):
    """Images with boxes.

    - **COCO**: `annotations/instances_train*.json` and `…val*.json` below `data_dir` (and
      `…test*.json` where there is one), or files given one by one; images in `train2017/`,
      `images/train/` and where else `coco_reader` says. Classes are the categories in the order of
      their ids, which need not be without gaps and must be the same in all files.
    - **CSV**: a row per box; a row whose box and label are empty names an image without objects.
      Classes are the names in `train_csv`, sorted.

    Images without objects stay in all splits; boxes of crowds are neither learnt nor measured.

    Args:
        data_dir: root of the data.
        train_images_dir, val_images_dir, test_images_dir: where a split's images lie, if
            elsewhere; no image outside is read.
        train_ann_file, val_ann_file, test_ann_file: COCO files, if elsewhere.
        train_csv, val_csv, test_csv: UTF-8, comma separated, with a header; without `val_csv`
            there is no validation.
        image_dir: root of the paths in the CSV files; None for the folder of `train_csv`.
        image_column, label_column: names in the CSV files.
        bbox_columns: of left, top, right, bottom; None for `x_min`, `y_min`, `x_max`, `y_max`.
        image_size, batch_size, num_workers, train_transforms, eval_transforms,
            augmentation_preset, transform_config, backbone, pin_memory, persistent_workers,
            prefetch_factor, seed: see `RecordDataModule`; custom transforms: `DetectionDataset`.
        min_bbox_area: smaller objects, in original pixels, are not learnt (but measured).
        class_ids: COCO category ids to keep, in any order; images that hold other classes only are
            left out. None keeps all.

    After `setup`: `class_names`, `num_classes`, `train_dataset`, `val_dataset`, `test_dataset`.
    """

    test_hint = "give test_ann_file and test_images_dir, or test_csv"

    def __init__(
        self,
        data_dir: str | Path = "./coco",
        train_images_dir: str | Path | None = None,
        val_images_dir: str | Path | None = None,
        train_ann_file: str | Path | None = None,
        val_ann_file: str | Path | None = None,
        test_images_dir: str | Path | None = None,
        test_ann_file: str | Path | None = None,
        train_csv: str | Path | None = None,
        val_csv: str | Path | None = None,
        test_csv: str | Path | None = None,
        image_dir: str | Path | None = None,
        image_column: str = "image_path",
        bbox_columns: list[str] | None = None,
        label_column: str = "label",
        image_size: int = 640,
        batch_size: int = 16,
        num_workers: int = min(os.cpu_count() or 4, 4),
        train_transforms: Callable[..., Any] | None = None,
        eval_transforms: Callable[..., Any] | None = None,
        augmentation_preset: str | None = "default",
        transform_config: TransformConfig | None = None,
        backbone: str | nn.Module | None = None,
        pin_memory: bool = True,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
        min_bbox_area: float = 0.0,
        class_ids: list[int] | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            "detection",
            image_size,
            batch_size,
            num_workers,
            train_transforms,
            eval_transforms,
            augmentation_preset,
            "torchvision",
            transform_config,
            backbone,
            pin_memory,
            persistent_workers,
            prefetch_factor,
            seed,
        )
        if train_csv is None and (val_csv is not None or test_csv is not None):
            raise ValueError("train_csv = None: must be given with val_csv or test_csv")
        self.data_dir = Path(data_dir)
        self._images = {
            "train": train_images_dir,
            "val": val_images_dir,
            "test": test_images_dir,
        }
        self._files = {"train": train_ann_file, "val": val_ann_file, "test": test_ann_file}
        self._csv = {"train": train_csv, "val": val_csv, "test": test_csv}
        self.image_dir = None if image_dir is None else Path(image_dir)
        self.image_column, self.label_column = image_column, label_column
        self.bbox_columns = list(bbox_columns or BOX_COLUMNS)
        self.min_bbox_area = min_bbox_area
        self.class_ids = class_ids
        self._records: dict[str, DetectionRecords] = {}

    def read(self) -> None:
        """Set the data sets and the classes."""
        splits = self._read_coco() if self._csv["train"] is None else self._read_csv()
        categories = splits["train"].categories
        if self.class_ids is not None:
            missing = sorted(set(self.class_ids) - set(categories))
            if missing or not self.class_ids:
                known = ", ".join(f"{number} ({name})" for number, name in categories.items())
                raise DataError(f"class_ids = {self.class_ids}: allowed: {known}")
            categories = {key: name for key, name in categories.items() if key in self.class_ids}
            for records in splits.values():
                records.only(set(categories.values()))
        splits["train"].at_least(self.min_bbox_area)
        self.class_names, self.num_classes = list(categories.values()), len(categories)
        ids = {name: number for number, name in enumerate(self.class_names)}
        self._records = splits
        for split, records in splits.items():
            if not records.names:
                raise DataError(f"{records.source}: no image holds one of {self.class_names}")
            transform = self.train_transforms if split == "train" else self.eval_transforms
            setattr(self, f"{split}_dataset", DetectionDataset(records, ids, transform))

    def _read_coco(self) -> dict[str, DetectionRecords]:
        splits: dict[str, DetectionRecords] = {}
        for split, given in self._files.items():
            file = Path(given) if given is not None else find_coco_file(self.data_dir, split)
            if file is None:
                if split == "test":
                    continue
                raise DataError(
                    f"data_dir = {self.data_dir}: no COCO file of the {split} split, such as "
                    f"annotations/instances_{split}2017.json; {split}_ann_file may name it"
                )
            folder = self._images[split]
            records = read_coco_records(
                self.data_dir, file, None if folder is None else Path(folder)
            )
            if splits:
                _same_categories(splits["train"], records)
            splits[split] = records
        return splits

    def _read_csv(self) -> dict[str, DetectionRecords]:
        splits: dict[str, DetectionRecords] = {}
        for split, given in self._csv.items():
            if given is None:
                continue
            file = Path(given)
            root = self.image_dir or Path(self._csv["train"] or "").parent
            splits[split] = read_csv_records(
                file, root, self.image_column, self.bbox_columns, self.label_column
            )
            learnt = splits["train"].categories.values()
            unknown = sorted(set(splits[split].categories.values()) - set(learnt))
            if unknown:
                raise DataError(
                    f"{file}: {self.label_column} = {', '.join(unknown)}: allowed: the classes of "
                    f"{splits['train'].source}: {', '.join(learnt)}"
                )
        return splits

    collate = staticmethod(collate_detections)

    def facts(self) -> dict[str, object]:
        """What `summary` shows; boxes are those of the training split."""
        train = self._records["train"]
        return {
            "Data dir": self.data_dir if self._csv["train"] is None else train.source,
            **super().facts(),
            "Train boxes": sum(map(len, train.labels)),
            "Train images without boxes": sum(not labels for labels in train.labels),
            "Boxes left out: crowds": sum(r.num_crowd for r in self._records.values()),
            "Boxes left out: outside": sum(r.num_outside for r in self._records.values()),
        }


def _same_categories(train: DetectionRecords, other: DetectionRecords) -> None:
    """Raise unless ids and names are the same: otherwise labels would shift silently."""
    ours, theirs = train.categories, other.categories
    differing = [
        f"{key} is {ours.get(key, 'missing')!r} and {theirs.get(key, 'missing')!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise DataError(
            f"{train.source} and {other.source}: the categories differ, so labels would shift: "
            f"{', '.join(differing[:5])}{more}"
        )
