"""The server's process: its socket, what it prints, and how signals end it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from omnivit.errors import Interrupted
from omnivit.serve.settings import KEY_VARIABLE, Settings, SettingsError

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

GRACE = 5
"""Seconds that running answers get to end after a signal; then they are cancelled."""
LAST_WORDS = 5
"""Seconds in which the clients of cancelled answers are told so; then their connections are closed."""
LIBRARIES = ("fastapi", "uvicorn")


def require_libraries() -> None:
    """Raises SettingsError where the libraries of the server are not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f'The server needs {" and ".join(missing)}. Run: pip install "omnivit[serve]"')


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket at an address and a port.

    Raises:
        SettingsError: there is no such address, or the port is in use or not allowed.
    """
    if not 0 <= port < 65536:  # else the number would be cut to 16 bits
        raise SettingsError(f"--port {port} is no port: ports are numbers from 0 (any free one) to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise SettingsError(f"--host {host} --port {port} is no address of this machine: {error}.") from error
    try:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(address)
            place.listen(128)  # a second server on the port is refused now, not after it has loaded its model
        except OSError as error:
            raise SettingsError(f"Port {port} of {host} cannot be used: {error}. Choose another --port.") from error
        yield place
    finally:
        place.close()


def serve(app: FastAPI, place: socket.socket, settings: Settings) -> None:
    """Answer requests until SIGTERM or ctrl-C.

    Raises:
        Interrupted: SIGTERM has stopped the server.
        KeyboardInterrupt: ctrl-C has.
    """
    server = server_of(app, log_level="info")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # the access log stays
    before = signal.signal(signal.SIGTERM, _stopped)  # uvicorn raises the signal again once all is closed
    try:
        print(greeting(app, place, settings), flush=True)
        server.run(sockets=[place])
    finally:
        signal.signal(signal.SIGTERM, before)
        closing_of(app)()  # after a second ctrl-C uvicorn waits for nothing, but Python waits for the answers' threads


def server_of(app: FastAPI, log_level: str) -> uvicorn.Server:
    """The web server. When it stops, answers get `GRACE` seconds; those that still grow then are cancelled, and their
    clients are told so (status 503, or an error in the stream), as uvicorn alone would not."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(GRACE, loop.run_in_executor, None, closing_of(app))
            await super().shutdown(sockets)
            timer.cancel()

    config = uvicorn.Config(
        app,
        log_level=log_level,
        timeout_graceful_shutdown=GRACE + LAST_WORDS,
        server_header=False,
        h11_max_incomplete_event_size=65536,
    )
    return Server(config)


def closing_of(app: FastAPI) -> Callable[[], None]:
    """What cancels the answers of an app; an app without a model has none."""
    close: Callable[[], None] = getattr(app.state, "close", lambda: None)
    return close


def greeting(app: FastAPI, place: socket.socket, settings: Settings) -> str:
    """Where the server is, what it takes, and a first request."""
    host, port = place.getsockname()[:2]
    host = f"[{host}]" if ":" in host else host
    if not hasattr(app.state, "inputs"):
        return f"Comparing runs at http://{host}:{port}\nCtrl-C stops it."
    lines = [f"Serving {settings.name} at http://{host}:{port} (page: /, API: /v1, fields: /docs)"]
    for given in app.state.inputs:
        lines.append(f"  input {given.slot}: parts of type {', '.join(given.types)}")
    body = json.dumps({"model": settings.name, "messages": [{"role": "user", "content": "Hello"}]})
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if settings.api_key else ""
    lines += [f"  curl http://{host}:{port}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'"]
    return "\n".join([*lines, "Ctrl-C stops it."])


def _stopped(number: int, _: FrameType | Any) -> None:
    raise Interrupted(number, "The server has stopped.")
