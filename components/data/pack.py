"""Make a packed store: decode every image once, scale it, write it after the one before.

As raw pixels, or as JPEG without colour subsampling where raw pixels would take too much room; both
have the same size in pixels, hence the same boxes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from PIL import Image

from components.contract.accepted_splits import AcceptedSplits
from components.contract.paths import resolve_inside
from components.contract.pixels import decode, read_bytes
from components.contract.tables import Dataset
from components.data.geometry import Resize, resized_shape, scale_image, trimmed
from components.data.settings import PreprocessSettings
from components.data.splits import assign_splits
from components.data.store import PreparedStore, Storage, StoreInfo, write_index
from components.errors import DataError
from components.files import atomic_path

Item = TypeVar("Item")
Result = TypeVar("Result")


def pack(
    dataset: Dataset,
    raw_root: Path,
    folder: Path,
    settings: PreprocessSettings,
    max_pixels: int,
    max_bytes: int,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    near_duplicates: Iterable[tuple[int, int]] = (),
    accepted: AcceptedSplits | None = None,
) -> PreparedStore:
    """Write a packed store of a data set; it appears whole or not at all.

    Args:
        dataset: canonical tables.
        raw_root: folder the tables' paths are relative to; only read.
        folder: of the store.
        settings: splits, size and storage.
        max_pixels, max_bytes: caps of a single image file.
        progress: wraps the iteration over images, for a progress bar.
        near_duplicates: pairs of positions in the table of images that must share a drawn split.
        accepted: drawn splits that stay as they are.

    Raises:
        DataError: an image that passed validation cannot be read any more, or its content has
            changed; a split is empty; or nothing in train has a label or a box.
    """
    images = dataset.images.reset_index(drop=True)
    splits, source = assign_splits(images, dataset.objects, settings, near_duplicates, accepted)
    learnt = images["image_id"][splits == "train"]
    objects = dataset.objects
    if dataset.task == "detection":
        objects = objects[~objects["is_crowd"]]  # crowds are not learnt
    if not objects["image_id"].isin(learnt).any():
        raise DataError(
            f"{raw_root}: none of the {len(learnt)} images of the train split has a "
            f"{'box' if dataset.task == 'detection' else 'label'}: there is nothing to learn; "
            "are the annotations where the validation report says they were looked for?"
        )
    # Of several labels, some stand for what a centre crop would cut off.
    whole = dataset.task == "detection" or dataset.multi_label
    resize: Resize = "letterbox" if whole else "crop"
    rule = (settings.image_size, resize, settings.crop_fraction)
    storage = choose_storage(images, settings, resize)

    def prepare(row: Any) -> tuple[np.ndarray, bytes]:
        file = resolve_inside(raw_root, row.path)
        content = read_bytes(file, max_bytes)
        digest = hashlib.sha256(content).hexdigest()
        if digest != row.sha256:
            raise DataError(
                f"{row.path}: SHA-256 = {digest} now, {row.sha256} when it was validated; run the "
                "validate stage again"
            )
        pixels = trimmed(decode(content, str(file), max_pixels).pixels, *rule)
        height, width = pixels.shape[:2]
        pixels = scale_image(pixels, resized_shape(height, width, *rule))
        return pixels, encode(pixels, storage, settings.jpeg_quality)

    with atomic_path(folder) as draft:
        draft.mkdir()
        places, offset = [], 0
        moments = _PixelMoments()
        with (draft / "images.bin").open("wb") as file:
            rows = list(images.itertuples(index=False))
            prepared = in_order(prepare, rows, settings.num_workers or os.cpu_count() or 1)
            for (pixels, stored), split in zip(progress(prepared), splits, strict=True):
                file.write(stored)
                places.append((offset, len(stored), *pixels.shape[:2]))
                offset += len(stored)
                if split == "train":
                    moments.add(pixels)
        index = images[["image_id", "path", "sha256"]].assign(split=splits)
        index[["offset", "num_bytes", "height", "width"]] = np.array(places, dtype=np.int64)
        index["original_height"], index["original_width"] = images["height"], images["width"]

        class_ids = {name: number for number, name in enumerate(dataset.classes)}
        objects = dataset.objects.drop(columns=["object_id", "label"]).assign(
            class_id=dataset.objects["label"].map(class_ids).astype("int64")
        )
        if dataset.task == "detection":
            wanted = ["x", "y", "width", "height", "area", "is_crowd"]
            objects = objects[["image_id", "class_id", *wanted]]
        else:
            objects = objects[["image_id", "class_id"]].drop_duplicates(ignore_index=True)
        info = StoreInfo(
            task=dataset.task,
            classes=dataset.classes,
            image_size=settings.image_size,
            resize=resize,
            crop_fraction=settings.crop_fraction,
            fingerprint=dataset.fingerprint,
            split_source=source,
            statistics={
                **moments.result(),
                "objects_per_class": _counts(dataset, objects, index),
            },
            storage=storage,
            multi_label=dataset.multi_label,
        )
        write_index(draft, info, index, objects)
    return PreparedStore.open(folder)


def choose_storage(images: pd.DataFrame, settings: PreprocessSettings, resize: Resize) -> Storage:
    """The storage asked for; for `auto`, raw pixels if all of them keep below the cap.

    Args:
        images: the canonical table; `height` and `width` are read.
        settings: `storage`, `max_raw_gigabytes`, and the size images are brought to.
        resize: rule by which they are.
    """
    if settings.storage != "auto":
        return settings.storage
    rule = (settings.image_size, resize, settings.crop_fraction)
    num_bytes = 0
    sizes = Counter(zip(images["height"].tolist(), images["width"].tolist(), strict=True))
    for (height, width), count in sizes.items():
        # A view of one byte: only its shape is looked at.
        picture = np.broadcast_to(np.uint8(0), (height, width, 3))
        kept = trimmed(picture, *rule).shape
        num_bytes += 3 * count * math.prod(resized_shape(kept[0], kept[1], *rule))
    return "raw" if num_bytes <= settings.max_raw_gigabytes * 1e9 else "jpeg"


def encode(pixels: np.ndarray, storage: Storage, quality: int) -> bytes:
    """The bytes that stand for uint8 RGB pixels [H, W, 3] in a store."""
    if storage == "raw":
        return pixels.tobytes()
    file = io.BytesIO()
    # 4:4:4: small objects keep their colour.
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _counts(
    dataset: Dataset, objects: pd.DataFrame, index: pd.DataFrame
) -> dict[str, dict[str, int]]:
    """Number of objects by split and class name."""
    split = objects["image_id"].map(index.set_index("image_id")["split"])
    return {
        name: {
            label: int(((split == name) & (objects["class_id"] == number)).sum())
            for number, label in enumerate(dataset.classes)
        }
        for name in ("train", "val", "test")
    }


class _PixelMoments:
    """Mean and standard deviation of pixels, by channel, in [0, 1]."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = np.zeros(3)
        self._squares = np.zeros(3)

    def add(self, pixels: np.ndarray) -> None:
        flat = pixels.reshape(-1, 3).astype(np.float64) / 255
        self._count += len(flat)
        self._sum += flat.sum(axis=0)
        self._squares += (flat**2).sum(axis=0)

    def result(self) -> dict[str, list[float]]:
        mean = self._sum / max(1, self._count)
        variance = self._squares / max(1, self._count) - mean**2
        return {"pixel_mean": mean.tolist(), "pixel_std": np.sqrt(variance.clip(min=0)).tolist()}


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Map with threads, results in order, never more than a few of them waiting in memory.

    Threads, because Pillow decodes and resizes without Python's lock.
    """
    waiting: deque[Future[Result]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for item in itertools.islice(source, 4 * num_workers):
                waiting.append(pool.submit(function, item))
            while waiting:
                result = waiting.popleft().result()
                for item in itertools.islice(source, 1):
                    waiting.append(pool.submit(function, item))
                yield result
        finally:
            for future in waiting:
                future.cancel()
