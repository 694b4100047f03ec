"""A few kilobytes that describe a data set, so that a later version can be compared with it.

The bins of the histograms are fixed, whatever the data: two profiles can always be compared. Values
beyond the outer edges count in the outer bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from components.contract.reading import Reading
from components.contract.tables import Task
from components.errors import DataError
from components.files import read_json
from components.validation.object_columns import ObjectColumns, distinct
from components.validation.pixel_pass import ImageFacts

VERSION = 1
GRID = 4  # cells on a side of the map of box centres
_QUANTILES = {"5 %": 0.05, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "95 %": 0.95}

# Inner edges of the bins. Aspects such as 1:1, 4:3, 3:2 and 16:9 lie inside a bin, not on an edge.
EDGES: dict[str, tuple[float, ...]] = {
    "brightness": tuple(float(16 * step) for step in range(1, 16)),
    "megapixels": tuple(round(2 ** (step / 2), 6) for step in range(-16, 13)),
    "aspect": tuple(round(2 ** (step / 4 + 0.125), 6) for step in range(-12, 12)),
    "box_size": tuple(round(2 ** (step / 2), 6) for step in range(-14, 0)),
}
ColumnKind = Literal["text", "number", "boolean", "mixed", "empty"]


def profile(
    reading: Reading, facts: Sequence[ImageFacts], columns: ObjectColumns | None = None
) -> dict[str, Any]:
    """Describe a data set; the same data gives the same content, whatever the order of its rows.

    Args:
        reading: the data set.
        facts: of each image of `reading.images`, in the same order; images with a fault do not
            count, nor do their objects.
        columns: of the objects, if they have been made.

    Returns:
        Plain JSON: `version`, `task`, `multi_label`, `num_images`, `num_objects`,
        `num_without_objects` (images), `classes`, `columns` (kind of each column that the data
        brings), `labels` (objects of each class), `histograms` (counts in the bins of `EDGES`),
        `quantiles` of the same quantities, and `box_place` (boxes by the place of their centre on
        a `GRID` x `GRID` map, row by row from the top left). `brightness` is the mean luminance, 0
        to 255; `aspect` is width over height; `box_size` the square root of a box's share of the
        image. The keys of boxes are there for detection only.
    """
    usable = np.array([not fact.fault for fact in facts], dtype=bool)
    columns = columns or ObjectColumns(reading)
    counted = usable[columns.image]
    kept = [fact for fact in facts if not fact.fault]
    width, height = (
        np.array([getattr(fact, side) for fact in kept], dtype=np.float64)
        for side in ("width", "height")
    )
    values = {
        "brightness": np.array([fact.brightness for fact in kept], dtype=np.float64),
        "megapixels": width * height / 1e6,
        "aspect": width / height,
    }
    result: dict[str, Any] = {
        "version": VERSION,
        "task": reading.task,
        "multi_label": reading.multi_label,
        "num_images": len(kept),
        "num_objects": int(counted.sum()),
        "num_without_objects": len(kept) - len(distinct(columns.image[counted])),
        "classes": list(reading.classes),
        "columns": _columns(reading),
    }
    counts = np.bincount(columns.label[counted], minlength=len(reading.classes)).tolist()
    result["labels"] = dict(zip(reading.classes, counts, strict=True))
    if reading.task == "detection":
        rows, boxes = columns.boxes
        boxes, rows = boxes[counted[rows]], rows[counted[rows]]
        sizes = np.array([(fact.width, fact.height) for fact in facts], dtype=np.float64)
        values["box_size"], result["box_place"] = _boxes(
            boxes, sizes.reshape(-1, 2)[columns.image[rows]]
        )
    result["histograms"] = {name: _histogram(name, items) for name, items in values.items()}
    result["quantiles"] = {name: _quantiles(items) for name, items in values.items()}
    return result


def _columns(reading: Reading) -> dict[str, ColumnKind]:
    kinds: dict[str, set[ColumnKind]] = {}
    for image in reading.images:
        for name, value in (image.columns or {}).items():
            seen = kinds.setdefault(name, set())
            if value is not None:
                seen.add(_kind(value))
    return {
        name: "empty" if not seen else seen.pop() if len(seen) == 1 else "mixed"
        for name, seen in sorted(kinds.items())
    }


def _kind(value: Any) -> ColumnKind:
    if isinstance(value, bool | np.bool_):
        return "boolean"
    return "number" if isinstance(value, int | float | np.number) else "text"


def _boxes(xywh: np.ndarray, image_sizes: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Relative sizes, and counts of centres on the grid; broken boxes are left out.

    Args:
        xywh: [B, 4] pixels.
        image_sizes: [B, 2] width and height of each box's image, pixels.
    """
    sound = np.isfinite(xywh).all(axis=1) & (xywh[:, 2] > 0) & (xywh[:, 3] > 0)
    begin, sides, image_sizes = xywh[sound, :2], xywh[sound, 2:], image_sizes[sound]
    with np.errstate(over="ignore"):  # hostile numbers count in the outer cells
        roots = np.sqrt(sides / image_sizes)
        centres = (begin + sides / 2) / image_sizes
        sizes = roots[:, 0] * roots[:, 1]
    cells = (np.clip(centres, 0.0, 0.999999) * GRID).astype(np.int64)
    place = np.bincount(cells[:, 1] * GRID + cells[:, 0], minlength=GRID * GRID)
    return sizes, place.tolist()


def _histogram(name: str, values: np.ndarray) -> list[int]:
    bins = np.searchsorted(EDGES[name], values, side="right")
    return np.bincount(bins, minlength=len(EDGES[name]) + 1).tolist()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, list(_QUANTILES.values()))
    return {name: float(f"{value:.4g}") for name, value in zip(_QUANTILES, found, strict=True)}


class _Form(BaseModel):
    """What a profile must look like; it may come from another version, or an editor."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    task: Task
    multi_label: bool
    num_images: NonNegativeInt
    num_objects: NonNegativeInt
    num_without_objects: NonNegativeInt
    num_errors: NonNegativeInt = 0
    fingerprint: str = ""
    classes: list[str]
    columns: dict[str, ColumnKind]
    labels: dict[str, NonNegativeInt]
    histograms: dict[str, list[NonNegativeInt]]
    quantiles: dict[str, dict[str, float]]
    box_place: list[NonNegativeInt] = Field([], max_length=GRID * GRID)


def read_profile(path: Path) -> dict[str, Any] | None:
    """Read a profile.

    Returns:
        What `profile` made, or None if there is no such file.

    Raises:
        DataError: it is no profile, or one of another version; names the field and the remedy.
    """
    if not Path(path).exists():
        return None
    content = read_json(path)
    remedy = "restore the file, or write it anew with `python -m tasks.accept`"
    try:
        _Form.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path}: not a profile: {place}: {first['msg']}; {remedy}") from None
    wanted = {name: len(edges) + 1 for name, edges in EDGES.items()}
    if content["task"] != "detection":
        del wanted["box_size"]
    if {name: len(counts) for name, counts in content["histograms"].items()} != wanted:
        raise DataError(f"{path}: not a profile: histograms: other bins; {remedy}")
    if len(content.get("box_place", [])) != (GRID * GRID if content["task"] == "detection" else 0):
        raise DataError(f"{path}: not a profile: box_place: must have {GRID * GRID} counts")
    return dict(content)
