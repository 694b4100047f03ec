"""Adding images to data whose annotations stand in few files: COCO JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from components.contract import coco_reader, csv_cells, csv_files, csv_header
from components.contract.annotation_values import json_whole
from components.contract.split_words import split_of, split_word, table_word
from components.errors import DataError
from components.files import read_json, write_text
from components.validation.merge_names import Addition, Names, NewImage, append_lines, beside


def add_to_coco(addition: Addition) -> None:
    """Rows to the JSON file of each split; what is there keeps its ids."""
    draft = addition.draft
    files = {file: read_json(file) for file in coco_reader.find_files(draft)}
    targets: dict[str | None, Path] = {}
    for file in files:
        split = split_of(split_word(file.relative_to(draft).as_posix()))
        targets.setdefault(split, file)
    next_image, next_box = (
        1 + max((number for rows in files.values() for number in _ids(rows[key])), default=0)
        for key in ("images", "annotations")
    )
    names = Names.everywhere(draft)
    places: dict[str | None, tuple[str, str]] = {}
    for image in addition.images():
        content = files[targets[image.split]]
        if image.split not in places:
            written = [row["file_name"] for row in content["images"] if "file_name" in row]
            places[image.split] = beside(addition.reading, image.split, written)
        folder, prefix = places[image.split]
        name = names.free(image)
        addition.copy(image, str(PurePosixPath(folder) / name))
        raw, facts = image.raw, image.facts
        row = dict(raw.columns or {}) | ({} if raw.group is None else {"group": raw.group})
        row |= {"id": next_image, "file_name": f"{prefix}{name}"}
        content["images"].append(row | {"width": facts.width, "height": facts.height})
        ids = {category["name"]: category["id"] for category in content["categories"]}
        for item in image.objects:
            assert item.box is not None
            content["annotations"].append(
                {
                    "id": next_box,
                    "image_id": next_image,
                    "category_id": ids[item.label],
                    "bbox": list(item.box),
                    "area": item.box[2] * item.box[3] if item.area is None else item.area,
                    "iscrowd": int(item.is_crowd),
                    "segmentation": json.loads(item.segmentation or "[]"),
                }
            )
            next_box += 1
        next_image += 1
    for split in places:
        # Renamed over the link, so that the file of the current data stays as it is.
        write_text(targets[split], json.dumps(files[targets[split]], allow_nan=False) + "\n")


def _ids(rows: list[dict[str, Any]]) -> list[int]:
    """Ids of rows; one at fault, whose image is in quarantine, is none."""
    numbers = (json_whole(row.get("id")) for row in rows)
    return [number for number in numbers if number is not None]


class _Table:
    """A CSV file that rows are added to, in the form that it has."""

    def __init__(self, file: Path, addition: Addition) -> None:
        self.file, self.reading = file, addition.reading
        self.header, self.delimiter = csv_header.read_header(file)
        self.columns = csv_header.find_columns(self.header)
        with file.open("rb") as stream:
            self.ending = "\r\n" if stream.readline().endswith(b"\r\n") else "\n"
        self.lines: list[str] = []
        self._places: dict[str | None, tuple[str, str]] = {}

    def place(self, split: str | None) -> tuple[str, str]:
        """Folder of a split's images, and how the file's rows say it."""
        if split not in self._places:
            index = self.columns.path or 0
            width = len(self.header)
            # Rows at fault are none: the data was read without a finding.
            cells = csv_cells.read_cells(self.file, self.delimiter, width, lambda *_: None)
            written = cells.columns[index].pick(np.arange(len(cells.lines)))
            self._places[split] = beside(self.reading, split, filter(None, written))
        return self._places[split]

    def add(self, image: NewImage, name: str) -> None:
        """Rows for an image whose path cell is `name`."""
        columns = self.columns
        row = [""] * len(self.header)

        def put(index: int | None, value: Any) -> None:
            if index is not None and value is not None:
                row[index] = str(value).lower() if isinstance(value, bool) else str(value)

        put(columns.path, name)
        put(columns.split, image.split)
        put(columns.group, image.raw.group)
        for index, side in zip(
            columns.size or (), (image.facts.width, image.facts.height), strict=False
        ):
            put(index, side)
        for title, index in columns.others.items():
            put(index, (image.raw.columns or {}).get(csv_header.free_name(title)))
        if columns.box is None:
            self._put_labels(image, row)
            self._write(row)
            return
        for item in image.objects:
            put(columns.label, item.label)
            x, y, width, height = item.box or (0.0, 0.0, 0.0, 0.0)
            numbers = (x, y, x + width, y + height) if columns.corners else (x, y, width, height)
            for index, number in zip(columns.box, numbers, strict=True):
                put(index, number)
            if columns.area is not None:  # or it would be that of the box before
                row[columns.area] = ""
            put(columns.area, item.area)
            put(columns.crowd, int(item.is_crowd))
            self._write(row)
        if not image.objects:
            self._write(row)

    def _put_labels(self, image: NewImage, row: list[str]) -> None:
        labels, columns = [item.label for item in image.objects], self.columns
        if not self.reading.multi_label:
            if not labels:
                raise DataError(f"{image.raw.path}: has no label, and {self.file.name} needs one")
            row[columns.label or 0] = labels[0]
        elif columns.labels is not None or columns.label is not None:
            index = columns.labels if columns.labels is not None else columns.label
            row[index or 0] = "|".join(labels)
        else:
            for title, place in columns.others.items():
                if title in self.reading.classes:
                    row[place] = str(int(title in labels))

    def _write(self, row: list[str]) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter, lineterminator="").writerow(row)
        self.lines.append(text.getvalue())


def add_to_csv(addition: Addition) -> None:
    """Rows at the end of the table, or of the table of each split."""
    draft = addition.draft
    files = csv_files.find_files(draft)
    tables: dict[str | None, _Table] = {}
    for file in files:
        split = split_of(table_word(file.relative_to(draft).as_posix()))
        tables.setdefault(split, _Table(file, addition))
    names = Names.everywhere(draft)
    for image in addition.images():
        table = tables.get(image.split) or tables[None]
        folder, prefix = table.place(image.split)
        name = names.free(image)
        addition.copy(image, str(PurePosixPath(folder) / name))
        table.add(image, f"{prefix}{name}")
    for table in tables.values():
        if table.lines:
            append_lines(table.file, table.lines, table.ending)
