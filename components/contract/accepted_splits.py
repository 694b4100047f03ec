"""The splits that were drawn for the data last accepted: `accepted/splits.csv`.

    image,split
    00a4c1…,train            the first 16 digits of the file's SHA-256

All images are listed, not only those whose split differs from that of their hash: an image that is
not listed must be known to be new, for only a new one may be lent or follow a link. 16 digits tell
a million images apart (two would be the same with a chance of one in 30 million) and keep the file
small: 23 bytes an image.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path

from components.contract.tables import SPLITS
from components.errors import DataError
from components.files import write_text

_HEADER = ["image", "split"]
_DIGITS = 16
_IMAGE = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


class AcceptedSplits:
    """The split that each accepted image has.

    Args:
        splits: by the first digits of SHA-256.
    """

    def __init__(self, splits: Mapping[str, str] | None = None) -> None:
        self._splits = dict(splits or {})

    def updated(self, splits: Mapping[str, str]) -> AcceptedSplits:
        """These and more, by whole SHA-256."""
        more = {content[:_DIGITS]: split for content, split in splits.items()}
        return AcceptedSplits(self._splits | more)

    def get(self, sha256: str) -> str | None:
        """The split of an image; None if it is new."""
        return self._splits.get(sha256[:_DIGITS])

    def __len__(self) -> int:
        return len(self._splits)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AcceptedSplits) and self._splits == other._splits

    __hash__ = None  # type: ignore[assignment]

    def save(self, path: Path) -> None:
        """Write the file, sorted, whole or not at all."""
        rows = [",".join(row) for row in (_HEADER, *sorted(self._splits.items()))]
        write_text(path, "\n".join(rows) + "\n")

    @classmethod
    def load(cls, path: Path) -> AcceptedSplits:
        """Read the file; without it, or with its header alone, no split was accepted.

        Raises:
            DataError: it is not such a file; names the line.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as fault:
            raise DataError(f"{path}: cannot be read: {fault}") from None
        remedy = "restore the file from git; without it images could change their split"
        rows = csv.reader(text.splitlines())
        if next(rows, None) != _HEADER:
            raise DataError(f"{path}: line 1: must be {','.join(_HEADER)!r}; {remedy}")
        found: dict[str, str] = {}
        for row in rows:
            if len(row) != 2 or not _IMAGE.fullmatch(row[0]) or row[1] not in SPLITS:
                reason = f"is {','.join(row)[:80]!r}; allowed: {_DIGITS} hexadecimal digits, "
                reason += f"a comma and {', '.join(SPLITS)}"
            elif found.get(row[0], row[1]) != row[1]:
                reason = f"{row[0]} is in two splits, {found[row[0]]} and {row[1]}"
            else:
                found[row[0]] = row[1]
                continue
            raise DataError(f"{path}: line {rows.line_num}: {reason}; {remedy}")
        return cls(found)
