"""A server of the test's own process: a real uvicorn on a free port, over a model with every kind of input."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from modalities_support import RECIPE, write_media

from omnivit.model.build import load_model, preparer_of
from omnivit.recipe import load as load_recipe
from omnivit.run.assistant import Assistant
from omnivit.serve.app import create_app
from omnivit.serve.running import bound
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
def serving(assistant: Assistant, settings: Settings) -> Iterator[str]:
    """The address of a server in a thread, which ends with the block."""
    app = create_app(assistant, settings)
    with bound("127.0.0.1", 0) as place:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
        thread.start()
        until(lambda: server.started)
        yield f"http://127.0.0.1:{place.getsockname()[1]}"
        server.should_exit = True
        thread.join()


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
