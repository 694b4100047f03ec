"""What the server takes from a client at most, and how it says no."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

from components.contract.pixels import MAX_PIXELS

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DRAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Limits:
    """Bounds of what one client, or all together, can make the server do.

    Args:
        max_bytes: largest request body.
        max_pixels: most pixels of an image; checked before it is decoded.
        upload_seconds: time for the head of a request to arrive, and again for its body.
        predict_seconds: time for an answer, waiting included, once the image is there.
        max_requests: images received, waiting or computed at a time; the next one is sent away.
        max_connections: open connections; the next one is sent away.
    """

    max_bytes: int = 32_000_000
    max_pixels: int = MAX_PIXELS
    upload_seconds: float = 20.0
    predict_seconds: float = 30.0
    max_requests: int = 16
    max_connections: int = 64

    @property
    def request_seconds(self) -> float:
        """After which a connection is cut, whatever it is doing."""
        return self.upload_seconds + self.predict_seconds + 2 * _DRAIN_SECONDS


class RefusedError(Exception):
    """A request that gets an error for an answer.

    Args:
        status: of HTTP.
        reason: what is wrong, and what would be accepted.
        retry_after: seconds after which it may be tried again.
    """

    def __init__(self, status: int, reason: str, retry_after: int | None = None):
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after

    def response(self) -> Refusal:
        """The answer."""
        headers = {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
        return Refusal({"error": self.reason}, self.status, headers)


class Refusal(JSONResponse):
    """An error that also reaches a client who is still sending.

    Closing a connection with unread data in it resets it, and the client never sees the answer. So
    the rest of the body is read and thrown away, for a while, between the answer and the end.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, drain, close."""
        headers = [*self.raw_headers, (b"connection", b"close")]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass  # it had its time
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Slots:
    """A number of places that are taken and given back."""

    def __init__(self, number: int):
        self.free = number

    def take(self) -> None:
        """Take a place.

        Raises:
            RefusedError: none is free.
        """
        if self.free == 0:
            raise RefusedError(503, "the server is busy; try again in a moment", retry_after=1)
        self.free -= 1

    def give(self) -> None:
        """Give a place back."""
        self.free += 1
