"""Which folders of the data the paths of a YOLO `data.yaml` mean. Nothing outside is looked at.

The file was often written on another machine, or by a tool that keeps it elsewhere:

- `path` is the data root itself if it says so (`.`, its absolute path), or ends in its name, as
  ultralytics' `path: ../datasets/coco8` does for a root called `coco8`.
- `train: ../train/images`, as Roboflow writes, is `train/images` if all entries of the file begin
  with one `../` and there is such a folder in the data: they were written from a folder of it.

Other paths may climb and be absolute as long as they end inside the data; the rest is refused.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path, PurePosixPath

from components.contract.data_files import join
from components.contract.paths import PathEscape, check_relative, resolve_inside

_UP = "../"


def base_folder(root: Path, path: str) -> str | None:
    """The folder, relative to the root, to which the entries of a `data.yaml` are relative.

    Args:
        root: the data root, where the file is.
        path: what the file gives as `path`.

    Returns:
        None if it is a relative path to no folder of the data.

    Raises:
        PathEscape: it leads out of the data.
        OSError: it cannot be followed, for its length for example.
    """
    own = {PurePosixPath(place).name for place in _places_of(root)}
    named = PurePosixPath(path).name in own and not posixpath.isabs(path)
    try:
        place = _from_root(root, path)
        if place in ("", "."):
            return ""
        inside = resolve_inside(root, place)
    except PathEscape:
        if named and "\\" not in path:
            return ""
        raise
    if inside.is_dir():
        return place
    return "" if named else None


def entry_places(root: Path, base: str, entry: str, entries: list[str]) -> list[str]:
    """Where the folder or list file of a split may lie, relative to the root, in this order.

    Args:
        root: the data root, where the file is.
        base: folder from `base_folder`.
        entry: one path of `train`, `val` or `test`.
        entries: all such paths of the file.

    Raises:
        PathEscape: it leads out of the data.
    """
    places = []
    faults = []
    for path in dict.fromkeys((entry if posixpath.isabs(entry) else join(base, entry), entry)):
        try:
            places.append(_from_root(root, path) or ".")
        except PathEscape as fault:
            faults.append(fault)
    if places:
        return places
    inner = entry.removeprefix(_UP)
    if all(other.startswith(_UP) for other in entries) and not inner.startswith(_UP):
        place = _from_root(root, inner) or "."
        if resolve_inside(root, place).exists():
            return [place]
    raise faults[0]


def _from_root(root: Path, path: str) -> str:
    """A path as seen from the root, without `..`; links are not followed.

    Raises:
        PathEscape: it leads out, or cannot be one of a file.
    """
    place = posixpath.normpath(path)
    if posixpath.isabs(place) or place.startswith(_UP) or place == "..":
        for whole in _places_of(root):
            target = posixpath.normpath(posixpath.join(whole, place))
            if PurePosixPath(target).is_relative_to(whole):
                place = posixpath.relpath(target, whole)
                break
        else:
            raise PathEscape("the path leads out of the data")
    return str(check_relative(place)) if place != "." else ""


def _places_of(root: Path) -> tuple[str, str]:
    """Where the root is by its own name, and where it is once links are followed."""
    return posixpath.normpath(Path(root).absolute()), os.path.realpath(root)
