"""HTTP to vLLM: its models, and completions as streams of events. Knows no tensors.

`http.client` is used because a thread that waits for an event must be woken by another one: the socket is shut down.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from omnivit.errors import OmniVitError, suggest
from omnivit.serve.vllm.address import BACKEND_KEY_VARIABLE, REMEDY, Address

COMPLETIONS = "/v1/completions"
CONNECT = 10.0
"""Seconds for a connection."""
WAIT = 600.0
"""Seconds until the next event; vLLM may let a request wait while others run."""
MOST = 2**24
"""Bytes of the longest line or body that is read."""


class BackendError(OmniVitError):
    """vLLM cannot be reached, refuses a request, or breaks off.

    Args:
        message: what failed, where, and what to do.
        status: of vLLM's response; None: there was none.
    """

    exit_status = 1

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A server of vLLM. Every request has a connection of its own, so that any number of threads may ask."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def model(self) -> dict[str, Any]:
        """The record of the model that is asked, with `id` and, from vLLM, `max_model_len`.

        Raises:
            BackendError: vLLM cannot be reached, or has no such model.
        """
        with closing(self._answer("GET", "/v1/models", None)) as answer:
            content = answer.json()
        records = content.get("data") if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(each, dict) and "id" in each for each in records):
            raise BackendError(
                f"{self.address.base}/v1/models returned no list of models. Is it a server of vLLM? {REMEDY}"
            )
        named: dict[str, dict[str, Any]] = {str(record["id"]): record for record in records}
        name = self.address.model
        if name is None and len(named) == 1:
            return next(iter(named.values()))
        if name is None:
            raise BackendError(
                f"vLLM at {self.address.base} serves {len(named)} models: {', '.join(named) or 'none'}. Name one by "
                f"--backend-model."
            )
        if name not in named:
            raise BackendError(f"vLLM at {self.address.base} has no model {name!r}; {suggest(name, named)}")
        return named[name]

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response to `/v1/completions`. Raises BackendError."""
        with closing(self._answer("POST", COMPLETIONS, body)) as answer:
            content = answer.json()
        if not isinstance(content, dict) or not content.get("choices"):
            raise BackendError(f"vLLM at {self.address.base} answered a completion without choices.")
        return content

    def stream(self, body: Mapping[str, Any]) -> Answer:
        """The events of a completion: iterate over it. The request is sent then."""
        return self._answer("POST", COMPLETIONS, {**body, "stream": True})

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        return Answer(self.address, method, path, None if body is None else json.dumps(body).encode())


class Answer:
    """A request to vLLM, and its response while it arrives."""

    def __init__(self, address: Address, method: str, path: str, body: bytes | None) -> None:
        self._address, self._method, self._path, self._body = address, method, path, body
        self._connection = _connection(address.base)
        self._socket: socket.socket | None = None
        self._response: http.client.HTTPResponse | None = None
        self._lock = threading.Lock()
        self._closed = False

    def json(self) -> Any:
        """The body. Raises BackendError."""
        with self._named("gave no complete answer"):
            return json.loads(self._opened().read(MOST))
        raise self._ended()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events until the end of the answer; fewer where `close` was called.

        Raises:
            BackendError: vLLM cannot be reached, refuses the request, reports an error, or the connection broke.
        """
        with self._named("broke off an answer"):
            response = self._opened()
            while line := response.readline(MOST):
                content = line.strip().removeprefix(b"data:").strip()
                if content == b"[DONE]":
                    return
                if line.startswith(b"data:"):
                    yield self._event(content)
        if not self._closed:
            raise self._ended()

    def close(self) -> None:
        """End it; vLLM then stops the request. A thread that waits for an event sees the end."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)
        if self._response is not None:
            with suppress(OSError, http.client.HTTPException):
                self._response.close()
        self._connection.close()

    def _opened(self) -> http.client.HTTPResponse:
        """The response, of status 200, once its head is there."""
        headers = {"Content-Type": "application/json"}
        if self._address.key is not None:
            headers["Authorization"] = f"Bearer {self._address.key}"
        try:
            self._connect()
            path = urlsplit(self._address.base).path + self._path
            self._connection.request(self._method, path, self._body, headers)
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if self._response.status != 200:
            raise self._refusal(self._response)
        return self._response

    def _connect(self) -> None:
        self._connection.connect()
        with self._lock:
            self._socket = self._connection.sock
            self._socket.settimeout(WAIT)
            if self._closed:
                raise ConnectionAbortedError("the request was cancelled")

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Errors of the connection as those of vLLM; none after `close`, which causes them."""
        try:
            yield
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            # http.client raises the last two where another thread has closed the response
            if not self._closed:
                raise BackendError(f"vLLM at {self._address.base} {what}: {_words(error)}.") from error
        except BackendError:
            if not self._closed:
                raise

    def _event(self, content: bytes) -> dict[str, Any]:
        event = json.loads(content)
        if not isinstance(event, dict) or "error" in event:
            raise BackendError(f"vLLM at {self._address.base} broke off an answer: {_reason(None, content.decode())}")
        return event

    def _refusal(self, response: http.client.HTTPResponse) -> BackendError:
        text = response.read(MOST).decode("utf-8", "replace")
        reason = _reason(response.status, text)
        return BackendError(f"vLLM at {self._address.base} refused a request: {reason}", response.status)

    def _unreachable(self, error: Exception) -> BackendError:
        return BackendError(f"vLLM at {self._address.base} cannot be reached: {_words(error)}. {REMEDY}")

    def _ended(self) -> BackendError:
        return BackendError(
            f"vLLM at {self._address.base} ended an answer before it was complete. Its log has the reason."
        )


def _connection(base: str) -> http.client.HTTPConnection:
    parts = urlsplit(base)
    assert parts.hostname is not None
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=CONNECT, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=CONNECT)


def _reason(status: int | None, text: str) -> str:
    """vLLM's message in a body, and what to do."""
    message = text.strip()
    with suppress(ValueError, AttributeError):
        content = json.loads(text)
        error = content.get("error", content.get("detail", content))
        message = str(error.get("message", error) if isinstance(error, dict) else error)
    message = message[:500].rstrip(".") or "no reason is given"
    head = f"{message} (status {status})." if status is not None else f"{message}."
    if status in (401, 403):
        return f"{head} Give its API key by the variable {BACKEND_KEY_VARIABLE} or by --backend-key."
    return f"{head} {REMEDY}" if "enable-prompt-embeds" in text else head


def _words(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
