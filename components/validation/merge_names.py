"""What adding images to data of any format needs: what is new, where it goes, what it is called."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from components.contract.paths import resolve_inside
from components.contract.pixels import EXTENSIONS
from components.contract.reading import RawImage, RawObject, Reading
from components.errors import DataError
from components.files import write_bytes
from components.validation.incoming import Verdict
from components.validation.pixel_pass import ImageFacts
from components.validation.run import Result

_LONGEST_NAME = 255  # bytes


@dataclass
class NewImage:
    """An image of a batch that is to be added.

    Args:
        raw: as the batch has it.
        facts: about its file.
        objects: its labels or boxes.
        split: of the data, that it goes to; None where the data has no splits.
    """

    raw: RawImage
    facts: ImageFacts
    objects: list[RawObject]
    split: str | None


@dataclass
class Addition:
    """New images on their way into the folder of a new version.

    Args:
        draft: the folder; holds the current data.
        current: validation of the current data.
        verdict: on the batch.
        added: where each image went: path in the batch, and path in the data.
    """

    draft: Path
    current: Result
    verdict: Verdict
    added: dict[str, str] = field(default_factory=dict)

    @property
    def reading(self) -> Reading:
        """The current data."""
        return self.current.reading

    def images(self) -> Iterator[NewImage]:
        """What is to be added."""
        batch = self.verdict.reading
        objects: dict[int, list[RawObject]] = {}
        for item in batch.objects:
            objects.setdefault(item.image, []).append(item)
        for index in self.verdict.new:
            raw = batch.images[index]
            split = raw.split or ("train" if self.reading.splits else None)
            yield NewImage(raw, self.verdict.facts[index], objects.get(index, []), split)

    def first_of(self, split: str | None) -> RawImage:
        """An image of the data in a split, beside which more can be put."""
        for image in self.reading.images:
            if image.split == split:
                return image
        raise no_place(split)

    def copy(self, image: NewImage, path: str) -> None:
        """Copy an image's file to a path in the data, and note it."""
        copy_image(self.verdict.reading, image.raw, self.draft / path)
        self.added[image.raw.path] = path


class Names:
    """File names that are free.

    Args:
        taken: names that are not.
        by_stem: names that differ by their extension only are the same, for they would share
            their annotation file.
    """

    def __init__(self, taken: Iterable[str], by_stem: bool = False) -> None:
        self._by_stem = by_stem
        self._taken = {self._key(name) for name in taken}

    @classmethod
    def everywhere(cls, folder: Path, by_stem: bool = False) -> Names:
        """Names that no file below a folder has: found there, whatever the order of a search."""
        return cls((name for _, _, names in os.walk(folder) for name in names), by_stem)

    def free(self, image: NewImage) -> str:
        """A name that no other equals, even where case does not count; it is taken then."""
        # A leading dot hides a file from the readers, and so may its extension.
        name = PurePosixPath(image.raw.path).name.lstrip(".") or "image"
        if PurePosixPath(name).suffix.lower() not in EXTENSIONS:
            name += next(end for end, kind in EXTENSIONS.items() if kind == image.facts.format)
        plain, digest = PurePosixPath(name), image.facts.sha256
        for choice in (name, f"{plain.stem}-{digest[:12]}{plain.suffix}", digest + plain.suffix):
            if len(choice.encode()) <= _LONGEST_NAME and self._key(choice) not in self._taken:
                self._taken.add(self._key(choice))
                return choice
        raise DataError(f"{image.raw.path}: its content is there already, as {choice}")

    def _key(self, name: str) -> str:
        text = PurePosixPath(name).stem if self._by_stem else name
        return unicodedata.normalize("NFC", text).casefold()


def no_place(split: str | None) -> DataError:
    """The error that nothing tells where images of a split go."""
    return DataError(f"the split {split or 'without a name'} has no image beside which to put more")


def beside(reading: Reading, split: str | None, names: Iterable[str]) -> tuple[str, str]:
    """Folder of a split's images, relative to the root, and how annotations say it.

    Args:
        reading: the current data.
        split: one that it has.
        names: of images, as the split's annotation file writes them.
    """
    paths = {image.path for image in reading.images if image.split == split}
    endings: dict[str, str] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        for start in range(len(parts)):
            endings.setdefault("/".join(parts[start:]), path)
    for name in map(str, map(PurePosixPath, names)):
        if name in endings:
            inner = str(PurePosixPath(name).parent)
            folder = str(PurePosixPath(endings[name]).parent)
            return folder, "" if inner == "." else f"{inner}/"
    raise no_place(split)


def copy_image(reading: Reading, image: RawImage, target: Path) -> None:
    """Copy an image of a batch to `target`."""
    shutil.copyfile(resolve_inside(reading.root, image.path), target)


def append_lines(file: Path, lines: Iterable[str], ending: str = "\n") -> None:
    """Add lines to the end of a text file; its other names, hard links, keep what they hold.

    Args:
        file: may lack its last line's ending.
        lines: without theirs.
        ending: of each line.
    """
    data = file.read_bytes()
    if data and not data.endswith((b"\n", b"\r")):
        data += ending.encode()
    write_bytes(file, data + "".join(line + ending for line in lines).encode())
