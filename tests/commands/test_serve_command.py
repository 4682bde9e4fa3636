"""`omnivit serve` and `omnivit ui` as a user runs them: what they print, how they end, and what they refuse at once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from assistant_support import make_run
from process_support import descendants, left_of, started
from serve_support import asked, chat, data_url

from omnivit import cli
from omnivit.recipe import Recipe
from omnivit.serve.settings import KEY_VARIABLE


@pytest.fixture(autouse=True)
def in_the_foreground() -> Iterator[None]:
    """Processes that a test starts answer ctrl-C, although the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A verb that serves, the line that says where, and that address."""
    command = [sys.executable, "-m", "omnivit", *arguments, "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is printed must come by itself
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address, (line, process.communicate()[1])
        yield process, line, address[0]


def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str, str]:
    """Exit status and what else was printed, after a signal to the whole group, as a terminal sends it."""
    os.killpg(process.pid, number)
    output, error = process.communicate(timeout=60)
    return process.returncode, output, error


def page(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return str(response.read().decode())


@pytest.fixture
def run(load_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    return make_run(load_recipe(), tmp_path / "runs" / "tiny")


@pytest.mark.slow
def test_a_server_says_where_it_is_answers_and_ends_with_its_helpers(run: Path, data_root: Path) -> None:
    question = asked({"type": "image", "image": data_url(data_root / "red.png")})
    with serving("serve", str(run), "--device", "cpu") as (process, line, url):
        assert line.startswith("Serving tiny at http://127.0.0.1:") and "/v1" in line
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[0] == "  input image: parts of type image, image_url, input_image, file\n"
        assert lines[1].startswith(f"  curl {url}/v1/chat/completions ") and lines[2] == "Ctrl-C stops it.\n"
        shown = json.loads(lines[1].split(" -d ")[1].strip().strip("'"))
        assert shown == {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
        answer = chat(url, model="tiny", messages=question)
        assert answer.status == 200, answer.content
        helpers = descendants(process.pid)
        assert helpers, "the picture was decoded in a process of its own"
        status, output, error = ended(process, signal.SIGTERM)
        assert status == 128 + signal.SIGTERM
        assert error == f"Loading {run}: LLM llama with random weights, inputs image ...\nThe server has stopped.\n"
        assert "POST /v1/chat/completions" in output, "the access log"
        assert left_of(process.pid) == [] and not any(map(alive, helpers))


@pytest.mark.slow
def test_the_page_of_a_run_ends_by_ctrl_c_also_while_it_answers(run: Path) -> None:
    with serving("ui", str(run), "--no-browser", "--device", "cpu") as (process, line, url):
        assert line.startswith("Serving tiny at ") and "<!doctype html>" in page(url).lower()
        assert json.loads(page(f"{url}/v1/models"))["data"][0]["id"] == "tiny"
        host, _, port = url.removeprefix("http://").partition(":")
        body = json.dumps({"model": "tiny", "messages": asked(), "max_tokens": 900, "stream": True})
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            assert b" 200 OK" in connection.recv(100)
            status, _, error = ended(process, signal.SIGINT)
        assert status == 130 and error.endswith(" ...\nstopped by ctrl-C.\n") and "Traceback" not in error
        assert left_of(process.pid) == []


def test_the_desk_needs_no_model_and_ends_in_both_ways(run: Path) -> None:
    for number, status, text in (
        (signal.SIGTERM, 143, "The server has stopped.\n"),
        (signal.SIGINT, 130, "stopped by ctrl-C.\n"),
    ):
        with serving("ui", str(run.parent), "--no-browser") as (process, line, url):
            assert line.startswith("Comparing runs at ") and process.stdout is not None
            assert process.stdout.readline() == "Ctrl-C stops it.\n"
            assert "tiny" in page(f"{url}/desk/runs") and "<!doctype html>" in page(url).lower()
            assert ended(process, number)[::2] == (status, text)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one message of a verb that does not start; nothing is loaded before it."""
    assert cli.main(arguments) == 2
    output, error = capsys.readouterr()
    assert output == "" and error.startswith("error: ") and "Traceback" not in error and "Loading" not in error
    return error


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.mark.parametrize("verb", ["serve", "ui"])
def test_what_cannot_start_is_said_in_one_error(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*options: str, run: Path = run) -> str:
        return refused([verb, str(run), *(["--no-browser"] if verb == "ui" else []), *options], capsys)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} of 127.0.0.1 cannot be used" in (text := error("--port", port))
        assert "Choose another --port" in text
    for options, message in (
        (["--port", "99999"], "--port 99999 is no port"),
        (["--port", "-1"], "--port -1 is no port"),
        (["--host", "no.such.host.invalid", "--api-key", "k"], "is no address of this machine"),
        (["--host", "192.0.2.1", "--api-key", "k"], "cannot be used"),
        (["--host", "0.0.0.0"], f"variable {KEY_VARIABLE} or by --api-key"),
        (["--host", "::"], "or bind it to 127.0.0.1"),
        (["--api-key", " "], "The API key is empty"),
        (["--media-root", str(tmp_path / "none")], "is not a folder"),
        (["--slots", "0"], "slots is 0, but must be greater than 0"),
        (["--queue", "-1"], "queue is -1"),
        (["--timeout", "nan"], "timeout_s is nan"),
        (["--max-media-mb", "0"], "max_media_mb is 0"),
    ):
        assert message in error("--port", "0", *options), options
    absent = error(run=tmp_path / "runs" / "tinny")
    assert str(tmp_path / "runs" / "tinny") in absent
    with monkeypatch.context() as patch:
        for name in ("fastapi", "uvicorn"):
            patch.setitem(sys.modules, name, None)  # as if it were not installed
            assert 'pip install "omnivit[serve]"' in (text := error("--port", "0")) and name in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--checkpoint", "best"], "--checkpoint needs the model of a run, but"),
        (["--set", "data.root=x", "--device", "cpu"], "--device and --set need the model of a run, but"),
        (["--backend", "vllm", "--url", "http://127.0.0.1:9"], "--backend vllm needs the model of a run, but"),
    ],
)
def test_the_desk_refuses_options_that_only_a_model_can_follow(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(["ui", str(tmp_path), "--no-browser", *options], capsys)
    assert message in text and f"{tmp_path} is not a run folder. Give one." in text
