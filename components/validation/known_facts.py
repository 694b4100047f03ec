"""What the last validation learnt from the pixels, kept so that unchanged images need no decoding.

`data/facts.parquet` has a row an image. A row counts for a file of the same path and the same
SHA-256, within today's limits, and if the code that decodes is still the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

from components.contract import pixels
from components.contract.pixels import ImageError, read_bytes
from components.files import atomic_path
from components.validation import pixel_pass
from components.validation.pixel_pass import ImageFacts

_FIELDS = [field.name for field in dataclasses.fields(ImageFacts) if field.name != "fault"]
_THREADS = 4  # reading and hashing wait for the disk, and leave Python's lock


def save_facts(path: Path, facts: Iterable[ImageFacts]) -> None:
    """Write the facts about usable images; the same data gives the same bytes."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    usable = [fact for fact in facts if not fact.fault]
    columns = {name: [getattr(fact, name) for fact in usable] for name in _FIELDS}
    table = arrow.table(columns).replace_schema_metadata({"code": _code()})
    with atomic_path(path) as draft:
        parquet.write_table(table, draft, compression="zstd")


def load_facts(path: Path) -> dict[str, ImageFacts]:
    """Facts by path; none if there is no such file, or one of other code: all is decoded then."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with Path(path).open("rb") as file:
            table = parquet.read_table(file)
    except (OSError, arrow.ArrowException):
        return {}
    if (table.schema.metadata or {}).get(b"code") != _code().encode():
        return {}
    if set(table.column_names) != set(_FIELDS):
        return {}
    return {row["path"]: ImageFacts(**row) for row in table.to_pylist()}


def still_true(
    root: Path,
    paths: Sequence[str],
    known: Mapping[str, ImageFacts],
    max_pixels: int,
    max_bytes: int,
) -> dict[str, ImageFacts]:
    """Those of the known facts that hold for the files as they are; no image is decoded.

    Args:
        root: the data root.
        paths: relative to it, known to lie inside.
        known: facts by path.
        max_pixels, max_bytes: of an image that is accepted.
    """
    candidates = [
        known[path]
        for path in dict.fromkeys(paths)
        if path in known and known[path].width * known[path].height <= max_pixels
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        same = pool.map(partial(_holds, Path(root), max_bytes), candidates)
        return {fact.path: fact for fact, holds in zip(candidates, same, strict=True) if holds}


def _holds(root: Path, max_bytes: int, fact: ImageFacts) -> bool:
    try:
        data = read_bytes(root / fact.path, max_bytes)
    except ImageError:
        return False  # decoding says what is wrong with it
    return hashlib.sha256(data).hexdigest() == fact.sha256


@cache
def _code() -> str:
    """SHA-256 over the source of what decodes and measures, and the version of Pillow."""
    from PIL import __version__

    digest = hashlib.sha256(__version__.encode())
    for module in (pixels, pixel_pass):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()
