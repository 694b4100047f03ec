"""Paths that stand in annotations: they must stay inside the data root."""

from __future__ import annotations

import errno
import re
from pathlib import Path, PurePosixPath

from components.errors import DataError

_DRIVE = re.compile(r"^[A-Za-z]:")


class PathEscape(DataError):
    """A path that leads, or could lead, out of the data root."""


def check_relative(name: str) -> PurePosixPath:
    """The path `name`, if it is relative and cannot climb.

    Raises:
        PathEscape: it is empty or absolute, has a `..`, a backslash, a NUL or text that is not
            valid Unicode.
    """
    if not name or not name.strip():
        raise PathEscape("the file name is empty")
    if "\0" in name:
        raise PathEscape("the file name holds a NUL character")
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise PathEscape("the file name is not valid Unicode") from None
    if "\\" in name:
        raise PathEscape("the path has a backslash; separate folders by /")
    path = PurePosixPath(name)
    if path.is_absolute() or _DRIVE.match(name):
        raise PathEscape("the path is absolute; it must be relative to the data")
    if ".." in path.parts:
        raise PathEscape("the path has a '..'; it must stay inside the data")
    return path


def resolve_inside(root: Path, name: str) -> Path:
    """Where `name` lies under `root`, after following symbolic links.

    Args:
        root: the data root; it may itself be a link.
        name: a path relative to it, `/` separated.

    Returns:
        `root / name`; the file need not exist.

    Raises:
        PathEscape: the path is not relative, climbs, or a symbolic link on it leads out of the root
            or in a circle.
    """
    path = Path(root) / check_relative(name)
    try:
        inside = path.resolve().is_relative_to(Path(root).resolve())
        # A link that never ends resolves to itself, or raises, depending on the Python version.
        circle = path.is_symlink() and path.resolve().is_symlink()
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return path  # no file can have this name; saying so is for who opens it
        raise PathEscape(f"the path cannot be followed: {error}") from None
    if circle:
        raise PathEscape("a symbolic link leads in a circle")
    if not inside:
        raise PathEscape("a symbolic link leads out of the data")
    return path
