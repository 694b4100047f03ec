"""What images are told apart by in slices: their looks, their place, and the user's own columns."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from components.data.store import PreparedStore
from components.errors import DataError

# What the canonical table of images has for every data set.
OWN_COLUMNS = {"image_id", "path", "width", "height", "sha256", "phash", "group", "split"}
_STEP = 4  # every fourth pixel in each direction is enough for a mean


def builtin_columns(store: PreparedStore, rows: np.ndarray) -> dict[str, Any]:
    """Columns that every data set has: name to a value for each of `rows`.

    `brightness` is the mean pixel, 0 to 255; `image size` the longer side in pixels and `aspect`
    width by height, of the original; `objects` or `labels` how many it has; `folder` its own.
    """
    index = store.index.iloc[rows]
    width, height = index["original_width"].to_numpy(), index["original_height"].to_numpy()
    columns: dict[str, Any] = {
        "brightness": [float(store.image(row)[::_STEP, ::_STEP].mean()) for row in rows],
        "image size": np.maximum(width, height),
        "aspect": np.round(width / height, 2),
    }
    if store.info.task == "detection" or store.info.multi_label:
        counts = store.objects["image_id"].value_counts()
        name = "objects" if store.info.task == "detection" else "labels"
        columns[name] = index["image_id"].map(counts).fillna(0).to_numpy(np.int64)
    folders = [str(PurePosixPath(path).parent) for path in index["path"]]
    if not _are_classes(store, rows, folders):
        columns["folder"] = folders
    return columns


def _are_classes(store: PreparedStore, rows: np.ndarray, folders: list[str]) -> bool:
    """Whether all images of a folder have the same class, as a folder per class has it."""
    if store.info.task == "detection" or store.info.multi_label:
        return False
    pairs = {(folder, store.label(row)) for folder, row in zip(folders, rows, strict=True)}
    return len(pairs) == len(set(folders))


def user_columns(tables: Path, store: PreparedStore, rows: np.ndarray) -> dict[str, Any]:
    """The user's columns of the canonical table of images: name to a value for each of `rows`.

    Args:
        tables, store, rows: see `image_table`.
    """
    images = image_table(tables, store, rows)
    return {str(name): images[name] for name in images.columns if name not in OWN_COLUMNS}


def image_table(tables: Path, store: PreparedStore, rows: np.ndarray) -> pd.DataFrame:
    """The rows of the canonical table of images that some prepared images have.

    Args:
        tables: folder of the canonical tables; without them there is no column but `path`.
        store: the prepared images.
        rows: of the store.

    Raises:
        DataError: the table cannot be read, or lacks some of these images.
    """
    paths = store.index["path"].iloc[rows]
    table = tables / "images.parquet"
    if not table.is_file():
        return paths.to_frame().reset_index(drop=True)
    try:
        images = pd.read_parquet(table).set_index("path", drop=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{table}: cannot be read: {error}; run the validate stage again") from None
    absent = paths[~paths.isin(images.index)]
    if len(absent):
        raise DataError(
            f"{table}: has no image {absent.iloc[0]}, and {store.folder} has; run the preprocess "
            "stage again"
        )
    return images.loc[paths].reset_index(drop=True)
