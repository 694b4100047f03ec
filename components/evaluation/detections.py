"""What is in the images and what was found there, as flat arrays; and how much boxes overlap.

Shapes: G true objects, D predictions, C classes. Boxes are `xywh` in pixels of the original images,
origin top left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TrueObjects:
    """The objects of all images.

    Args:
        image_id: [G] integers.
        class_id: [G] integers, 0 … C-1.
        boxes_xywh: [G, 4].
        area: [G] square pixels; decides small, medium or large.
        is_crowd: [G] booleans; predictions inside a crowd are neither right nor wrong.
    """

    image_id: NDArray[Any]
    class_id: NDArray[Any]
    boxes_xywh: NDArray[Any]
    area: NDArray[Any]
    is_crowd: NDArray[Any]

    def __post_init__(self) -> None:
        _set_arrays(self, ("image_id", "class_id"), ("area",))
        object.__setattr__(self, "is_crowd", np.asarray(self.is_crowd, dtype=bool).reshape(-1))
        _check_lengths(self, ("image_id", "class_id", "boxes_xywh", "area", "is_crowd"))


@dataclass(frozen=True)
class Predictions:
    """What the model found in all images.

    Args:
        image_id: [D] integers.
        class_id: [D] integers, 0 … C-1.
        score: [D] 0 … 1.
        boxes_xywh: [D, 4].
    """

    image_id: NDArray[Any]
    class_id: NDArray[Any]
    score: NDArray[Any]
    boxes_xywh: NDArray[Any]

    def __post_init__(self) -> None:
        _set_arrays(self, ("image_id", "class_id"), ("score",))
        _check_lengths(self, ("image_id", "class_id", "score", "boxes_xywh"))
        if not (np.isfinite(self.score).all() and np.isfinite(self.boxes_xywh).all()):
            raise ValueError("predictions must be finite")


def _set_arrays(self: Any, integers: tuple[str, ...], floats: tuple[str, ...]) -> None:
    """Give a frozen container arrays of the right type; empty lists become empty arrays."""
    for name in integers:
        object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64).reshape(-1))
    for name in floats:
        object.__setattr__(
            self, name, np.asarray(getattr(self, name), dtype=np.float64).reshape(-1)
        )
    boxes = np.asarray(self.boxes_xywh, dtype=np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"boxes_xywh must be [n, 4], not {list(boxes.shape)}")
    object.__setattr__(self, "boxes_xywh", boxes.reshape(-1, 4))


def _check_lengths(self: Any, names: tuple[str, ...]) -> None:
    lengths = {name: len(getattr(self, name)) for name in names}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays of different lengths: {lengths}")


Rows = TypeVar("Rows", TrueObjects, Predictions)


def of_images(rows: Rows, image_ids: NDArray[Any]) -> Rows:
    """Those of some images only, in the same order."""
    kept = np.isin(rows.image_id, image_ids)
    return replace(rows, **{field.name: getattr(rows, field.name)[kept] for field in fields(rows)})


def rows_by_image(
    image_id: NDArray[Any], wanted: NDArray[Any]
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Each wanted image, and where its id stands in `image_id`, in order."""
    order = np.argsort(image_id, kind="stable")
    ordered = image_id[order]
    starts = np.searchsorted(ordered, wanted, side="left")
    ends = np.searchsorted(ordered, wanted, side="right")
    for image, start, end in zip(wanted.tolist(), starts, ends, strict=True):
        yield image, order[start:end]


def box_iou_xywh(
    boxes: NDArray[Any], others: NDArray[Any], others_crowd: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """[n, m] overlap of `boxes` [n, 4] with `others` [m, 4].

    With a crowd the overlap is measured against the box alone, as COCO does.
    """
    end, other_end = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(end[:, None], other_end[None])
    shared = (high - low).clip(0).prod(axis=2)
    area = boxes[:, 2:].prod(axis=1)[:, None]
    union = area + others[:, 2:].prod(axis=1)[None] - shared
    if others_crowd is not None:
        union = np.where(others_crowd[None, :], area, union)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
