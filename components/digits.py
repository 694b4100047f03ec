"""Embedded data: real handwriting without a download, from scikit-learn's digits.

1,797 digits of 8 x 8 pixels, written by 43 people (UCI "Optical Recognition of Handwritten Digits",
CC BY 4.0), become

- a folder per class for classification, 32 x 32 pixels;
- scenes with COCO JSON for detection: 0 to 8 digits of 14 to 90 pixels, coloured, on textured
  grounds. No digit of one split is in another;
- scenes with a CSV table for several labels an image: which of the digits are in it, 0 to 4 of
  them, 96 x 96 pixels, otherwise as for detection.

The same version of this file and of Pillow gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from components.errors import DataError
from components.files import atomic_path, read_json

_T = TypeVar("_T")

SCENES = {"train": 480, "val": 120, "test": 120}
LABEL_SCENES = {"train": 1600, "val": 400, "test": 400}

_VERSION = 1  # raise it when the pictures change: older folders are then built anew
_MARK = "digits.json"
_SEED = 20

_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}  # of the digits
_SIZES = ((192, 160), (160, 192), (208, 160), (176, 176), (192, 144))  # width, height
_HEIGHTS = (14.0, 90.0)  # of the ink, pixels
_MOST_DIGITS = 8
_LABEL_SIZES, _LABEL_HEIGHTS, _MOST_LABELS = ((96, 96),), (28.0, 56.0), 4
_EMPTY_SHARE = 0.08
_MAX_IOU = 0.15
_MAX_COVERED = 0.25  # share of the smaller of two boxes
_INK = 0.35  # opacity from which a pixel counts as inked


@dataclass(frozen=True)
class _Pool:
    """Digits to draw from: images [N, 8, 8] floats 0 to 1, labels [N] ints."""

    images: np.ndarray
    labels: np.ndarray


def build_classification(folder: Path) -> bool:
    """Build `folder/<digit>/NNNN.png`: 1,797 RGB images of 32 x 32 pixels, without splits.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: the folder is there and was not made by this function.
    """

    def build(draft: Path) -> None:
        pool = _load()
        for label in range(10):
            (draft / str(label)).mkdir()
        pairs = zip(pool.images, pool.labels, strict=True)
        for index, (image, label) in enumerate(_progress(pairs, len(pool.labels), "digits")):
            grey = Image.fromarray(np.uint8(np.round(image * 255)))
            large = grey.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")
            large.save(draft / str(label) / f"{index:04d}.png")

    return _build_once(folder, "classification", build)


def build_detection(folder: Path) -> bool:
    """Build `folder/{train,val,test}/NNNN.jpg` and `folder/annotations/instances_*.json`.

    480, 120 and 120 scenes, about 8 % of them without a digit. Boxes hug the inked pixels and are
    whole pixels.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: the folder is there and was not made by this function.
    """

    def build(draft: Path) -> None:
        (draft / "annotations").mkdir()
        pools = _split(_load())
        for number, (split, num_scenes) in enumerate(SCENES.items()):
            (draft / split).mkdir()
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for index in _progress(range(num_scenes), num_scenes, f"{split} scenes"):
                random = np.random.default_rng([_SEED, number, index])
                pixels, boxes, labels = _scene(random, pools[split])
                name = f"{index:04d}.jpg"
                Image.fromarray(pixels).save(draft / split / name, quality=92)
                height, width = pixels.shape[:2]
                images.append(
                    {"id": index + 1, "file_name": name, "width": width, "height": height}
                )
                for box, label in zip(boxes, labels, strict=True):
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": index + 1,
                            "category_id": label + 1,
                            "bbox": list(box),
                            "area": box[2] * box[3],
                            "iscrowd": 0,
                        }
                    )
            content = {
                "info": {"description": f"scenes of handwritten digits, {split}"},
                "images": images,
                "annotations": annotations,
                "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
            }
            file = draft / "annotations" / f"instances_{split}.json"
            file.write_text(json.dumps(content) + "\n", encoding="utf-8")

    return _build_once(folder, "detection", build)


def build_multi_label(folder: Path) -> bool:
    """Build `folder/{train,val,test}/NNNN.jpg` and `folder/labels.csv`: `path,labels,split`.

    1,600, 400 and 400 scenes; about 8 % of them hold no digit, and have no label.

    Returns:
        Whether there was anything to do.

    Raises:
        DataError: the folder is there and was not made by this function.
    """

    def build(draft: Path) -> None:
        pools = _split(_load())
        rows = ["path,labels,split"]
        for number, (split, num_scenes) in enumerate(LABEL_SCENES.items()):
            (draft / split).mkdir()
            for index in _progress(range(num_scenes), num_scenes, f"{split} scenes"):
                random = np.random.default_rng([_SEED, 3 + number, index])
                pixels, _, labels = _scene(
                    random, pools[split], _LABEL_SIZES, _LABEL_HEIGHTS, _MOST_LABELS
                )
                name = f"{split}/{index:04d}.jpg"
                Image.fromarray(pixels).save(draft / name, quality=92)
                rows.append(f"{name},{'|'.join(map(str, sorted(set(labels))))},{split}")
        (draft / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    return _build_once(folder, "multi-label classification", build)


def _build_once(folder: Path, task: str, build: Callable[[Path], None]) -> bool:
    folder = Path(folder)
    mark = {"made_by": "components/digits.py", "task": task, "version": _VERSION}
    if folder.exists():
        old = read_json(folder / _MARK) if (folder / _MARK).is_file() else None
        if old == mark:
            return False
        if not isinstance(old, dict) or old.get("made_by") != mark["made_by"]:
            raise DataError(
                f"{folder}: this folder was not made by timmflow, so it is left alone; move it "
                "away to have the digits built here"
            )
    with atomic_path(folder) as draft:
        draft.mkdir()
        build(draft)
        (draft / _MARK).write_text(json.dumps(mark) + "\n", encoding="utf-8")
    return True


def _load() -> _Pool:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _Pool(bunch.images / 16.0, bunch.target.astype(int))


def _split(pool: _Pool) -> dict[str, _Pool]:
    """Disjoint pools with the same share of each digit."""
    random = np.random.default_rng(_SEED)
    chosen: dict[str, list[int]] = {split: [] for split in _SHARES}
    for label in range(10):
        members = random.permutation(np.flatnonzero(pool.labels == label))
        bounds = np.round(np.cumsum([*_SHARES.values()]) * len(members)).astype(int)
        for split, part in zip(_SHARES, np.split(members, bounds[:-1]), strict=True):
            chosen[split] += part.tolist()
    return {
        split: _Pool(pool.images[members], pool.labels[members])
        for split, members in chosen.items()
    }


def _scene(
    random: np.random.Generator,
    pool: _Pool,
    sizes: tuple[tuple[int, int], ...] = _SIZES,
    heights: tuple[float, float] = _HEIGHTS,
    most_digits: int = _MOST_DIGITS,
) -> tuple[np.ndarray, list[tuple[int, int, int, int]], list[int]]:
    """One scene: pixels [height, width, 3] uint8, boxes (x, y, width, height), digits."""
    width, height = sizes[random.integers(len(sizes))]
    dark = bool(random.random() < 0.5)
    canvas = _ground(random, width, height, dark)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    empty = random.random() < _EMPTY_SHARE
    wanted = 0 if empty else int(random.integers(1, most_digits + 1))
    for _ in range(wanted):
        which = int(random.integers(len(pool.labels)))
        # Even over sizes on a logarithmic scale; a crowd of eight has no place for giants.
        largest = min(heights[1], 0.8 * height, 260 / wanted**0.5)
        tall = float(np.exp(random.uniform(np.log(heights[0]), np.log(largest))))
        ink = _glyph(pool.images[which], tall)
        high, wide = ink.shape
        colour = _colour(random, dark)
        for _ in range(40):  # places to try
            x = int(random.integers(0, max(1, width - wide)))
            y = int(random.integers(0, max(1, height - high)))
            box = (x, y, wide, high)
            if wide <= width and all(_apart(box, other) for other in boxes):
                part = canvas[y : y + high, x : x + wide]
                part += (colour - part) * ink[..., None]
                boxes.append(box)
                labels.append(int(pool.labels[which]))
                break
    canvas += random.normal(0, random.uniform(1, 6), canvas.shape)  # the camera's noise
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), boxes, labels


def _glyph(image: np.ndarray, tall: float) -> np.ndarray:
    """A digit's opacity [h, w], 0 to 1, smooth-edged, with ink on all four borders.

    Args:
        image: [8, 8], 0 to 1.
        tall: height of the ink in pixels, about.
    """
    # Enlarged far beyond its size and cut at one grey level, a blurred digit becomes a pen stroke.
    scale = 32
    padded = np.pad(image, 1)
    large = Image.fromarray(np.float32(padded)).resize(
        (10 * scale, 10 * scale), Image.Resampling.BICUBIC
    )
    stroke = np.clip((np.asarray(large) - 0.38) / 0.12, 0, 1)
    stroke = _cropped(stroke)
    size = (max(2, round(stroke.shape[1] * tall / stroke.shape[0])), max(2, round(tall)))
    small = Image.fromarray(np.float32(stroke)).resize(size, Image.Resampling.BOX)
    return _cropped(np.asarray(small))


def _cropped(opacity: np.ndarray) -> np.ndarray:
    """The part that holds all pixels with at least `_INK` opacity."""
    rows = np.flatnonzero((opacity >= _INK).any(axis=1))
    columns = np.flatnonzero((opacity >= _INK).any(axis=0))
    return opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _apart(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    """Whether two boxes overlap little enough to read both digits."""
    wide = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    high = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    shared = max(0, wide) * max(0, high)
    one, two = box[2] * box[3], other[2] * other[3]
    return shared <= _MAX_COVERED * min(one, two) and shared <= _MAX_IOU * (one + two - shared)


def _ground(random: np.random.Generator, width: int, height: int, dark: bool) -> np.ndarray:
    """A textured ground [height, width, 3], floats 0 to 255, either dark or light all over."""
    low, high = (25, 95) if dark else (165, 230)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    colours = random.uniform(low, high, (2, 3))
    angle = random.uniform(0, np.pi)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    kind = random.integers(3)
    if kind == 0:  # a gradient
        blend = (along - along.min()) / np.ptp(along)
    elif kind == 1:  # stripes
        blend = 0.5 + 0.5 * np.sin(2 * np.pi * along / random.uniform(6, 40))
    else:  # clouds
        blend = _clouds(random, width, height, cells=int(random.integers(3, 12)))
    ground = colours[0] + (colours[1] - colours[0]) * blend[..., None]
    ground += 24 * (_clouds(random, width, height, cells=24)[..., None] - 0.5)  # grain
    return np.clip(ground, low - 15, high + 15)


def _clouds(random: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Smooth noise [height, width], about 0 to 1."""
    grid = Image.fromarray(np.float32(random.random((cells, cells))))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def _colour(random: np.random.Generator, dark_ground: bool) -> np.ndarray:
    """An ink colour [3] that can be read on a dark or a light ground."""
    while True:
        colour = random.uniform(0, 255, 3)
        luminance = float(colour @ (0.299, 0.587, 0.114))
        if (luminance > 175) if dark_ground else (luminance < 90):
            return colour


def _progress(items: Iterable[_T], total: int, text: str) -> Iterable[_T]:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(items, total=total, desc=text, unit="", disable=None)
