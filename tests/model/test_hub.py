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


def test_a_folder_stands_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What OMNIVIT_HUB holds comes before folders here and the hub; what it lacks is looked for as before."""
    folder = tmp_path / "tiny"
    for place in (folder / "organisation" / "model", folder / "gpt2", tmp_path / "organisation" / "model"):
        place.mkdir(parents=True)
    file = folder / "organisation" / "model" / "projector.bin"
    file.touch()
    monkeypatch.setenv(hub.HUB_VARIABLE, str(folder))
    monkeypatch.setattr(hub, "unreachable", lambda _: pytest.fail("the hub is asked"))
    assert locate("organisation/model") == hub.on_hand("organisation/model") == folder / "organisation" / "model"
    assert locate("gpt2") == folder / "gpt2" and locate("organisation/model/projector.bin") == file
    (folder / "imagebind.pth").touch()
    assert locate("imagebind.pth") == folder / "imagebind.pth"
    assert locate("./organisation/model") == Path("organisation/model")
    monkeypatch.setattr(hub, "unreachable", lambda _: "nothing answers")
    for absent in ("organisation/absent", "organisation/model/absent.bin"):
        with pytest.raises(RecipeError, match=rf"'{absent}' is not a file.*it is not in OMNIVIT_HUB={folder}, the hub"):
            locate(absent)
    with pytest.raises(RecipeError, match=rf"or in OMNIVIT_HUB={folder}\), and it does not have the form"):
        locate("no hub id")
    monkeypatch.setenv(hub.HUB_VARIABLE, "absent")
    with pytest.raises(RecipeError, match="OMNIVIT_HUB is 'absent', but there is no such folder"):
        locate("gpt2")


def test_a_local_folder_in_the_form_of_an_id_is_used_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "organisation" / "local"
    place.mkdir(parents=True)
    assert locate("organisation/local") == Path("organisation/local")
    assert f"'organisation/local': {place} is used, not the model of this name on the hub" in caplog.text
    caplog.clear()
    assert locate(str(place)) == place and not caplog.text
