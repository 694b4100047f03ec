"""The page that `backbone_families.py` writes."""

from pathlib import Path
from typing import Any


def write_page(
    path: Path, rows: list[dict[str, Any]], families: dict[str, tuple[str, ...]]
) -> None:
    """Write."""
