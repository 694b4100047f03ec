"""The image in the body of a request: as it is, or as the file of a form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser

from fastapi import Request

from components.inference.http_limits import Limits, RefusedError

_MAX_PARTS = 16
_MAX_HEAD = 2048  # bytes of a header; `email` takes a time that grows with their square
_ACCEPTED = "send an image as the body (image/* or application/octet-stream) or multipart/form-data"


async def read_image(request: Request, limits: Limits) -> bytes:
    """The bytes of the one image that a request brings.

    Raises:
        RefusedError: the body is too large, too slow, empty, of another type, or no form with one
            file.
        starlette.requests.ClientDisconnect: the client has gone.
    """
    header = Message()
    given = request.headers.get("content-type") or "application/octet-stream"
    if len(given) > _MAX_HEAD:
        raise RefusedError(400, f"the Content-Type has more than {_MAX_HEAD} characters")
    header["content-type"] = given
    kind = header.get_content_type()
    if kind not in ("application/octet-stream", "multipart/form-data") and not kind.startswith(
        "image/"
    ):
        raise RefusedError(415, f"a body of type {kind[:100]} cannot be used: {_ACCEPTED}")
    body = await _read(request, limits)
    if kind == "multipart/form-data":
        boundary = header.get_boundary()
        if not boundary:
            raise RefusedError(400, "the form's Content-Type names no boundary")
        body = _file(body, str(boundary).encode("utf-8", "surrogateescape"))
    if not body:
        raise RefusedError(400, f"the body holds no image, it is empty: {_ACCEPTED}")
    return body


async def _read(request: Request, limits: Limits) -> bytes:
    too_large = RefusedError(
        413, f"the body is larger than is accepted: at most {limits.max_bytes / 1e6:g} MB"
    )
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 18 or int(declared) > limits.max_bytes:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.upload_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_bytes:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise RefusedError(
            408, f"the body did not arrive within {limits.upload_seconds:g} seconds"
        ) from None
    return b"".join(chunks)


def _file(body: bytes, boundary: bytes) -> bytes:
    """The content of a form's one file, or of its one field where it has no file."""
    parts = list(form_parts(body, boundary))
    files = [content for head, content in parts if head.get_filename() is not None]
    found = files or [content for _, content in parts]
    if len(found) != 1:
        raise RefusedError(400, f"the form has {len(found)} files; one image a request is accepted")
    return found[0]


def form_parts(body: bytes, boundary: bytes) -> Iterator[tuple[Message, bytes]]:
    """The parts of a multipart body (RFC 2046, 5.1): their headers and contents.

    Raises:
        RefusedError: it ends before its last boundary, has too many parts, or one of them too long
            headers.
    """
    delimiter = b"\r\n--" + boundary
    # The first boundary may stand at the very start, without a line break before it.
    start = len(delimiter) - 2 if body.startswith(delimiter[2:]) else _after(body, delimiter, 0)
    for _ in range(_MAX_PARTS):
        if body.startswith(b"--", start):
            return
        end = _after(body, delimiter, start)
        line = body.find(b"\r\n", start, end)  # the rest of the boundary's line is padding
        # Without headers, the empty line that ends them follows the boundary's at once.
        head_end = body.find(b"\r\n\r\n", line, end)
        if line < 0 or head_end < 0:
            raise RefusedError(400, "the form has a part without the empty line after its headers")
        if head_end - line > _MAX_HEAD:
            raise RefusedError(400, f"a part's headers have more than {_MAX_HEAD} bytes")
        content = body[head_end + 4 : end - len(delimiter)]
        yield BytesHeaderParser().parsebytes(body[line + 2 : head_end + 2]), content
        start = end
    raise RefusedError(400, f"the form has more than {_MAX_PARTS} parts")


def _after(body: bytes, delimiter: bytes, start: int) -> int:
    place = body.find(delimiter, start)
    if place < 0:
        raise RefusedError(400, "the form ends before its last boundary")
    return place + len(delimiter)
