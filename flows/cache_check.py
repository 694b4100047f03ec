"""Is what lies in DVC's cache what its names say? DVC does not look, so we do before we train.

DVC takes any write-protected file of its cache for whole, and records what it links into a working
tree by the name that it has in the cache. A bit that flips on the disk would go into the training,
under the name of the data as it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Damaged:
    """A file of the cache whose content has another MD5 than its name.

    Args:
        name: what it is, in the working tree.
        out: the output of DVC's that it is, or is part of.
        file: in the cache.
    """

    name: str
    out: str
    file: Path


def find_damaged(cache: Path, outs: Iterable[Mapping[str, Any]]) -> list[Damaged]:
    """Read what a cache has of some outputs; what it does not have is not damaged.

    Args:
        cache: DVC's.
        outs: as `dvc.lock` and `.dvc` files list them.

    Returns:
        The damaged files, by name. Costs one read of everything.
    """
    wanted: dict[Path, Damaged] = {}
    for out in outs:
        # Files of DVC 2 are hashed otherwise, and without a name for it; they are not judged.
        if out.get("hash") == "md5" and out.get("md5") and out.get("cache", True):
            path = str(out["path"])
            file = _place(cache, out["md5"])
            wanted.setdefault(file, Damaged(path, path, file))
            for item in _listed(file):
                inner = _place(cache, item["md5"])
                wanted.setdefault(inner, Damaged(f"{path}/{item['relpath']}", path, inner))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = pool.map(_is_whole, wanted)
        found = [item for item, good in zip(wanted.values(), whole, strict=True) if not good]
    return sorted(found, key=lambda item: item.name)


def set_aside(found: Sequence[Damaged], tree: Path, folder: Path) -> None:
    """Take damaged files out of the cache, and the outputs they are of out of a worktree.

    Args:
        found: by `find_damaged`.
        tree: of our own; DVC then brings the outputs there anew.
        folder: where the files are kept: there may be no other copy.
    """
    for item in found:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another run has done it
            shutil.move(item.file, folder / f"{item.file.parent.name}{item.file.name}")
    for out in {item.out for item in found}:
        place = tree / out
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _place(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _listed(file: Path) -> list[dict[str, str]]:
    """The files of a folder, if this is a folder's list and whole."""
    if file.suffix != ".dir" or not file.exists() or not _is_whole(file):
        return []
    items: list[dict[str, str]] = json.loads(file.read_bytes())
    return items


def _is_whole(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "md5").hexdigest()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # a disk that cannot read it any more
    return found == f"{file.parent.name}{file.name}".removesuffix(".dir")
