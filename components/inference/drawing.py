"""Predictions drawn on their images, as files in a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.contract.pixels import ImageError, load_rgb
from components.evaluation.pictures import Box, NamedLabel, draw_boxes, draw_caption, draw_labels
from components.files import atomic_path
from components.inference.image_paths import DRAWN
from components.inference.predict_files import Result


class PictureFolder:
    """A folder of drawn pictures: `photo.predicted.jpg` for `photo.png`, `photo-2…` for the next.

    Args:
        folder: made where there is none.
        classes: of the model, in its order.
    """

    def __init__(self, folder: Path, classes: list[str]):
        self._folder, self._used = folder, Counter[str]()
        self._class_ids = {name: number for number, name in enumerate(classes)}

    def drawn(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results, each once its picture is written.

        Raises:
            WriteError: there is no room for a picture, or no permission.
        """
        for result in results:
            if result.path is not None and not result.error:
                try:
                    pixels = load_rgb(result.path)
                except ImageError as error:  # it was readable a moment ago
                    yield replace(result, answer={}, error=str(error))
                    continue
                with atomic_path(self._target(result.path.stem)) as draft:
                    picture = Image.fromarray(self._picture(pixels, result.answer))
                    picture.save(draft, "JPEG", quality=90)
            yield result

    def _target(self, stem: str) -> Path:
        self._used[stem] += 1
        again = f"-{self._used[stem]}" if self._used[stem] > 1 else ""
        return self._folder / f"{stem}{again}{DRAWN}"

    def _picture(self, pixels: np.ndarray, answer: dict[str, Any]) -> np.ndarray:
        if "detections" in answer:
            boxes = []
            for found in answer["detections"]:
                x1, y1, x2, y2 = found["box"]
                place = (x1, y1, x2 - x1, y2 - y1)
                number = self._class_ids[found["label"]]
                boxes.append(Box(place, found["label"], found["score"], class_id=number))
            return draw_boxes(pixels, boxes)
        if "labels" in answer:
            return draw_labels(
                pixels, [NamedLabel(found["label"], found["score"]) for found in answer["labels"]]
            )
        return draw_caption(pixels, next(iter(answer["probabilities"].items())))
