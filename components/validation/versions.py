"""Replacing a folder of data by a new version at once, and keeping the one before.

Beside the folder `NAME` stand `NAME.previous`, the version before, and for a time `.NAME.merging`
(the new version being built), `.NAME.next-NUMBER` (it is whole; its inode's number tells whether it
has become `NAME` already), `.NAME.aside` and `.NAME.trash`. Whenever the process is killed, either
the old or the new version is whole; `recover` clears up, to what was before or to what was wanted.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import DataError
from components.files import sync

_AT_WORKING_FOLDER = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)


def draft_path(data: Path) -> Path:
    """Where a new version is built."""
    return data.with_name(f".{data.name}.merging")


def previous_path(data: Path) -> Path:
    """Where the version before is kept."""
    return data.with_name(f"{data.name}.previous")


def _next(data: Path, inode: int) -> Path:
    return data.with_name(f".{data.name}.next-{inode}")


def _aside(data: Path) -> Path:
    return data.with_name(f".{data.name}.aside")


def _trash(data: Path) -> Path:
    return data.with_name(f".{data.name}.trash")


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the right to change a folder of data; the lock goes with the process.

    Raises:
        DataError: another process holds it.
    """
    with data.with_name(f".{data.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"{data}: another process is changing it; wait for its end") from None
        yield


def recover(data: Path) -> None:
    """Clear up after a process that was killed; does nothing where there is nothing to do."""
    previous, aside, trash = previous_path(data), _aside(data), _trash(data)
    if aside.exists():
        if data.exists():
            _keep(aside, data)
        else:
            aside.rename(data)
    if data.exists():
        swapped = _next(data, data.stat().st_ino)
        if swapped.exists():
            _keep(swapped, data)
    if trash.exists() and not previous.exists():
        trash.rename(previous)
    unwanted = data.parent.glob(f"{glob.escape(str(_next(data, 0).name[:-1]))}*")
    for leftover in (trash, draft_path(data), *unwanted):
        if leftover.exists():
            shutil.rmtree(leftover)


def _keep(folder: Path, data: Path) -> None:
    """Make a folder the version before; the one that was it becomes trash."""
    previous = previous_path(data)
    if previous.exists():
        previous.rename(_trash(data))
    folder.rename(previous)


def replace(data: Path) -> None:
    """Make the draft the new version; the old one becomes the previous one."""
    draft = draft_path(data)
    sync(draft)
    exchange(draft.rename(_next(data, draft.stat().st_ino)), data)
    recover(data)


def undo(data: Path) -> None:
    """Exchange the version before and the current one.

    Raises:
        DataError: there is no version before.
    """
    if not previous_path(data).is_dir():
        raise DataError(f"{previous_path(data)}: no such folder; there is no version to go back to")
    exchange(previous_path(data), data)


def exchange(other: Path, data: Path) -> None:
    """Let two folders swap their names, in one step where the system can.

    When this returns, the swap survives a loss of power.
    """
    if not _exchange_at_once(other, data):
        _exchange_in_steps(other, data)
    sync(data.parent, deep=False)


def _exchange_in_steps(other: Path, data: Path) -> None:
    aside = _aside(data)
    data.rename(aside)
    try:
        other.rename(data)
    except OSError:
        aside.rename(data)
        raise
    aside.rename(other)


def _exchange_at_once(one: Path, two: Path) -> bool:
    """Whether the system could do it; Linux can, on most file systems."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (os.fsencode(one), os.fsencode(two))
    here = _AT_WORKING_FOLDER
    if rename(here, names[0], here, names[1], ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(two))
