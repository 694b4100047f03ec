"""The search for canaries looks into what is packed."""

from __future__ import annotations

import base64
import io
import zipfile

import pytest
from canaries import found_unpacked


def packed(name: str, content: bytes) -> bytes:
    """A compressed archive with one file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


INSIDE = packed("data.pkl", b"a canary07" * 20)
PAGE = b"<img src='data:image/png;base64,%s'> canary03"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"nothing", []),
        (b"a canary01, a canary00", ["canary00", "canary01"]),
        (INSIDE, ["canary07"]),
        (packed("inner.zip", INSIDE), ["canary07"]),
        (PAGE % base64.b64encode(INSIDE), ["canary03", "canary07"]),
    ],
)
def test_what_is_found(content: bytes, found: list[str]) -> None:
    assert found_unpacked(content) == found
    assert b"canary07" not in INSIDE
