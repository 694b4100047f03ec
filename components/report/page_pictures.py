"""Pictures inside the page, in no more bytes than a page should have."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

# Before base64 adds a third.
MAX_PICTURE_BYTES = 2_500_000


def with_pictures(
    entries: Sequence[Mapping[str, Any]], pictures: Mapping[str, bytes], budget: int
) -> list[dict[str, Any]]:
    """Entries with their pictures inside, `budget` bytes in all."""
    smaller = shrink_pictures([pictures[entry["picture"]] for entry in entries], budget)
    shown = []
    for entry, (data, width, height) in zip(entries, smaller, strict=True):
        source = "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")
        shown.append({**entry, "source": source, "width": width, "height": height})
    return shown


def shrink_pictures(
    pictures: Sequence[bytes], budget: int = MAX_PICTURE_BYTES
) -> list[tuple[bytes, int, int]]:
    """Pictures as JPEG whose sizes sum up to `budget` bytes at most, or as small as is readable.

    Args:
        pictures: encoded in any format Pillow reads.
        budget: bytes.

    Returns:
        For each picture: JPEG bytes, width, height (pixels).
    """
    encoded: list[tuple[bytes, int, int]] = []
    for max_side, quality in ((960, 82), (720, 76), (560, 68), (420, 60), (320, 50)):
        encoded = [_as_jpeg(picture, max_side, quality) for picture in pictures]
        if sum(len(data) for data, _, _ in encoded) <= budget:
            break
    return encoded


def _as_jpeg(picture: bytes, max_side: int, quality: int) -> tuple[bytes, int, int]:
    with Image.open(io.BytesIO(picture)) as opened:
        if opened.format == "JPEG" and max(opened.size) <= max_side and max_side == 960:
            return picture, opened.width, opened.height
        image = opened.convert("RGB")
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue(), image.width, image.height
