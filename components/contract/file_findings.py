"""The findings about one annotation file, of which only so many are listed."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from components.contract.findings import Finding, finding

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
