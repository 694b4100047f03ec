"""Groups and the user's own columns from the rows of images, whatever they hold."""

from __future__ import annotations

import math
from collections.abc import Set
from typing import Any

from components.contract.findings import shown

# Names of what images share; the first that an image's row has counts.
GROUP_KEYS = ("group", "group_id", "video_id", "patient_id")
_MOST = 256  # columns; more are no table, but an attack or a mistake
_LONGEST = 100  # characters of a column's name
_CANONICAL = {"image_id", "path", "sha256", "phash", "split"}


def group_of(row: dict[str, Any]) -> tuple[str | None, str | None]:
    """The group that an image's row names, and what is wrong with it; None where there is none."""
    for key in GROUP_KEYS:
        value = row.get(key)
        if value is None or value == "":
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # spreadsheets write 7 as 7.0
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None, f"{key} must be text or a whole number, not {shown(value)}"
        text = value if isinstance(value, str) else shown(value)
        return text.encode("utf-8", "replace").decode("utf-8"), None
    return None, None


class ImageColumns:
    """Takes the user's columns out of rows of images.

    Args:
        ignored: keys that are no columns of the user.
    """

    def __init__(self, ignored: Set[str]) -> None:
        self._names: dict[str, bool] = dict.fromkeys({*ignored, *GROUP_KEYS, *_CANONICAL}, False)
        self._num_columns = 0

    def read(self, row: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
        """A row's columns, and what is wrong with them; None where there is none.

        A column is a key whose value is text, a number, a truth value or null. Names that cannot be
        printed are no columns.
        """
        fault = None
        columns: dict[str, Any] = {}
        for name, value in row.items():
            if name in self._names:
                if not self._names[name]:
                    continue
            elif not isinstance(value, str | int | float) or not _is_name(name):
                continue
            elif self._num_columns >= _MOST:
                fault = f"images have more than {_MOST} different keys"
                continue
            else:
                self._names[name] = True
                self._num_columns += 1
            if isinstance(value, str | int | float):
                infinite = isinstance(value, float) and not math.isfinite(value)
                columns[name] = None if infinite else value
        return columns or None, fault


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST and name.isprintable()
