"""Writing files so that a reader never sees half of one, and reading them with clear errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import DataError

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EROFS)  # some network and special file systems


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    The block may create a file or a folder there. On an error what it wrote is removed and `path`
    stays as it was. When this returns, what was written survives a loss of power; whenever that
    happens before, `path` is the old version or the new one, and never a name without content.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    draft = scratch / path.name
    try:
        yield draft
        sync(draft)
        aside = scratch / f"{path.name}.old"
        if draft.is_dir() and path.is_dir():
            # A folder cannot be renamed over another; move the old one aside first.
            path.rename(aside)
        try:
            draft.replace(path)
        except OSError:
            if aside.exists():
                aside.rename(path)
            raise
        sync(path.parent, deep=False)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sync(path: Path, deep: bool = True) -> None:
    """Have the disk hold a file or a folder, before a rename counts on it.

    Args:
        path: symbolic links in it are not followed.
        deep: of a folder also all that is in it; else only which names it has.
    """
    if deep and path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                place = Path(folder, name)
                if place.is_file() and not place.is_symlink():
                    _sync(place)
            _sync(folder)
    else:
        _sync(path)


def _sync(path: str | Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as fault:
        if fault.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(number)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is missing or is not JSON; names the file and the place.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rounded(value: Any, digits: int = 6) -> Any:
    """A copy of nested dicts and lists with floats rounded to `digits` decimals."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return value
