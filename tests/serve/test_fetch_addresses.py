"""Addresses that a client must not reach through the server: none of them opens a connection."""

from __future__ import annotations

import http.server
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from site_support import public_site

from omnivit.serve.failures import ApiError
from omnivit.serve.fetch import fetch


def words(text: str) -> list[str]:
    return text.split()


LITERAL = words(
    "http://127.0.0.1/ http://127.1.2.3/ http://0.0.0.0/ http://10.0.0.1/ http://172.16.0.1/ "
    "http://172.31.255.255/ http://192.168.1.1/ http://169.254.169.254/latest/meta-data/ http://169.254.170.2/ "
    "http://100.64.0.1/ http://100.100.100.200/ http://192.0.0.192/ http://168.63.129.16/ http://198.18.0.1/ "
    "http://224.0.0.1/ http://255.255.255.255/ http://240.0.0.1/ http://192.0.2.1/ http://[::1]/ http://[::]/ "
    "http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[::127.0.0.1]/ http://[64:ff9b::7f00:1]/ "
    "http://[64:ff9b:1::a00:1]/ http://[2002:7f00:1::]/ http://[2002:808:808::1]/ "
    "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ http://[fe80::1]/ http://[fe80::1%25eth0]/ "
    "http://[fc00::1]/ http://[fd00:ec2::254]/ http://[ff02::1]/ http://[2001:db8::1]/ "
)
"""Numbers of machines that are not on the internet, or that stand for them."""
FORMS = words(
    "http://2130706433/ http://0x7f000001/ http://0x7f.1/ http://0177.0.0.1/ http://127.1/ http://127.0.1/ "
    "http://0/ http://017700000001/ http://127.0.0.1./ http://0x7f.0x0.0x0.0x1/ http://127.0.0.01/ "
    "http://\uff11\uff12\uff17.0.0.1/ http://127%2e0%2e0%2e1/ http://8.8.8.8:22/ http://8.8.8.8:6379/ "
    "http://user:secret@8.8.8.8/ http://8.8.8.8\\@127.0.0.1/ http://127.0.0.1#@8.8.8.8/ http:///etc/passwd "
    "https:8.8.8.8 http://8.8.8.8:99999/ http://8.8.8.8:port/ ftp://8.8.8.8/ gopher://8.8.8.8/ dict://8.8.8.8/ "
    "file:///etc/passwd javascript:alert(1) "
)
"""Numbers in forms that programs read differently, ports and schemes of other services, credentials."""
NAMES = words(
    "http://localhost/ http://LOCALHOST./ http://metadata.google.internal/ http://printer.local/ "
    "http://router/ http://nas.lan/ http://ends-at-home.example/ http://two-addresses.example/ "
    "http://maps-to-metadata.example/ "
)
"""Names of machines near the server, and public names that lead to them."""
DNS = {
    "ends-at-home.example": ["127.0.0.1"],
    "two-addresses.example": ["93.184.215.14", "10.0.0.1"],
    "maps-to-metadata.example": ["::ffff:169.254.169.254"],
}
SECONDS = 2.0


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Attempts to open a connection, of which there are to be none; names are resolved by `DNS`."""
    attempts: list[Any] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in DNS[host]]

    def connect(*target: Any, **_: Any) -> None:
        attempts.append(target)
        raise OSError("no connection in this test")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return attempts


def test_no_address_of_the_corpus_is_connected_to(connections: list[Any]) -> None:
    corpus = [*LITERAL, *FORMS, *NAMES]
    assert len(corpus) >= 60 and len(set(corpus)) == len(corpus)
    for url in corpus:
        with pytest.raises(ApiError) as refusal:
            fetch(url, "messages[0]", 1000)
        assert (refusal.value.status, refusal.value.code) == (400, "address_not_allowed"), url
    assert connections == []


def test_a_public_address_is_connected_to(connections: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the corpus would prove nothing."""
    monkeypatch.setitem(DNS, "images.example", ["93.184.215.14"])
    for url in ("http://images.example/a.png", "https://93.184.215.14:8443/", "http://[2606:2800:21f:cb07::1]/"):
        with pytest.raises(ApiError, match="the connection failed") as failure:
            fetch(url, "messages[0]", 1000)
        assert failure.value.code == "fetch_failed"
    assert [target[0] for target in connections] == [
        ("93.184.215.14", 80),
        ("93.184.215.14", 8443),
        ("2606:2800:21f:cb07::1", 80),
    ]


def test_a_name_is_resolved_once(connections: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: a name that means another machine after it was checked."""
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, port, **__: [(0, 0, 0, "", (a, port)) for a in next(answers)])
    with pytest.raises(ApiError, match="the connection failed"):
        fetch("http://turns.example/", "messages[0]", 1000)
    assert [target[0][0] for target in connections] == ["93.184.215.14"]


class _Site(http.server.BaseHTTPRequestHandler):
    """A server whose paths behave in one way each."""

    heard: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.heard.append((self.path, self.headers["Host"]))
        name = self.path.strip("/")
        if name.startswith("to-"):
            self.send_response(302)
            self.send_header("Location", {"to-good": "/good", "to-self": "/to-self"}.get(name, f"http://{name[3:]}/"))
            self.end_headers()
            return
        self.send_response(404 if name == "missing" else 200)
        if name == "announced":
            self.send_header("Content-Length", "5000")
        if name == "compressed":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if name == "slow":
            for _ in range(100):
                time.sleep(0.1)
                try:
                    self.wfile.write(b".")
                except OSError:
                    return
        self.wfile.write(b"x" * (5000 if name == "large" else 10))

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[_Site]]]:
    """A site at http://site.example, which the test lets be public, at a port that it lets be allowed."""
    handler = type("Site", (_Site,), {"heard": []})
    with public_site(monkeypatch, handler) as url:
        yield url, handler


def test_content_arrives_within_its_limits(site: tuple[str, type[_Site]]) -> None:
    root, handler = site
    assert fetch(f"{root}/good", "m", 1000) == b"x" * 10
    assert handler.heard == [("/good", "site.example")]
    assert fetch(f"{root}/to-good", "m", 1000) == b"x" * 10
    for name, status, text in (
        ("large", 413, "larger than"),
        ("announced", 413, "larger than"),
        ("missing", 400, "answered with status 404"),
        ("compressed", 400, "is compressed"),
        ("to-self", 400, "redirects more than"),
    ):
        with pytest.raises(ApiError, match=text) as failure:
            fetch(f"{root}/{name}", "m", 1000)
        assert failure.value.status == status


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost", "0x7f000001", "[::1]", "u:p@site.example"])
def test_a_redirect_passes_the_same_checks(site: tuple[str, type[_Site]], host: str) -> None:
    root, handler = site
    with pytest.raises(ApiError) as refusal:
        fetch(f"{root}/to-{host}", "m", 1000)
    assert refusal.value.code == "address_not_allowed"
    assert len(handler.heard) == 1


def test_a_server_that_drips_is_left(site: tuple[str, type[_Site]]) -> None:
    begun = time.monotonic()
    with pytest.raises(ApiError, match="not fetched"):
        fetch(f"{site[0]}/slow", "m", 1000, seconds=0.5)
    assert time.monotonic() - begun < 5
