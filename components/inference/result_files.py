"""Predictions as text, piece by piece: JSON lines, CSV, COCO results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from components.errors import DataError
from components.files import read_json
from components.inference.predict_files import Result

CSV_COLUMNS = {
    "classification": ("path", "label", "score"),
    "detection": ("path", "label", "score", "x", "y", "width", "height"),
}


def printable(path: Path | None) -> str:
    """A path as valid Unicode: bytes that are none are written as `\\xff`."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def json_lines(results: Iterable[Result]) -> Iterator[str]:
    """A JSON object a line: `image`, its path, and the answer."""
    for result in results:
        if not result.error:
            row = {"image": printable(result.path), **result.answer}
            yield json.dumps(row, ensure_ascii=False, separators=(", ", ": ")) + "\n"


def csv_rows(results: Iterable[Result], task: str) -> Iterator[str]:
    """A header, then a row a detection, or a row an image for a classifier.

    The columns are those in which timmflow reads labels, with `score` beside: an image without
    detections has a row without a box; several labels, and their scores, are separated by `|`.

    Args:
        results: of one model.
        task: of that model.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS[task])
    for result in results:
        if not result.error:
            name = printable(result.path)
            writer.writerows((name, *row) for row in _csv_cells(result.answer))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _csv_cells(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    if "detections" in answer:
        rows = [(d["label"], d["score"], *_xywh(d["box"])) for d in answer["detections"]]
        return rows or [("", "", "", "", "", "")]
    if "labels" in answer:
        found = answer["labels"]
        return [("|".join(f["label"] for f in found), "|".join(str(f["score"]) for f in found))]
    return [next(iter(answer["probabilities"].items()))]


def _xywh(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]


class CocoIds:
    """The numbers that stand for images and classes in COCO results.

    Args:
        classes: of the model, in its order.
        annotations: a COCO annotation file: an image has the id of the entry whose `file_name` is
            the end of its path, the longest of several; a class that of the category with its name.
            None: images and classes are counted from 1, images in the order of the inputs.

    Raises:
        DataError: the file cannot be used, or lacks one of the classes.
    """

    def __init__(self, classes: list[str], annotations: Path | None = None):
        self.categories = {name: number for number, name in enumerate(classes, 1)}
        self._images: dict[tuple[str, ...], int] | None = None
        self._source = annotations
        if annotations is None:
            return
        content = read_json(annotations)
        try:
            known = {str(row["name"]): int(row["id"]) for row in content["categories"]}
            self._images = {
                PurePath(row["file_name"]).parts: int(row["id"]) for row in content["images"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{annotations}: not a COCO annotation file: {type(error).__name__} {error}; "
                "needed are images with id and file_name, and categories with id and name"
            ) from None
        absent = [name for name in classes if name not in known]
        if absent:
            raise DataError(f"{annotations}: no category is named {', '.join(absent[:5])}")
        self.categories = {name: known[name] for name in classes}

    def numbered(self, results: Iterable[Result]) -> Iterator[Result]:
        """The results with their image's id as `number`; an image without one becomes an error."""
        for result in results:
            number = self._number(result)
            if number is None:
                error = f"{result.path}: no image of {self._source} has this name"
                result = replace(result, answer={}, error=result.error or error)
            yield replace(result, number=number or 0)

    def _number(self, result: Result) -> int | None:
        if self._images is None or result.path is None:
            return result.number
        parts = result.path.parts
        ends = (parts[start:] for start in range(len(parts)))
        return next((self._images[end] for end in ends if end in self._images), None)


def coco_results(results: Iterable[Result], categories: Mapping[str, int]) -> Iterator[str]:
    """A JSON list of `image_id`, `category_id`, `bbox` [x, y, width, height], `score`.

    Args:
        results: of a detector, numbered by `CocoIds`.
        categories: class to `category_id`.
    """
    separator = "[\n"
    for result in results:
        for found in result.answer.get("detections", ()):
            row = {
                "image_id": result.number,
                "category_id": categories[found["label"]],
                "bbox": _xywh(found["box"]),
                "score": found["score"],
            }
            yield separator + json.dumps(row)
            separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"
