"""A server of the test's own process: a real uvicorn on a free port, over a model with every kind of input."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn
from modalities_support import RECIPE, write_media
from torch import Tensor

from omnivit.engine import AnyEngine
from omnivit.engine.row import Row
from omnivit.engine.running import Running
from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load as load_recipe
from omnivit.run.assistant import Assistant
from omnivit.serve.app import create_app
from omnivit.serve.failures import KINDS
from omnivit.serve.running import bound, server_of
from omnivit.serve.settings import Settings

TOKENS = 8


@dataclass
class Server:
    """A running server."""

    url: str
    assistant: Assistant
    media: dict[str, Path]
    """Slot -> a file."""


def make_assistant(root: Path) -> tuple[Assistant, dict[str, Path]]:
    """A model with the inputs of `modalities_support`, whose random weights give an answer of its own to each prompt;
    and a file for each input."""
    media = {slot: root / name for slot, name in write_media(root, "m", 1).items()}
    recipe = root / "any.yaml"
    recipe.write_text(RECIPE.replace("DATA", str(root)), encoding="utf-8")
    loaded = load_recipe(recipe)
    model = load_model(loaded)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith("llm.") and value.ndim > 1:
                value.normal_(0, 0.3)
    return Assistant(model, preparer_of(model, loaded), loaded), media


@contextmanager
def serving(assistant: Assistant, settings: Settings, engine: AnyEngine | None = None) -> Iterator[str]:
    """The address of a server in a thread, which ends with the block."""
    with listening(create_app(assistant, settings, engine)) as (url, _):
        yield url


@contextmanager
def listening(app: Any) -> Iterator[tuple[str, uvicorn.Server]]:
    """An app in a web server as `omnivit serve` makes it, in a thread that ends with the block."""
    with bound("127.0.0.1", 0) as place:
        server = server_of(app, log_level="critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{place.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def another(server: Server, **settings: Any) -> Iterator[Server]:
    """A server with other settings, over the same model with an engine of its own; only one of them may be asked."""
    assistant = Assistant(server.assistant.model, server.assistant.preparer, server.assistant.recipe)
    with serving(assistant, Settings(**{"name": "any", **settings})) as url:
        yield Server(url, assistant, server.media)


@dataclass(frozen=True)
class Answer:
    """An answer of a server."""

    status: int
    headers: Message
    content: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, which must have OpenAI's form."""
        body = json.loads(self.content)
        assert list(body) == ["error"] and list(body["error"]) == ["message", "type", "param", "code"], body
        assert body["error"]["message"] and body["error"]["type"] == KINDS[self.status][0]
        assert self.headers["content-type"] == "application/json" and self.headers["x-request-id"]
        return dict(body["error"])


def send(url: str, path: str, body: Any = None, method: str = "POST", **headers: str) -> Answer:
    """Send a request: bytes as they are, other bodies as JSON. In the names of headers, `_` stands for `-`."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    sent = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, None if body is None else content, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def chat(url: str, **fields: Any) -> Answer:
    """Ask for an answer; `fields` of the request replace those of a short question."""
    return send(url, "/v1/chat/completions", {"model": "any", "messages": asked(), "max_tokens": 2, **fields})


def slow_steps(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.05) -> None:
    """Let every token take time, as with a large model."""
    step = Running.step

    def slow(self: Running) -> None:
        time.sleep(seconds)
        step(self)

    monkeypatch.setattr(Running, "step", slow)


def scripted(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> None:
    """Let the model choose these tokens, whatever it is asked; everything else stays as it is."""

    def adjusted(_: Running, rows: Sequence[Row], logits: Tensor) -> Tensor:
        scores = torch.full_like(logits, -1e9)
        for number, row in enumerate(rows):
            scores[number, ids[len(row.ids)]] = 0
        return scores

    monkeypatch.setattr(Running, "_adjusted", adjusted)


def until(condition: Any, seconds: float = 30.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.02)


def data_url(path: Path, mime: str = "application/octet-stream") -> str:
    """A file as a `data:` URL."""
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


def asked(*parts: dict[str, Any], text: str = "What is it?") -> list[Any]:
    """A conversation of one turn: parts, then a text."""
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]
