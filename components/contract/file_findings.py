"""The findings about one annotation file, of which only so many are listed, and its text."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from components.contract.findings import Finding, finding
from components.contract.pixels import ImageError, read_bytes

LISTED = 1000  # findings of one check in one file


class FileFindings:
    """Collects findings about one annotation file.

    Past the limit a finding is listed only if it is the first of its check about its image: the
    quarantine has no other way to know of that image. The rest is counted.

    Args:
        name: the file, relative to the data root.
        image: path of the image it belongs to; empty if there is none.
        limit: findings of one check that are listed in any case; None takes `LISTED`.
    """

    def __init__(self, name: str, image: str = "", limit: int | None = None) -> None:
        self.name, self.image = name, image
        self.limit = LISTED if limit is None else limit
        self._found: list[Finding] = []
        self._counts: Counter[str] = Counter()
        self._images: dict[str, dict[str, None]] = defaultdict(dict)  # by check, in order
        self._rest: Counter[tuple[str, str]] = Counter()  # by check and an image, or none

    def add(
        self,
        check: str,
        place: str,
        message: str,
        value: Any = "",
        allowed: str = "",
        image: str | None = None,
    ) -> None:
        """Add a finding.

        Args:
            check: a key of `catalogue.CHECKS`.
            place: inside the file; empty for the file as a whole.
            message, value, allowed: see `Finding`.
            image: path of the image that it is about; None takes the file's own.
        """
        image = self.image if image is None else image
        images = self._images[check]
        self._counts[check] += 1
        if self._counts[check] > self.limit and (not image or image in images):
            self._rest[check, next(iter(images)) if image else ""] += 1
            return
        if image:
            images[image] = None
        where = f"{self.name}: {place}" if place else self.name
        self._found.append(finding(check, where, message, value, allowed, image))

    def room(self, check: str) -> int:
        """How many more findings of a check are listed whatever image they are about."""
        return max(0, self.limit - self._counts[check])

    def count(self, check: str, number: int) -> None:
        """Add findings that are counted only: past the limit, about images that have one."""
        if number:
            self._counts[check] += number
            self._rest[check, next(iter(self._images[check]))] += number

    def is_full(self) -> bool:
        """Whether there are more findings of some check than the limit."""
        return any(total > self.limit for total in self._counts.values())

    def all(self) -> list[Finding]:
        """The findings, and for each check how many more there were."""
        rest = []
        for (check, image), number in self._rest.items():
            message = f"and {number} more like those listed"
            message += ", about images that have one listed" if image else ""
            rest.append(finding(check, f"{self.name}: the rest", message, image=image))
        return self._found + rest


def read_text(root: Path, path: str, max_bytes: int, faults: FileFindings) -> str | None:
    """A file's text; an empty file is the empty text. None, with a finding, if it is unreadable.

    Args:
        root: the data root.
        path: of the file, relative to it, known to lie inside.
        max_bytes: largest file accepted.
        faults: of the file.
    """
    try:
        return read_bytes(root / path, max_bytes).decode("utf-8-sig")
    except ImageError as fault:
        if fault.check == "file-empty":
            return ""
        faults.add("annotations-unreadable", "", fault.reason, fault.value, fault.allowed)
    except UnicodeDecodeError as fault:
        faults.add("annotations-unreadable", "", f"not UTF-8 text: {fault.reason}")
    return None
