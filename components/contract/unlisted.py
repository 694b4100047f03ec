"""Images that lie in the data and that its annotations do not name."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from pathlib import Path

from components.contract.findings import Finding, finding
from components.contract.pixels import EXTENSIONS


def unlisted_images(root: Path, named: Container[str]) -> Iterator[Finding]:
    """One `image-without-label` for each folder with such images. Links and hidden files are not
    looked at.

    Args:
        root: the data root.
        named: paths of the images that annotations name, relative to the root.
    """
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(parent).relative_to(root).as_posix()
        prefix = "" if folder == "." else f"{folder}/"
        found = [
            name
            for name in names
            if name[name.rfind(".") :].lower() in EXTENSIONS
            and not name.startswith(".")
            and f"{prefix}{name}" not in named
            and not (Path(parent) / name).is_symlink()
        ]
        if found:
            message = f"images that no annotation names are not used, such as {min(found)}"
            yield finding("image-without-label", folder, message, len(found))
