"""Augmentation fitted to the data: what `auto` stands for in `augment.flip` and `augment.scale`."""

from __future__ import annotations

import re

import numpy as np

from components.data.settings import AugmentParams, AugmentSettings
from components.data.store import PreparedStore

FLIP = 0.5
# A mirrored one is another class, or none.
_SIDED = re.compile(r"(?:^|[^a-z])(?:left|right|leftward|rightward|clockwise)(?:$|[^a-z])")
SMALLEST_SIDE = 12.0  # pixels: one and a half strides of the finest feature level
ZOOM = (0.6, 1.5)  # widest range that is taken by itself
CROP = (0.4, 1.0)  # share of a photograph's area; that of examples/clothing.yaml
SMALL_CROP = (0.7, 1.0)  # of an input below this many pixels, where details are few
SMALL_INPUT = 96


def fitted(wanted: AugmentParams, store: PreparedStore) -> tuple[AugmentSettings, list[str]]:
    """The augmentation that `auto` stands for on this data, and why, a line for each choice.

    - `flip`: 0.5; 0 where class names tell sides (left, right, clockwise) or are single characters
      (a mirrored letter or digit is none).
    - `scale`, detection: zooms out so far that the smaller quarter of the training objects keeps a
      side of 12 pixels, and in so far that the larger quarter still fits, within 0.6 to 1.5.
    - `scale`, classification: crops keep at least 0.4 of the area, 0.7 of inputs below 96 pixels.
    """
    found: dict[str, object] = {}
    reasons = []
    if wanted.flip == "auto":
        found["flip"], reason = _flip(store.info.classes)
        reasons.append(reason)
    if wanted.scale == "auto":
        found["scale"], reason = (
            _zoom(store) if store.info.task == "detection" else _crop(store.info.image_size)
        )
        reasons.append(reason)
    return AugmentSettings.model_validate({**wanted.model_dump(), **found}), reasons


def _flip(classes: tuple[str, ...]) -> tuple[float, str]:
    sided = [name for name in classes if _SIDED.search(name.lower().replace("_", " "))]
    single = [name for name in classes if len(name) == 1]
    if sided:
        return 0.0, f"augment.flip 0: the class {sided[0]!r} tells a side"
    if single and len(single) == len(classes):
        return 0.0, f"augment.flip 0: classes such as {single[0]!r} are letters or digits"
    return FLIP, f"augment.flip {FLIP:g}: no class name tells a side"


def _crop(image_size: tuple[int, int]) -> tuple[tuple[float, float], str]:
    small = min(image_size) < SMALL_INPUT
    chosen = SMALL_CROP if small else CROP
    return chosen, f"augment.scale {list(chosen)}: for an input of {min(image_size)} pixels"


def _zoom(store: PreparedStore) -> tuple[tuple[float, float], str]:
    boxes = [store.boxes(int(row))[0] for row in store.rows("train")]
    sides = (
        np.concatenate([box[:, 2:] - box[:, :2] for box in boxes]) if boxes else np.empty((0, 2))
    )
    if not len(sides):
        return (1.0, 1.0), "augment.scale [1, 1]: there is no training object to look at"
    small = float(np.quantile(np.sqrt(sides.prod(axis=1)), 0.25))
    large = float(np.quantile(sides.max(axis=1), 0.75))
    low = float(np.clip(SMALLEST_SIDE / small, ZOOM[0], 1.0))
    high = float(np.clip(min(store.info.image_size) / large, 1.0, ZOOM[1]))
    chosen = (round(low, 2), round(high, 2))
    return chosen, (
        f"augment.scale {list(chosen)}: a quarter of the objects is below {small:.0f} pixels, a "
        f"quarter above {large:.0f}"
    )
