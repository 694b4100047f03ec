"""What a data folder says of its own licence."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)
_MOST_FILES, _MOST_BYTES, _MOST_LINES, _MOST_CHARACTERS = 4, 4000, 2, 120


def stated_licenses(root: Path) -> dict[str, str]:
    """The first words of the licence files in a data root.

    Args:
        root: the data root; only files directly in it count.

    Returns:
        File name to its first two lines that are not empty, which name a licence and its holder;
        empty where the folder states none.
    """
    try:
        names = sorted(path.name for path in Path(root).iterdir() if _NAME.match(path.name))
    except OSError:
        return {}
    said = {}
    for name in names[:_MOST_FILES]:
        path = Path(root, name)
        if not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8-sig", "replace")
        except OSError:
            continue
        lines = [" ".join(line.split())[:_MOST_CHARACTERS] for line in text.splitlines()]
        said[name] = "; ".join([line for line in lines if line][:_MOST_LINES])
    return {name: words for name, words in said.items() if words}
