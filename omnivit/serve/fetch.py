"""The only function of the server that opens connections for media: `fetch`.

A client must not reach through the server what only the server can reach: its own machine, its network, the metadata of
its cloud. So a host is resolved once, every address that it has must be public, and the connection goes to that very
address, whatever the name means a moment later. Each redirect passes the same checks. What arrives is bytes of limited
size, within a limited time; they are decoded like any other upload.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from omnivit.serve.failures import ApiError

SECONDS = 20.0
"""Time limit of a fetch, redirects included."""
REDIRECTS = 3
PORTS = {"http": (80, 8080), "https": (443, 8443)}
"""The ports that are allowed; the first is the default. Others belong to services that are no web servers."""
LOCAL_NAMES = ("localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "localdomain")
"""Last labels of names that are not public."""
NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # of protocols; the metadata of Oracle's cloud is in it
        "192.88.99.0/24",  # relays of 6to4
        "::/8",  # with IPv4 addresses inside
        "64:ff9b::/96",  # a gateway translates it to IPv4 (NAT64)
        "64:ff9b:1::/48",
        "2001::/23",  # of protocols; Teredo is in it
        "2002::/16",  # 6to4
        "3fff::/20",  # for documentation
        "5f00::/16",  # of routers
    )
)
"""Networks that are not machines on the internet, whatever this version of Python says of them."""
AZURE = ipaddress.ip_address("168.63.129.16")
"""A public address under which machines of Azure reach the services of their host."""
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?")
_NUMBER = re.compile(r"0[xX][0-9A-Fa-f]*|[0-9]+")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Target:
    """Where a request goes."""

    scheme: str
    host: str
    """For the header `Host` and for TLS."""
    port: int
    path: str
    """With the query."""
    literal: Address | None
    """The host, where it is an IP address."""


def fetch(url: str, place: str, limit: int, seconds: float = SECONDS) -> bytes:
    """The content at an http(s) address.

    Args:
        url: the address.
        place: where the request names it, for errors.
        limit: most bytes.
        seconds: time limit.

    Raises:
        ApiError: the address is not allowed or does not answer, or its content is too large. The message tells nothing
            about what is at an address that is not allowed.
    """
    deadline = time.monotonic() + seconds
    for _ in range(REDIRECTS + 1):
        target = target_of(url, place)
        address = resolved(target, place)
        status, moved, content = _get(target, address, place, limit, deadline)
        if moved is None:
            if status != 200:
                raise _refused(place, f"the server of {target.host} answered with status {status}", "fetch_failed")
            return content
        following = urljoin(url, moved)
        if target.scheme == "https" and following[:6].lower() != "https:":
            raise _refused(place, "it redirects from https to an address without encryption")
        url = following
    raise _refused(place, f"it redirects more than {REDIRECTS} times", "fetch_failed")


def target_of(url: str, place: str) -> Target:
    """The parts of an address, in the one form that no two programs read in different ways.

    Raises:
        ApiError: another scheme or port; credentials; a host that is a number in another form than `192.0.2.1`.
    """
    if len(url) > 8192 or not url.isascii() or any(c <= " " or c in '\\\x7f<>"`{}|^' for c in url):
        raise _refused(place, "it is too long, or has characters that must be written as %XX or in Punycode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _refused(place, "it is malformed") from None
    if parts.scheme not in PORTS:
        raise _refused(place, f"the scheme {parts.scheme[:20]!r} is not http or https")
    if "@" in parts.netloc:
        raise _refused(place, "it contains credentials")
    literal = _literal(parts, place)
    host = parts.hostname or ""
    if literal is None and (host.rstrip(".").rpartition(".")[2] in LOCAL_NAMES or "." not in host.rstrip(".")):
        raise _refused(place, "its host is no public name")
    allowed = PORTS[parts.scheme]
    if port is not None and port not in allowed:
        raise _refused(place, f"the port {port} is not one of {', '.join(map(str, allowed))}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, allowed[0] if port is None else port, path, literal)


def _literal(parts: SplitResult, place: str) -> Address | None:
    """The host as an IP address; None: it is a name."""
    host = parts.hostname or ""
    if parts.netloc.startswith("["):
        try:
            return ipaddress.IPv6Address(host)  # with a zone (`fe80::1%eth0`) it is not global
        except ValueError:
            raise _refused(place, "its host is no IPv6 address") from None
    if len(host) > 253 or not _HOST.fullmatch(host):
        raise _refused(place, "its host is missing or malformed")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):  # no public name ends with a number
        try:
            return ipaddress.IPv4Address(host)  # refuses decimal, octal, hexadecimal and short forms
        except ValueError:
            raise _refused(place, "its host is a number that is not of the form 192.0.2.1") from None
    return None


def resolved(target: Target, place: str) -> Address:
    """The address to connect to: the first that the host has, if all of them are public.

    Raises:
        ApiError: the host does not exist, or one of its addresses is not public.
    """
    if target.literal is not None:
        addresses = [target.literal]
    else:
        try:
            entries = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise _refused(place, f"there is no host {target.host}", "fetch_failed") from None
        addresses = [ipaddress.ip_address(str(entry[4][0])) for entry in entries]
    if not addresses or not all(map(is_public, addresses)):
        raise _refused(place, "its host is not a public address")
    return addresses[0]


def is_public(address: Address) -> bool:
    """Whether an address belongs to a machine on the internet, and reaches no other one by translation."""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return False
    if any(address.version == network.version and address in network for network in NETWORKS):
        return False
    special = (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )
    return address.is_global and not special and address != AZURE


class _Connection(http.client.HTTPConnection):
    """A connection to an address that is already checked; the host's name is used for `Host` and TLS alone."""

    def __init__(self, target: Target, address: Address, timeout: float) -> None:
        host = f"[{target.host}]" if ":" in target.host else target.host
        super().__init__(host, target.port, timeout=timeout)
        self._target, self._address = target, address
        self._opened: socket.socket | None = None
        """Kept, because the base class forgets the socket once a response without a length begins."""

    def connect(self) -> None:
        """Open it; no proxy of the environment is asked."""
        self.sock = self._opened = socket.create_connection((str(self._address), self._target.port), self.timeout)
        if self._target.scheme == "https":
            context = ssl.create_default_context()
            self.sock = self._opened = context.wrap_socket(self.sock, server_hostname=self._target.host)

    def shut(self) -> None:
        """End it from another thread; whoever reads gets an error or the end of the content."""
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


