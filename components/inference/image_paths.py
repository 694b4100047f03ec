"""From what a user names to image files: files, folders, patterns and lists."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.contract.pixels import EXTENSIONS
from components.errors import DataError

DRAWN = ".predicted.jpg"  # how the names of drawn pictures end; they are no input


def image_paths(inputs: Iterable[str], recursive: bool = False) -> Iterator[Path | DataError]:
    """Image files, in the order of the inputs, those of a folder or pattern in the order of names.

    A file counts whatever its name; of a folder the files with an image's extension, unless they
    are pictures that were drawn. What exists is never taken for a pattern.

    Args:
        inputs: files, folders, and patterns with `*`, `?`, `[…]`, `**`; taken one by one, so that
            a list may be endless.
        recursive: also what is in the folders of a folder; links to folders are not followed.

    Yields:
        A path, which need not exist; or for a folder or pattern without any image a `DataError`
        that says so.
    """
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            yield from _folder(path, recursive)
        elif not os.path.lexists(path) and glob.has_magic(name):
            yield from _pattern(name, recursive)
        else:
            yield path


def _pattern(pattern: str, recursive: bool) -> Iterator[Path | DataError]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - also absolute ones
    if not found:
        yield DataError(f"{pattern}: no file matches")
    for path in map(Path, found):
        if path.is_dir():
            yield from _folder(path, recursive)
        elif not path.name.endswith(DRAWN):
            yield path


def _folder(folder: Path, recursive: bool) -> Iterator[Path | DataError]:
    faults: list[OSError] = []
    empty = True
    for place, folders, names in os.walk(folder, onerror=faults.append):
        folders.sort()
        for name in sorted(names):
            if Path(name).suffix.lower() in EXTENSIONS and not name.endswith(DRAWN):
                empty = False
                yield Path(place, name)
        if not recursive:
            break
    for fault in faults:
        yield DataError(f"{fault.filename}: the folder cannot be read: {fault.strerror}")
    if empty and not faults:
        where = "in it or below it" if recursive else "directly in it (--recursive looks deeper)"
        yield DataError(f"{folder}: a folder with no image {where}")
