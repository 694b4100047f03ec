"""The packed store of prepared images: decoded and resized once, read at memory speed.

A folder with `images.bin` (image after image: RGB uint8, or JPEG files), `index.parquet`,
`objects.parquet` and `dataset.json`; the columns stand in docs/architecture.md.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from components.data.geometry import Resize
from components.errors import DataError
from components.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

Storage = Literal["raw", "jpeg"]
_MAPPED = ("_pixels", "_pixel_tensor")


@dataclass(frozen=True)
class StoreInfo:
    """What holds for all images of a store.

    Attributes:
        task: `classification` or `detection`.
        classes: names; a class id is a position.
        image_size: (height, width) of the model's input, pixels.
        resize: rule by which images came to that size.
        crop_fraction: see `components.data.geometry`.
        fingerprint: of the tables the store was made from.
        split_source: `given` by the data, or by `hash`.
        statistics: mean and standard deviation of the training pixels, images and objects a class.
        storage: of the pixels: `raw`, read without decoding, or `jpeg`.
        multi_label: classification: an image has any number of labels instead of one.
    """

    task: str
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: Resize
    crop_fraction: float
    fingerprint: str
    split_source: str
    statistics: dict[str, Any]
    storage: Storage = "raw"
    multi_label: bool = False


def in_batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """Positions [N] as the fewest batches of at most `size`, of equal sizes as far as that goes."""
    return np.array_split(rows, -(-len(rows) // size))


class PreparedStore:
    """Reads a store. Cheap to pickle: a loader's workers each map the file for themselves."""

    def __init__(self, folder: Path, info: StoreInfo, index: pd.DataFrame, objects: pd.DataFrame):
        self.folder = Path(folder)
        self.info = info
        self.index = index
        self.objects = objects
        rows = {image_id: row for row, image_id in enumerate(index["image_id"])}
        self._targets: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(index)
        for image_id, positions in objects.groupby("image_id").indices.items():
            self._targets[rows[image_id]] = np.asarray(positions)
        self._class_ids = objects["class_id"].to_numpy(np.int64)
        if info.task == "detection":
            self._boxes = objects[["x", "y", "width", "height"]].to_numpy(np.float64)
            self._crowd = objects["is_crowd"].to_numpy(bool)
        self._shapes = index[["offset", "height", "width"]].to_numpy(np.int64)
        self._ends = self._shapes[:, 0] + stored_bytes(info, index)
        # (x, y, x, y) of each image: its far corner, and stored pixels per original pixel.
        self._corners = np.tile(self._shapes[:, [2, 1]], 2).astype(np.float64)
        original = index[["original_width", "original_height"]].to_numpy(np.float64)
        self._scales = self._corners / np.tile(original, 2)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a store.

        Raises:
            DataError: there is none, or its parts do not fit each other.
        """
        folder = Path(folder)
        if not (folder / "dataset.json").is_file():
            raise DataError(f"{folder}: no prepared data; run the preprocess stage first")
        facts = read_json(folder / "dataset.json")
        remedy = "run the preprocess stage again"
        try:
            sides = {key: tuple(facts[key]) for key in ("classes", "image_size")}
            info = StoreInfo(**{**facts, **sides})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{folder / 'dataset.json'}: not of this version: {error}; {remedy}"
            ) from None
        try:
            index = pd.read_parquet(folder / "index.parquet")
            objects = pd.read_parquet(folder / "objects.parquet")
        except FileNotFoundError as error:
            raise DataError(f"{folder}: {error}; {remedy}") from None
        sizes = stored_bytes(info, index)
        expected = int(sizes.sum())
        file = folder / "images.bin"
        found = file.stat().st_size if file.is_file() else 0
        if found != expected:
            raise DataError(f"{file}: {found} bytes, but the index describes {expected}; {remedy}")
        if not np.array_equal(index["offset"], np.cumsum(sizes) - sizes):
            raise DataError(
                f"{folder / 'index.parquet'}: offset: the images do not follow one another; "
                f"{remedy}"
            )
        return cls(folder, info, index, objects)

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        # The mapping must not travel to a worker process as a copy of the pixels.
        return {key: value for key, value in self.__dict__.items() if key not in _MAPPED}

    @cached_property
    def _pixels(self) -> np.ndarray:
        return np.memmap(self.folder / "images.bin", dtype=np.uint8, mode="r")

    @cached_property
    def _pixel_tensor(self) -> Tensor:
        import torch  # not at the top: packing needs none

        with warnings.catch_warnings():
            # That it must not be written to, which torch cannot enforce.
            warnings.simplefilter("ignore", UserWarning)
            return torch.from_numpy(self._pixels)

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's images, in table order."""
        return np.flatnonzero((self.index["split"] == split).to_numpy())

    def evaluated_split(self, wanted: str) -> str:
        """The split to measure on: `wanted`, or for `auto` test where there is one, else val.

        Raises:
            DataError: the split named has no image.
        """
        split = wanted
        if wanted == "auto":
            split = "test" if len(self.rows("test")) else "val"
        if not len(self.rows(split)):
            raise DataError(
                f"evaluate.split = {wanted}: the data has no image in it; "
                f"there are {self.index['split'].value_counts().to_dict()}"
            )
        return split

    def image(self, row: int) -> np.ndarray:
        """Stored pixels, uint8 RGB [H, W, 3]; of raw storage a read-only view.

        Raises:
            DataError: the stored JPEG is broken.
        """
        offset, height, width = self._shapes[row]
        stored = self._pixels[offset : self._ends[row]]
        if self.info.storage == "raw":
            return stored.reshape(height, width, 3)
        pixels = decode_jpeg(stored, f"{self.folder / 'images.bin'}, image {row}")
        if pixels.shape != (height, width, 3):
            raise DataError(
                f"{self.folder / 'images.bin'}, image {row}: {pixels.shape[1]}x{pixels.shape[0]} "
                f"pixels, but the index says {width}x{height}; run the preprocess stage again"
            )
        return pixels

    def tensor(self, row: int) -> Tensor:
        """`image` as a tensor [H, W, 3], not to be written to; of raw storage without a copy.

        Raises:
            DataError: the stored JPEG is broken.
        """
        if self.info.storage == "raw":
            offset, height, width = self._shapes[row].tolist()
            return self._pixel_tensor[offset : self._ends[row]].view(height, width, 3)
        import torch

        return torch.from_numpy(self.image(row))

    def label(self, row: int) -> int:
        """Class id of a classification image that has one label."""
        return int(self._class_ids[self._targets[row][0]])

    def label_vector(self, row: int) -> np.ndarray:
        """Labels of a multi-label image: float32 [C], 1 for each class it has, 0 for the others."""
        vector = np.zeros(len(self.info.classes), dtype=np.float32)
        vector[self._class_ids[self._targets[row]]] = 1
        return vector

    def boxes(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes to learn from: xyxy in stored pixels, float32 [G, 4], and class ids [G].

        Crowd regions are left out (they are ignored when measuring, as COCO does); boxes are
        clipped to the image.
        """
        positions = self._targets[row]
        positions = positions[~self._crowd[positions]]
        stored, scale = self._corners[row], self._scales[row]
        boxes = self._boxes[positions]
        boxes[:, 2:] += boxes[:, :2]
        boxes = np.minimum(np.maximum(boxes * scale, 0), stored)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[inside].astype(np.float32), self._class_ids[positions][inside]

    def scale(self, row: int) -> tuple[float, float]:
        """(scale_y, scale_x): stored pixels per original pixel."""
        scale_x, scale_y = self._scales[row, :2].tolist()
        return scale_y, scale_x


def stored_bytes(info: StoreInfo, index: pd.DataFrame) -> np.ndarray:
    """Bytes of each image in `images.bin`."""
    if info.storage == "raw":
        return (index["height"] * index["width"] * 3).to_numpy(np.int64)
    return index["num_bytes"].to_numpy(np.int64)


def decode_jpeg(stored: np.ndarray, name: str) -> np.ndarray:
    """Pixels of a JPEG file that `pack` wrote.

    Raises:
        DataError: it is broken; `name` stands in the message.
    """
    try:
        with Image.open(io.BytesIO(stored.tobytes()), formats=("JPEG",)) as image:
            return np.array(image)
    # Pillow tells of a broken file by any of these.
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"{name}: not a whole JPEG ({error}); run the preprocess stage again"
        ) from None


def write_index(folder: Path, info: StoreInfo, index: pd.DataFrame, objects: pd.DataFrame) -> None:
    """Write everything of a store but its pixels."""
    index.to_parquet(folder / "index.parquet", index=False)
    objects.to_parquet(folder / "objects.parquet", index=False)
    write_json(folder / "dataset.json", info.__dict__)
