"""What readers of many small annotation files share: folders, numbers, and a limit on findings.

Folders are listed once each and never left through a link. No file is opened here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from components.contract.findings import Finding, finding, shown
from components.contract.paths import PathEscape, check_relative, resolve_inside
from components.contract.pixels import EXTENSIONS

# What lies beside images by right: annotations, notes, and what operating systems leave behind.
_COMPANIONS = {".txt", ".xml", ".json", ".yaml", ".yml", ".csv", ".md", ".html", ".cache", ".names"}
_LITTER = {"thumbs.db", "desktop.ini"}
_LONGEST_NUMBER = 64  # characters


def number(text: str) -> float | None:
    """A decimal number, NaN and infinity included; None for any other text."""
    # Python alone would also take 1_000 and digits of other scripts.
    if len(text) > _LONGEST_NUMBER or "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def join(folder: str, name: str) -> str:
    """`folder/name`; the data root itself is the folder "" or "."."""
    return f"{folder}/{name}" if folder not in ("", ".") else name


def printable_path(path: str) -> str:
    """`path` if it can be written as UTF-8, else its escaped form."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return shown(path)
    return path


class Folders:
    """Lists folders of a data root; what leads out of it is reported once and left out.

    Args:
        root: the data root.
        findings: list to which faults of names and links are added.
    """

    def __init__(self, root: Path, findings: list[Finding]) -> None:
        self.root, self.findings = root, findings
        self._known: dict[str, tuple[list[str], list[str]]] = {}
        self._images: dict[str, dict[str, list[str]]] = {}

    def files(self, folder: str) -> list[str]:
        """Names of the visible files of a folder, sorted; none if there is no such folder."""
        return self._scan(folder)[0]

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
        """Image files of one folder: paths relative to the root, by name without extension."""
        if folder in self._images:
            return self._images[folder]
        found: dict[str, list[str]] = {}
        for name in self.files(folder):
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in EXTENSIONS:
                found.setdefault(PurePosixPath(name).stem, []).append(join(folder, name))
            elif suffix not in _COMPANIONS and name.lower() not in _LITTER:
                self.findings.append(
                    finding(
                        "unsupported-extension",
                        join(folder, name),
                        "not an image by its extension; it is not read",
                        suffix,
                        ", ".join(EXTENSIONS),
                    )
                )
        self._images[folder] = found
        return found

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        folder = "" if folder == "." else folder
        if folder in self._known:
            return self._known[folder]
        files: list[str] = []
        folders: list[str] = []
        self._known[folder] = (files, folders)
        try:
            place = resolve_inside(self.root, folder) if folder else self.root
            with os.scandir(place) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if not entry.name.startswith("."):
                        self._sort_in(folder, entry, files, folders)
        except PathEscape as fault:
            self._escape(folder, str(fault))
        except (FileNotFoundError, NotADirectoryError):
            pass  # an absent folder holds nothing
        except OSError as fault:
            self.findings.append(
                finding(
                    "annotations-unreadable",
                    folder,
                    f"the folder cannot be listed: {fault.strerror}",
                )
            )
        return files, folders

    def _sort_in(
        self, folder: str, entry: os.DirEntry[str], files: list[str], folders: list[str]
    ) -> None:
        path = join(folder, entry.name)
        try:
            check_relative(path)
            if entry.is_symlink():
                resolve_inside(self.root, path)
                if entry.is_dir():
                    # It may lead to a folder above itself, and what it holds is there twice.
                    raise PathEscape("a linked folder is not followed")
        except PathEscape as fault:
            self._escape(path, str(fault))
            return
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.name)
        else:
            files.append(entry.name)  # what is not a regular file is refused when it is opened

    def _escape(self, path: str, fault: str) -> None:
        is_image = PurePosixPath(path).suffix.lower() in EXTENSIONS
        self.findings.append(
            finding(
                "path-escape",
                path,
                fault,
                "",
                "a real file or folder inside the data",
                image=printable_path(path) if is_image else "",
            )
        )


class FileFindings:
    """Findings about one annotation file; of each check only so many are listed.

    Args:
        name: the file, relative to the data root.
        image: path of the image it belongs to; empty if there is none.
        limit: findings of one check that are listed; the rest is only counted.
    """

    def __init__(self, name: str, image: str = "", limit: int = 100) -> None:
        self.name, self.image, self.limit = name, image, limit
        self._found: list[Finding] = []
        self._counts: Counter[str] = Counter()

    def add(self, check: str, place: str, message: str, value: Any = "", allowed: str = "") -> None:
        """Add a finding about `place` inside the file; empty for the file as a whole."""
        self._counts[check] += 1
        if self._counts[check] <= self.limit:
            where = f"{self.name}: {place}" if place else self.name
            self._found.append(finding(check, where, message, value, allowed, image=self.image))

    def is_full(self) -> bool:
        """Whether there are more findings of some check than are listed."""
        return any(total > self.limit for total in self._counts.values())

    def all(self) -> list[Finding]:
        """The findings, and for each check how many more there were."""
        rest = [
            finding(
                check,
                f"{self.name}: the rest",
                f"and {total - self.limit} more like the {self.limit} listed",
                image=self.image,
            )
            for check, total in self._counts.items()
            if total > self.limit
        ]
        return self._found + rest
