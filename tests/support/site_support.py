"""A web server of this machine that a test lets be on the internet, as `omnivit.serve.fetch` sees it."""

from __future__ import annotations

import http.server
import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from omnivit.serve import fetch as fetching
from omnivit.serve.fetch import is_public


@contextmanager
def public_site(
    monkeypatch: pytest.MonkeyPatch, handler: type[http.server.BaseHTTPRequestHandler], address: str = "127.0.0.1"
) -> Iterator[str]:
    """The URL of a site, http://site.example: its address counts as public, and its port as allowed; nothing else."""
    server = http.server.ThreadingHTTPServer((address, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    port = server.server_address[1]
    monkeypatch.setattr(fetching, "PORTS", {"http": (port, 80), "https": (443,)})
    real = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **options: Any) -> Any:
        return real(address if host == "site.example" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    allowed = ipaddress.ip_address(address)
    monkeypatch.setattr(fetching, "is_public", lambda asked: asked == allowed or is_public(asked))
    try:
        yield "http://site.example"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
