"""Writing files so that a reader never sees half of one, and reading them with clear errors."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.errors import DataError, WriteError

# What a disk or its owner says no with; anything else is a defect and keeps its traceback.
_REFUSALS = {
    errno.ENOSPC: "no space is left on the disk; free some and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than is allowed here (ulimit -f, or the file system)",
    errno.EACCES: "permission denied; the folder must be writable",
    errno.EPERM: "permission denied; the folder must be writable",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an input/output error",
}

_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP)  # some network and special file systems


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    The block may create a file or a folder there. On an error what it wrote is removed and `path`
    stays as it was. When this returns, what was written survives a loss of power; whenever that
    happens before, `path` is the old version or the new one, and never a name without content. Of a
    folder that replaces another one there is for a moment neither: two renames are needed.

    Raises:
        WriteError: the disk is full, or refuses for another reason. If it refuses no more than to
            flush the rename, `path` is the new version.
    """
    path = Path(path)
    with _scratch_beside(path) as scratch:
        draft = scratch / path.name
        yield draft
        sync(draft)
        aside = scratch / f"{path.name}.old"
        try:
            if draft.is_dir() and path.is_dir():
                # A folder cannot be renamed over another; move the old one aside first.
                path.rename(aside)
            draft.replace(path)
        except BaseException:  # an interrupt too must not take the old one with the scratch folder
            if aside.exists() and not path.exists():
                aside.rename(path)
            raise
        sync(path.parent, deep=False)


def write_checked(
    folder: Path, prefix: str, suffix: str, write: Callable[[IO[bytes]], object]
) -> Path:
    """Write a file that has its own checksum in its name, whole, durably, or not at all.

    Args:
        folder: of the file.
        prefix, suffix: what its name has around the SHA-256.
        write: writes the content to a file that cannot seek.

    Returns:
        Its path; see `is_whole`.

    Raises:
        WriteError: the disk is full, or refuses for another reason.
    """
    with _scratch_beside(folder / (prefix + suffix)) as scratch:
        draft = scratch / "draft"
        with draft.open("wb") as file:
            sink = _HashingSink(file)
            try:
                write(sink)  # type: ignore[arg-type]
            except RuntimeError:
                # torch.save hides what the disk said behind an error of its own.
                if sink.error is not None:
                    raise sink.error from None
                raise
        sync(draft)
        path = folder / f"{prefix}{sink.digest.hexdigest()}{suffix}"
        draft.replace(path)
        sync(folder, deep=False)
    return path


def is_whole(path: Path, prefix: str, suffix: str) -> bool:
    """Whether a file that `write_checked` wrote still has the content that its name tells of."""
    return path.is_file() and path.name == f"{prefix}{sha256(path)}{suffix}"


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed while they wrote into a folder left of it."""
    for draft in Path(folder).glob(".*.part"):
        shutil.rmtree(draft, ignore_errors=True)


class _HashingSink:
    """Passes bytes on to a file, and keeps their SHA-256 and the error that stopped them."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.digest.update(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        self._file.flush()


@contextmanager
def _scratch_beside(path: Path) -> Iterator[Path]:
    """A temporary folder in the one that `path` is to be in; what the disk refuses is explained."""
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        yield scratch
    except OSError as error:
        # The block may also read; what it cannot read is not explained here.
        elsewhere = error.filename and not Path(error.filename).is_relative_to(path.parent)
        if error.errno not in _REFUSALS or elsewhere:
            raise
        raise WriteError(f"{path}: cannot be written: {_REFUSALS[error.errno]}") from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content`, whole or not at all; see `atomic_path`."""
    with atomic_path(path) as draft:
        draft.write_bytes(content)


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
    if os.name != "posix" and Path(path).is_dir():
        return  # there a folder cannot be opened
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
    write_bytes(path, text.encode("utf-8"))


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
