"""Where the image files lie that annotations name, without asking the file system for each.

A folder is listed once. So a million names cost a million look-ups in memory, and a name that is
not there costs no more than one that is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from components.contract.paths import PathEscape, check_relative, resolve_inside

Kind = Literal["file", "folder", "link"]

# A relative path that has nothing special: most have not, and need no further look.
_PLAIN = re.compile(r"(?:[\w-][\w .,()@+=-]*/)*[\w-][\w .,()@+=-]*", re.ASCII)
_REMEMBERED = 10_000  # folders whose place is kept


class ImageLookup:
    """Finds the files of a data root by name; what it has listed is not looked at again.

    Args:
        root: the data root, an existing folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._real_root = self.root.resolve()
        self._listed: dict[str, dict[str, Kind]] = {}
        self._targets: dict[str, str | None] = {}
        self._folders: dict[str, str | None] = {}

    def existing(self, folders: Iterable[str]) -> list[str]:
        """Those of `folders` that are there, each once; one that leads out stays, to be told so.

        Args:
            folders: relative to the root, `/` separated; "" is the root.
        """
        found = []
        for folder in dict.fromkeys(folders):
            try:
                if self._folder(folder) is None:
                    continue
            except PathEscape:
                pass
            found.append(folder)
        return found

    def find(self, name: str, folders: Iterable[str]) -> str | None:
        """The path of an image file relative to the root, or None if there is none.

        Args:
            name: the path that the annotations give.
            folders: where to look, in this order, relative to the root.

        Raises:
            PathEscape: the name leads, or could lead, out of the root.
        """
        if not _PLAIN.fullmatch(name):
            name = str(check_relative(name))
        for folder in folders:
            path = f"{folder}/{name}" if folder else name
            if self._is_file(path):
                return path
        return None

    def _is_file(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        folder = self._folder(parent)
        if folder is None:
            return False
        kind = self._list(folder).get(name)
        if kind == "link":
            return resolve_inside(self.root, _join(folder, name)).is_file()
        return kind == "file"

    def _folder(self, path: str) -> str | None:
        """The real folder, relative to the root, that `path` names, links followed; or None."""
        if path in self._folders:
            return self._folders[path]
        place = ""
        for name in path.split("/") if path else []:
            kind = self._list(place).get(name)
            if kind == "folder":
                place = _join(place, name)
            elif kind == "link":
                target = self._target(_join(place, name))
                if target is None:
                    return None
                place = target
            else:
                return None
        if len(self._folders) < _REMEMBERED:
            self._folders[path] = place
        return place

    def _target(self, link: str) -> str | None:
        """The folder, relative to the root, that a link leads to; None if it is no folder."""
        if link not in self._targets:
            target = resolve_inside(self.root, link).resolve()
            inside = target.relative_to(self._real_root).as_posix()
            self._targets[link] = ("" if inside == "." else inside) if target.is_dir() else None
        return self._targets[link]

    def _list(self, folder: str) -> dict[str, Kind]:
        if folder not in self._listed:
            try:
                with os.scandir(self.root / folder) as entries:
                    self._listed[folder] = {entry.name: _kind(entry) for entry in entries}
            except OSError:  # it cannot be listed: nothing in it can be read
                self._listed[folder] = {}
        return self._listed[folder]


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
