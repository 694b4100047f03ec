"""Tiny raw data sets, written as users have them, and where the real ones lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"


def real_data(name: str) -> Path:
    """The folder of a real data set; skips the test where it is not there."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30), color=None) -> None:
    """Noise, (width, height) pixels, with a square of one colour where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 80, (height, width, 3), dtype=np.uint8)
    if color is not None:
        pixels[5:25, 10:30] = color
    Image.fromarray(pixels).save(path)


COLORS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def write_folders(root: Path, counts: dict[str, dict[str, int]]) -> Path:
    """A folder per class; `counts` gives images by split (or "" for no split level) and class."""
    for split, classes in counts.items():
        for name, count in classes.items():
            for number in range(count):
                path = root / split / name / f"{number}.png"
                write_image(path, hash_free(split, name, number), color=COLORS.get(name))
    return root


def hash_free(*parts: object) -> int:
    """A seed from names, the same in every process."""
    return sum(ord(letter) * (place + 1) for place, letter in enumerate(" ".join(map(str, parts))))


CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "green"}]


def coco_content(num_images: int, categories=CATEGORIES, prefix: str = "") -> dict:
    """COCO content: one box an image but for the last, which has none; ids have gaps."""
    images = [
        {"id": 10 + n, "file_name": f"{prefix}{n}.png", "width": 40, "height": 30}
        for n in range(num_images)
    ]
    annotations = [
        {
            "id": n,
            "image_id": 10 + n,
            "category_id": categories[n % len(categories)]["id"],
            "bbox": [10, 5, 20, 20],
            "area": 400,
            "iscrowd": 0,
        }
        for n in range(num_images - 1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(root: Path, year: str = "2017", **contents: dict) -> Path:
    """A COCO directory as COCO itself is laid out; `contents` by split."""
    contents = contents or {"train": coco_content(6), "val": coco_content(3)}
    for split, content in contents.items():
        file = root / "annotations" / f"instances_{split}{year}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        names = {row["id"]: row["name"] for row in content["categories"]}
        classes = {row["image_id"]: names.get(row["category_id"]) for row in content["annotations"]}
        for row in content["images"]:
            color = COLORS.get(classes.get(row["id"], ""))
            write_image(root / f"{split}{year}" / row["file_name"], row["id"], color=color)
    return root
