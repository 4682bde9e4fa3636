"""A hub id that cannot be had is an error at once, which says what to do; a cached copy is used where there is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from omnivit.errors import RecipeError
from omnivit.model import hub
from omnivit.model.weights import locate


class Refusing(BaseHTTPRequestHandler):
    """A hub that answers, whatever it says."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep quiet."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a hub where nothing listens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    probe = hub.unreachable
    probe.cache_clear()
    yield tmp_path / "hub"
    probe.cache_clear()


def test_what_cannot_be_had_is_an_error_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(RecipeError) as found:
        locate("organisation/model")
    assert time.monotonic() - began < hub.PATIENCE + 5
    for words in ("'organisation/model'", ":9 cannot be reached", "refused", "hf download organisation/"):
        assert words in str(found.value)


def test_offline_on_purpose_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "unreachable", lambda _: pytest.fail("the hub is asked"))
    with pytest.raises(RecipeError, match=r"\(HF_HUB_OFFLINE is set\).*Unset HF_HUB_OFFLINE"):
        locate("organisation/model")


def test_the_cached_copy_is_used_and_told(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = cache / "models--organisation--model" / "snapshots" / "0123"
    copy.mkdir(parents=True)
    (copy / "config.json").write_text("{}")
    (copy.parent.parent / "refs").mkdir()
    (copy.parent.parent / "refs" / "main").write_text("0123")
    assert locate("organisation/model") == locate("organisation/model") == copy
    assert caplog.text.count("the cached copy is used") == 1


def test_a_hub_that_answers_is_left_to_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        assert locate("organisation/model") == "organisation/model"
    finally:
        server.shutdown()
        server.server_close()
