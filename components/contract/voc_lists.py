"""The lists of a Pascal VOC data set: which images are of which split."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from components.contract.data_files import DataFiles, is_image, join
from components.contract.file_findings import FileFindings, read_text
from components.contract.findings import finding
from components.contract.paths import PathEscape, check_relative
from components.contract.reading import SPLIT_NAMES

_MAX_BYTES = 16_000_000
_MAX_LINES = 1_000_000
_MAX_FAULTS = 1000  # of one kind; a list with more is given up
_MEMBERSHIP = re.compile(r"\s+(-1|0|1)$")  # of a class: "000007  1"


def list_files(files: DataFiles) -> list[tuple[str, str]]:
    """Paths and splits of the lists in `ImageSets/Main`, or else in `ImageSets`."""
    sets = [name for name in files.folders("") if name.lower() == "imagesets"]
    for place in [join(name, "Main") for name in sets] + sets:
        names = files.with_suffix(place, ".txt")
        words = {PurePosixPath(name).stem.lower(): name for name in names}
        chosen = {word: split for word, split in SPLIT_NAMES.items() if word in words}
        if "trainval" in words and "train" not in words:
            chosen["trainval"] = "train"
        if chosen:
            return [(join(place, words[word]), split) for word, split in chosen.items()]
    return []


class VocLists:
    """The lists in `ImageSets/Main`, or in `ImageSets`.

    Args:
        files: of the data root; its `findings` are told what is wrong with the lists.
    """

    def __init__(self, files: DataFiles) -> None:
        self.files = files
        self.splits: set[str] = set()  # of which there is a list
        self._names: dict[str, tuple[str, str]] = {}  # without extension: split, place in its list
        self._repeated: list[tuple[str, str]] = []  # name on a list again, place
        self._used: set[str] = set()  # names on a list that have an image
        for path, split in list_files(files):
            self.splits.add(split)
            self._read(path, split)

    def split_of(self, *names: str) -> str | None:
        """The split of an image that is on a list under one of these names; else None."""
        listed = next((self._names[name] for name in names if name in self._names), None)
        if listed is None:
            return None
        self._used.update(names)
        return listed[0]

    def report(self, images: dict[str, str], folders: list[str]) -> None:
        """Tell of names without an image, and of names that are there twice.

        Args:
            images: name without extension by path of an image.
            folders: in which images are looked up.
        """
        missing = FileFindings("ImageSets", limit=_MAX_FAULTS)
        allowed = "an image in " + ", ".join(f"{folder or '.'}/" for folder in folders)
        stems = self._used | set(images.values())
        for name, (_, where) in self._names.items():
            if name not in stems:
                message, place = "there is no image of this name", where.partition("/")[2]
                missing.add("file-missing", place, message, name, allowed, image=name)
        self.files.findings += missing.all()
        paths = {stem: path for path, stem in images.items()}
        for name, where in self._repeated:
            message = f"this image is on a list a second time; first in {self._names[name][1]}"
            image = paths.get(name, name)
            self.files.findings.append(
                finding("duplicate-image", where, message, name, image=image)
            )

    def _read(self, path: str, split: str) -> None:
        faults = FileFindings(path, limit=_MAX_FAULTS)
        num_repeated = len(self._repeated)
        text = read_text(self.files.root, path, _MAX_BYTES, faults) or ""
        for count, line in enumerate(text.split("\n"), 1):
            place = f"line {count}"
            full = faults.is_full() or len(self._repeated) > num_repeated + _MAX_FAULTS
            if full or count > _MAX_LINES:
                message = "too many lines, or lines that cannot be used; the rest is not read"
                faults.add("annotations-unreadable", place, message)
                break
            name = _MEMBERSHIP.sub("", line.strip())
            if not name:
                continue
            try:
                name = check_relative(name).name
            except PathEscape as fault:
                faults.add("path-escape", place, str(fault), name, "the name of an image")
                continue
            if is_image(name):
                name = PurePosixPath(name).stem
            if name in self._names:
                self._repeated.append((name, f"{path}: {place}"))
            else:
                self._names[name] = (split, f"{path}: {place}")
        self.files.findings += faults.all()
