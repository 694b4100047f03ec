"""uvicorn with the limits that it lacks: slow clients are cut off, and connections are counted."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from components.inference.http_limits import Limits

ACCESS = logging.getLogger("timmflow.access")
_LAST_WORDS_SECONDS = 2.0  # for a client to take its answer before it is cut off
_STOP_SECONDS = 20


def serve(app: Any, listening: socket.socket, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT: then finish what was begun, take nothing new, and return.

    Args:
        app: an ASGI application.
        listening: a bound socket.
        limits: those of connections and of time.
    """
    config = uvicorn.Config(
        app,
        http=_limited(limits),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    # uvicorn raises the signal again once it has stopped; by then it has done its work.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(number: int, frame: object) -> None:
    """A signal handler that does nothing."""


def _limited(limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol, one instance of which is a connection, with limits."""

    class LimitedProtocol(H11Protocol):
        """See the module.

        At any time one timer at most runs beside uvicorn's: while the head of a request arrives,
        or while the request is dealt with. With no request at hand uvicorn's own runs.
        """

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.max_connections:
                self._refuse(503, "too many connections; try again in a moment", b"1")
            else:
                self._set(limits.upload_seconds, self._head_is_late)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self._timer is None:
                self._set(limits.upload_seconds, self._head_is_late)
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._set(limits.request_seconds, self.transport.abort)
            elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
                self._set(None)

        def on_response_complete(self) -> None:
            before = self.cycle
            super().on_response_complete()
            if self.cycle is not before:  # a further request had arrived meanwhile
                self._set(limits.request_seconds, self.transport.abort)
            elif self.transport.is_closing():
                self._set(_LAST_WORDS_SECONDS, self.transport.abort)
            elif self.conn.their_state is not h11.SEND_BODY:
                self._set(None)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._set(_LAST_WORDS_SECONDS, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._set(None)
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, "not a valid HTTP request, or its head is too large")

        def _head_is_late(self) -> None:
            if self.cycle is None and self.conn.their_state is h11.IDLE:
                reason = f"no whole request arrived within {limits.upload_seconds:g} seconds"
                self._refuse(408, reason)
            else:
                self.transport.abort()

        def _refuse(self, status: int, reason: str, retry_after: bytes | None = None) -> None:
            """Answer without the application, and close."""
            ACCESS.info("%s - - %d", self.client[0] if self.client else "-", status)
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = json.dumps({"error": reason}).encode()
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"connection", b"close"),
                ]
                if retry_after is not None:
                    headers.append((b"retry-after", retry_after))
                for event in (
                    h11.Response(
                        status_code=status, headers=headers, reason=HTTPStatus(status).phrase
                    ),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            self._set(_LAST_WORDS_SECONDS, self.transport.abort)

        def _set(self, seconds: float | None, do: Callable[[], None] | None = None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None
            if seconds is not None and do is not None:
                self._timer = self.loop.call_later(seconds, do)

    return LimitedProtocol