def _get(target: Target, address: Address, place: str, limit: int, deadline: float) -> tuple[int, str | None, bytes]:
    """Status, address of a redirect, and content of one request."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise _refused(place, "it did not answer in time", "fetch_failed")
    connection = _Connection(target, address, left)
    # a server that sends one byte a second passes every timeout of a socket
    timer = threading.Timer(left, connection.shut)
    timer.daemon = True
    timer.start()
    try:
        default = target.port == PORTS[target.scheme][0]
        host = f"[{target.host}]" if ":" in target.host else target.host
        connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host if default else f"{host}:{target.port}")
        connection.putheader("User-Agent", "omnivit")
        connection.putheader("Accept-Encoding", "identity")
        connection.endheaders()
        response = connection.getresponse()
        moved = response.headers.get("Location") if response.status in (301, 302, 303, 307, 308) else None
        if moved is not None or response.status != 200:
            return response.status, moved, b""
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _refused(place, "its content is compressed, which was not asked for", "fetch_failed")
        return 200, None, _content(response.read1, response.headers.get("Content-Length", ""), place, limit, deadline)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = time.monotonic() >= deadline
        reason = "it did not answer in time" if late else f"the connection failed ({type(error).__name__})"
        raise _refused(place, reason, "fetch_failed") from error
    finally:
        timer.cancel()
        connection.close()


def _content(read: Callable[[int], bytes], length: str, place: str, limit: int, deadline: float) -> bytes:
    """The body, if it is not larger than the limit."""
    if length.isdigit() and int(length) > limit:
        raise ApiError(f"{place}: the file is larger than {limit / 1e6:g} MB.", 413, place, "media_too_large")
    chunks, size = list[bytes](), 0
    while chunk := read(65536):
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            raise ApiError(f"{place}: the file is larger than {limit / 1e6:g} MB.", 413, place, "media_too_large")
    if time.monotonic() >= deadline or (length.isdigit() and size < int(length)) or not size:
        raise _refused(place, "its content is empty or cut short", "fetch_failed")
    return b"".join(chunks)


def _refused(place: str, reason: str, code: str = "address_not_allowed") -> ApiError:
    return ApiError(f"{place} is not fetched: {reason}.", 400, place, code)
