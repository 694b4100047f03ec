"""Which JSON files of a data root are its COCO files, and what one holds."""

from __future__ import annotations

from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import orjson

from components.contract.paths import resolve_inside
from components.contract.reading import MAX_TABLE_BYTES, SPLIT_NAMES
from components.contract.split_words import ROBOFLOW
from components.errors import DataError
from components.files import read_json

KEYS = ("images", "annotations", "categories")


def find_files(root: Path) -> list[Path]:
    """The COCO files of a data root, sorted; empty if there are none. Only names are looked at."""
    folder = root / "annotations"
    for candidates in (
        folder.glob("instances_*.json"),
        folder.glob("*.json"),
        root.glob("instances_*.json"),
        (root / f"{name}.json" for name in ("annotations", *SPLIT_NAMES)),
        (root / name / ROBOFLOW for name in SPLIT_NAMES),
        (root / ROBOFLOW,),
    ):
        # Hidden files are leftovers of archives ("._instances_train.json").
        found = sorted(
            path for path in candidates if path.is_file() and not path.name.startswith(".")
        )
        if found:
            return found
    return []


def read_content(root: Path, name: str) -> dict[str, list[Any]]:
    """The lists `images`, `annotations` and `categories` of a COCO file.

    Args:
        root: the data root.
        name: of the file, relative to it.

    Raises:
        PathEscape: the file leads out of the root.
        DataError: it cannot be read, is too large, or is no COCO JSON.
    """
    file = resolve_inside(root, name)
    try:
        size = file.stat().st_size
        if size > MAX_TABLE_BYTES:
            raise DataError(
                f"{size / 2**20:.0f} MiB; at most {MAX_TABLE_BYTES >> 20} MiB are read: split the "
                "file into one for each split"
            )
        content = _parse(file)
    except OSError as fault:
        raise DataError(f"cannot be read: {fault.strerror}") from None
    except ValueError as fault:  # an integer of too many digits
        raise DataError(str(fault)) from None
    if not isinstance(content, dict) or any(not isinstance(content.get(k), list) for k in KEYS):
        seen = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            "not COCO: must be an object with the lists images, annotations, categories, "
            f"but is {seen}"
        )
    return {key: content[key] for key in KEYS}


def _parse(file: Path) -> Any:
    try:
        return orjson.loads(_without_mark(file.read_bytes()))
    except orjson.JSONDecodeError:
        # NaN, infinity or very long numbers, which Python's parser takes; or what it tells better.
        try:
            return read_json(file)
        except DataError as fault:
            raise DataError(str(fault).removeprefix(f"{file}: ")) from None


def _without_mark(data: bytes) -> memoryview:
    """UTF-8 without the mark that some editors put before it; not a copy, for there may be much."""
    return memoryview(data)[len(BOM_UTF8) if data.startswith(BOM_UTF8) else 0 :]
