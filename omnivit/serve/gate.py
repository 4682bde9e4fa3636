"""What every request passes before a route sees it: an id, the host, the key, and the size of the body.

Written as plain ASGI, so that a body that is too large is never held in memory, and a stream is never buffered.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import uuid
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omnivit.serve.failures import ApiError, failure_of
from omnivit.serve.settings import Settings

OPEN = ("/", "/healthz", "/favicon.ico")
"""Paths that need no key: they show nothing of the model."""
OPEN_FOLDER = "/static/"
"""Files of the page, which need no key: the page itself asks for it."""
BODY_SECONDS = 60.0
"""Seconds in which the body of a request must arrive."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
Counted = Callable[[str, int, float], None]
"""Path, status and seconds of a request that is answered."""


class Gate:
    """ASGI middleware.

    Args:
        app: what answers the requests that pass.
        settings: of the server.
        counted: is called at the end of each request.
        body_seconds: time limit for the body.
    """

    def __init__(self, app: ASGIApp, settings: Settings, counted: Counted, body_seconds: float = BODY_SECONDS) -> None:
        self.app, self.settings, self.counted, self.body_seconds = app, settings, counted, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, begun, status = Headers(scope=scope), time.monotonic(), 0
        given = headers.get("x-request-id", "")
        name = given if _ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_headers(name)]
            await send(message)

        try:
            self._check(scope, headers)
            replayed = await self._body(scope, headers, receive)
            await self.app(scope, replayed, send_with_id)
        except Exception as error:
            if status:  # it has begun to answer, so the connection is all that can be ended
                failure_of(error)
                raise
            await failure_of(error).response()(scope, receive, send_with_id)
        finally:
            self.counted(scope["path"], status, time.monotonic() - begun)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Refuse strangers: without the key; or, where there is no key, web pages of other origins.

        A page on the internet can let a browser send requests to 127.0.0.1, directly or through a name of its own that
        it lets point there. Both show in the headers `Host` and `Origin`.
        """
        key, path = self.settings.api_key, scope["path"]
        if key is not None:
            kind, _, token = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), key.encode())
            if not (path in OPEN or path.startswith(OPEN_FOLDER) or (kind.lower() == "bearer" and right)):
                raise ApiError(
                    "The API key is missing or wrong. Send the header `Authorization: Bearer KEY`.",
                    401,
                    code="invalid_api_key",
                )
            return
        host = headers.get("host", "")
        if not _is_local(host):
            raise ApiError(
                f"The server answers only under names of this machine, such as http://localhost, but was asked as "
                f"{host[:100]!r}. To use another name, start it with an API key.",
                403,
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(
                f"Web pages of {origin[:100]!r} must not use this server. Start it with an API key to serve them.",
                403,
                code="origin_not_allowed",
            )

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """Read the body within its limits; what is returned gives it to the app, and then what else arrives."""
        length = headers.get("content-length", "")
        if scope["method"] in ("GET", "HEAD", "OPTIONS") and not length and "transfer-encoding" not in headers:
            return receive
        if length.isdigit() and int(length) > self.settings.max_body:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._arrived(receive), self.body_seconds)
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            raise ApiError(f"The body did not arrive within {self.body_seconds:g} seconds.", 408) from None

    async def _arrived(self, receive: Receive) -> Receive:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return _replay(message, receive)
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > self.settings.max_body:
                raise self._too_large()
        return _replay({"type": "http.request", "body": b"".join(chunks), "more_body": False}, receive)

    def _too_large(self) -> ApiError:
        return ApiError(
            f"The body of the request is larger than {self.settings.max_body_mb:g} MB. Send fewer or smaller media, or "
            f"raise --max-body-mb.",
            413,
            code="body_too_large",
        )


def _headers(name: str) -> list[tuple[bytes, bytes]]:
    """Headers of every response. No other site may show it in a frame, and no browser guesses its type."""
    return [
        (b"x-request-id", name.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
    ]


def _is_local(host: str) -> bool:
    """Whether a header `Host` names this machine: `localhost:8000`, `127.0.0.1`, `[::1]:8000`."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".") in LOCAL_NAMES
    except ValueError:
        return False


def _replay(message: Message, receive: Receive) -> Receive:
    waiting = [message]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
