"""A model over HTTP: a page for people, `/predict` for programs, `/healthz` and `/metadata`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from components.contract.pixels import ImageError, decode
from components.export.predictor import OnnxPredictor
from components.inference.http_body import read_image
from components.inference.http_limits import Limits, Receive, RefusedError, Scope, Send, Slots
from components.inference.http_server import ACCESS
from components.inference.predict_files import shown_threshold, with_size

_PAGE = Path(__file__).with_name("page.html")
_STATUS_OF = {"file-empty": 400, "image-too-large": 413}  # of what an image fails; else 422
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def create_app(
    predictor: OnnxPredictor,
    limits: Limits,
    threshold: float | None = None,
    hosts: frozenset[str] | None = None,
) -> Any:
    """The ASGI application.

    Args:
        predictor: the model.
        limits: of what a client may ask for.
        threshold: of requests that name none; None for what `tasks.predict` takes.
        hosts: names under which the server may be called; None for any. On loopback this keeps a
            web page, whose name was made to lead there, from using the server.
    """
    app = FastAPI(title="timmflow", docs_url=None, redoc_url=None)
    work = _Work(predictor, limits)
    default = shown_threshold(predictor, threshold)
    page = _PAGE.read_text(encoding="utf-8")
    page_headers = {"content-security-policy": _policy(page), "cache-control": "no-cache"}

    @app.get("/", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page, headers=page_headers)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Whether the server lives, and how many more images it would take now."""
        return {"status": "ok", "free": work.slots.free}

    @app.get("/metadata")
    async def metadata() -> dict[str, Any]:
        """What the model file says of itself, and the limits."""
        return {
            "task": predictor.task,
            "classes": predictor.classes,
            "threshold": default,
            "model": described(predictor.metadata),
            "limits": {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels},
        }

    @app.post("/predict", openapi_extra=_BODY)
    async def predict(
        request: Request,
        threshold: Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)] = None,
    ) -> Response:
        """The prediction on one image: what a line of `tasks.predict` has, but for its name."""
        least = default if threshold is None else threshold
        answer = await work.answer(request, least)
        return JSONResponse(answer, headers={"cache-control": "no-store"})

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return error.response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nginx's word for it; only the log sees it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:])
        return RefusedError(422, f"{name}: {first['msg']}").response()

    @app.exception_handler(HTTPException)
    async def failed(_: Request, error: HTTPException) -> Response:
        response = RefusedError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    return _Doorman(app, hosts)


class _Work:
    """Images on their way to an answer: so many at a time, and one of them in the model."""

    def __init__(self, predictor: OnnxPredictor, limits: Limits):
        self.slots = Slots(limits.max_requests)
        self._predictor, self._limits = predictor, limits
        # One: opening images is not thread-safe, and ONNX Runtime takes all cores for one image.
        self._runner = ThreadPoolExecutor(1, "predict")

    async def answer(self, request: Request, threshold: float | None) -> dict[str, Any]:
        """Read the image of a request and predict.

        Raises:
            RefusedError: the server is busy, the image cannot be used, or it takes too long.
        """
        self.slots.take()
        try:
            data = await read_image(request, self._limits)
            future = self._runner.submit(self._predict, data, threshold)
        except BaseException:
            self.slots.give()
            raise
        loop = asyncio.get_running_loop()
        # A thread cannot be stopped: the place is free when the work is done, not when the client
        # has been told that it takes too long.
        future.add_done_callback(lambda _: _on(loop, self.slots.give))
        return await self._within_time(future)

    async def _within_time(self, future: Future[dict[str, Any]]) -> dict[str, Any]:
        seconds = self._limits.predict_seconds
        waiting = asyncio.wrap_future(future)
        if not (await asyncio.wait([waiting], timeout=seconds))[0]:
            # Nobody will ask how it ended; asyncio would call that an error.
            waiting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            future.cancel()
            reason = f"no answer within {seconds:g} seconds: the server is busy"
            raise RefusedError(503, reason, retry_after=5)
        try:
            return waiting.result()
        except ImageError as error:
            reason = error.reason + (f"; accepted: {error.allowed}" if error.allowed else "")
            raise RefusedError(_STATUS_OF.get(error.check, 422), reason) from None

    def _predict(self, data: bytes, threshold: float | None) -> dict[str, Any]:
        pixels = decode(data, "the image", self._limits.max_pixels).pixels
        image = self._predictor.prepare(pixels)
        del data, pixels
        return with_size(image, self._predictor.predict_prepared([image], threshold)[0])


def _on(loop: asyncio.AbstractEventLoop, do: Any) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(do)


class _Doorman:
    """Around the application: who may call, headers for all answers, and a line in the log.

    The log has the client's address, method, path, status, bytes and time, and nothing that a
    client could have put a secret into: no query, no header, and no path that does not exist.
    """

    def __init__(self, app: FastAPI, hosts: frozenset[str] | None):
        self._app, self._hosts = app, hosts
        self._paths = {getattr(route, "path", "") for route in app.routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = size = 0

        async def watched(message: Any) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SECURITY]
            size += len(message.get("body", b""))
            await send(message)

        try:
            if self._hosts is not None and _host(scope) not in self._hosts:
                wrong = RefusedError(421, "this server answers on the loopback address only")
                await wrong.response()(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "-"
            ACCESS.info(
                "%s %s %s %d %d B %.0f ms",
                (scope.get("client") or ("-",))[0],
                scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "-",
                path,
                status,
                size,
                1000 * (time.perf_counter() - started),
            )


def _host(scope: Scope) -> str:
    """The name by which a client called, without port and brackets."""
    name = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    try:
        return urlsplit(f"//{name}").hostname or ""
    except ValueError:
        return ""


def loopback_names(host: str) -> frozenset[str] | None:
    """Names by which a server that listens on `host` may be called; None for any."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if loopback else None


def described(metadata: Mapping[str, str]) -> dict[str, Any]:
    """A model file's metadata, with what is JSON in it read, and the names of its classes apart."""
    values: dict[str, Any] = {}
    for name, text in sorted(metadata.items()):
        if name == "classes":
            continue
        try:
            values[name] = json.loads(text) if text[:1] in "[{" or text in _WORDS else text
        except ValueError:
            values[name] = text
    return values


_WORDS = ("true", "false", "null")
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("image/*", "application/octet-stream")
        }
        | {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def _policy(page: str) -> str:
    """A content security policy by which the page's own style and script run, and no others."""
    allowed = {}
    for tag in ("style", "script"):
        text = "".join(re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL))
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        allowed[tag] = f"'sha256-{digest}'"
    return (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
