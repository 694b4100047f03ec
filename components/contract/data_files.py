"""The files of a data root: what lies in its folders, and where the images lie that are named.

A folder is listed once. So a million names cost a million look-ups in memory, and a name that is
not there costs no more than one that is. No file is opened here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, KeysView, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from components.contract.findings import Finding, finding, shown
from components.contract.paths import PathEscape, check_relative, resolve_inside
from components.contract.pixels import EXTENSIONS

Kind = Literal["file", "folder", "link"]

# What lies beside images by right: annotations, notes, and what operating systems leave behind.
_COMPANIONS = {".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".html", ".cache", ".names"}
_LITTER = {"thumbs.db", "desktop.ini"}
# A relative path that has nothing special: most have not, and need no further look.
_PLAIN = re.compile(r"(?:[\w-][\w .,()@+=-]*/)*[\w-][\w .,()@+=-]*", re.ASCII)
_REMEMBERED = 10_000  # folders whose place is kept
_SHOWN = 3  # names in a message


class DataFiles:
    """Lists the folders of a data root, and finds its files by name.

    A reader that goes through folders (`files`, `folders`, `walk`, `images`) follows no link to a
    folder and reports every link out; one that looks names up (`find`) follows links that stay
    inside. Folders are relative to the root and `/` separated; "" is the root.

    Args:
        root: the data root, an existing folder.
        findings: list to which faults of names, links and folders are added; None drops them.
    """

    def __init__(self, root: Path, findings: list[Finding] | None = None) -> None:
        self.root = Path(root)
        self.findings = [] if findings is None else findings
        self._real_root = self.root.resolve()
        self._listed: dict[str, dict[str, Kind]] = {}  # folder: what is in it
        self._sorted: dict[str, tuple[dict[str, None], list[str]]] = {}  # its files, its folders
        self._images: dict[str, dict[str, list[str]]] = {}
        self._targets: dict[str, str | None] = {}  # link: the folder it leads to
        self._places: dict[str, str | None] = {}  # folder as named: the real one

    def files(self, folder: str) -> KeysView[str]:
        """Names of the visible files of a folder, sorted; none if there is no such folder."""
        return self._scan(folder)[0].keys()

    def folders(self, folder: str) -> list[str]:
        """Names of the visible folders of a folder, sorted."""
        return self._scan(folder)[1]

    def walk(self, folder: str) -> Iterator[str]:
        """The folder and all folders below it."""
        waiting = [folder]
        while waiting:
            place = waiting.pop()
            yield place
            waiting += [join(place, name) for name in reversed(self.folders(place))]

    def with_suffix(self, folder: str, suffix: str) -> list[str]:
        """Names of the files of a folder that end in `suffix`, in any case."""
        return [name for name in self.files(folder) if name.lower().endswith(suffix)]

    def images(self, folder: str) -> dict[str, list[str]]:
        """Image files of one folder: paths relative to the root, by name without extension.

        Files that are neither images nor usual beside images are reported.
        """
        if folder in self._images:
            return self._images[folder]
        found: dict[str, list[str]] = {}
        for name in self.files(folder):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in EXTENSIONS:
                found.setdefault(PurePosixPath(name).stem, []).append(join(folder, name))
            elif suffix not in _COMPANIONS and name.lower() not in _LITTER:
                message = "not an image by its extension; it is not read"
                allowed = ", ".join(EXTENSIONS)
                self._report("unsupported-extension", join(folder, name), message, suffix, allowed)
        self._images[folder] = found
        return found

    def holds_images(self, folder: str) -> bool:
        """Whether an image lies in a folder or below it."""
        return any(is_image(name) for place in self.walk(folder) for name in self.files(place))

    def existing(self, folders: Iterable[str]) -> list[str]:
        """Those of `folders` that are there, each once; one that leads out stays, to be told so."""
        found = []
        for folder in dict.fromkeys(folders):
            try:
                if self._place(folder) is None:
                    continue
            except PathEscape:
                pass
            found.append(folder)
        return found

    def find(self, name: str, folders: Iterable[str]) -> str | None:
        """The path of a file relative to the root, or None if there is none.

        Args:
            name: the path that the annotations give.
            folders: where to look, in this order.

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

    def unlisted(self, named: Collection[str]) -> Iterator[Finding]:
        """One `image-without-label` for each folder with images that annotations do not name.

        Links and hidden files are not looked at.

        Args:
            named: paths of the images that annotations name, relative to the root.
        """
        if self._targets:  # some are named by way of a link to their folder
            parts = (path.rpartition("/") for path in named)
            named = {join(self._place(parent) or "", name) for parent, _, name in parts}
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            prefix = join(folder, "")
            found = sorted(
                name
                for name, kind in self._list(folder).items()
                if kind == "file"
                and f"{prefix}{name}" not in named
                and is_image(name)
                and not name.startswith(".")
            )
            folders = [
                name
                for name, kind in self._list(folder).items()
                if kind == "folder" and not name.startswith(".")
            ]
            waiting += [join(folder, name) for name in sorted(folders, reverse=True)]
            yield from unused_images([f"{prefix}{name}" for name in found], "that nothing names")

    def _is_file(self, path: str) -> bool:
        parent, _, name = path.rpartition("/")
        folder = self._place(parent)
        if folder is None:
            return False
        kind = self._list(folder).get(name)
        if kind == "link":
            return resolve_inside(self.root, join(folder, name)).is_file()
        return kind == "file"

    def _place(self, folder: str) -> str | None:
        """The real folder that `folder` names, links followed; None if there is none."""
        if folder in self._places:
            return self._places[folder]
        place = ""
        for name in folder.split("/") if folder else []:
            kind = self._list(place).get(name)
            target = join(place, name) if kind == "folder" else None
            if kind == "link":
                target = self._target(join(place, name))
            if target is None:
                return None
            place = target
        if len(self._places) < _REMEMBERED:
            self._places[folder] = place
        return place

    def _target(self, link: str) -> str | None:
        """The folder that a link leads to; None if it is no folder."""
        if link not in self._targets:
            target = resolve_inside(self.root, link).resolve()
            inside = target.relative_to(self._real_root).as_posix()
            self._targets[link] = ("" if inside == "." else inside) if target.is_dir() else None
        return self._targets[link]

    def _list(self, folder: str) -> dict[str, Kind]:
        """What lies in a folder that is known to be inside the root."""
        if folder not in self._listed:
            self._listed[folder] = {}
            try:
                with os.scandir(self.root / folder) as entries:
                    self._listed[folder] = {entry.name: _kind(entry) for entry in entries}
            except (FileNotFoundError, NotADirectoryError):
                pass  # an absent folder holds nothing
            except OSError as fault:
                message = f"the folder cannot be listed: {fault.strerror}"
                self._report("annotations-unreadable", folder or ".", message)
        return self._listed[folder]

    def _scan(self, folder: str) -> tuple[dict[str, None], list[str]]:
        """Names of the visible files and folders of a folder; those that lead out are reported."""
        folder = "" if folder == "." else folder
        if folder not in self._sorted:
            files, folders = self._sorted[folder] = ({}, [])
            try:
                if folder:
                    resolve_inside(self.root, folder)
                for name, kind in sorted(self._list(folder).items()):
                    if name.startswith(".") or not self._is_sound(join(folder, name), kind):
                        continue
                    if kind == "folder":
                        folders.append(name)
                    else:  # what is not a regular file is refused when it is opened
                        files[name] = None
            except PathEscape as fault:
                self._escape(folder, str(fault))
        return self._sorted[folder]

    def _is_sound(self, path: str, kind: Kind) -> bool:
        """Whether a file or folder may be read; if not, it is reported."""
        try:
            if not _PLAIN.fullmatch(path):
                check_relative(path)
            if kind == "link" and resolve_inside(self.root, path).is_dir():
                # It may lead to a folder above itself, and what it holds is there twice.
                raise PathEscape("a linked folder is not followed")
        except PathEscape as fault:
            self._escape(path, str(fault))
            return False
        return True

    def _escape(self, path: str, fault: str) -> None:
        image = printable_path(path) if is_image(path) else ""
        self._report("path-escape", path, fault, "", "a real file or folder inside the data", image)

    def _report(self, *what: str) -> None:
        self.findings.append(finding(*what))


def join(folder: str, name: str) -> str:
    """`folder/name`; the data root itself is the folder "" or "."."""
    return f"{folder}/{name}" if folder not in ("", ".") else name


def is_image(name: str) -> bool:
    """Whether a file is an image by its extension."""
    return name[name.rfind(".") :].lower() in EXTENSIONS


def unused_images(paths: Sequence[str], why: str) -> Iterator[Finding]:
    """One `image-without-label` for each folder of images without a label, which are not used.

    Args:
        paths: of the images, relative to the data root.
        why: which images these are: "without an XML file".
    """
    folders: dict[str, list[str]] = {}
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, []).append(name)
    for folder, names in folders.items():
        message = f"images {why} have no label and are not used: {', '.join(names[:_SHOWN])}"
        message += ", …" if len(names) > _SHOWN else ""
        # Of one image it can be told which to leave out.
        image = printable_path(join(folder, names[0])) if len(names) == 1 else ""
        yield finding("image-without-label", folder or ".", message, len(names), "", image)


def printable_path(path: str) -> str:
    """`path` if it can be written as UTF-8, else its escaped form."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return shown(path)
    return path


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"
