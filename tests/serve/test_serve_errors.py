"""What the server refuses: every error has OpenAI's form, the right status, and the name of the field."""

from __future__ import annotations

import http.server
import json
import os
from pathlib import Path
from typing import Any

import pytest
from serve_support import Answer, Server, another, asked, chat, data_url, send
from site_support import public_site

from omnivit.serve.schema import NEUTRAL, REFUSED

IMAGE = "messages[0].content[0].image"
STRANGE: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0.5, -2),
    "presence_penalty": (1,),
    "logit_bias": ({"50256": -100},),
    "tools": ([{"type": "function", "function": {"name": "f"}}],),
    "functions": ([{"name": "f"}],),
    "tool_choice": ("required", {"type": "function", "function": {"name": "f"}}),
    "function_call": ({"name": "f"},),
    "modalities": (["text", "audio"],),
    "response_format": ({"type": "json_object"}, {"type": "json_schema", "json_schema": {}}),
    "reasoning_effort": ("high",),
    "verbosity": ("low",),
    "audio": ({"voice": "alloy", "format": "wav"},),
    "prediction": ({"type": "content", "content": "x"},),
    "web_search_options": ({},),
}
"""Field -> values that would change the answer."""


def image(source: Any) -> dict[str, Any]:
    return {"type": "image", "image": source}


def text_of(answer: Answer) -> str:
    assert answer.status == 200, answer.content
    return str(json.loads(answer.content)["choices"][0]["message"]["content"])


def test_fields_that_would_change_the_answer_are_refused_by_name(server: Server) -> None:
    assert STRANGE.keys() == REFUSED.keys()
    for name, values in STRANGE.items():
        for value in values:
            refusal = chat(server.url, **{name: value})
            assert refusal.status == 400, name
            assert refusal.error["param"] == name and refusal.error["code"] == "unsupported_parameter"
            assert refusal.error["message"].startswith(f"{name} is not supported: {REFUSED[name]}")
    plain = text_of(chat(server.url))
    for name, values in NEUTRAL.items():
        for value in values:
            assert text_of(chat(server.url, **{name: value})) == plain, name


@pytest.mark.parametrize(
    ("fields", "status", "param", "code", "message"),
    [
        ({"model": "gpt"}, 404, "model", "model_not_found", "no model 'gpt'; Available: any"),
        ({"model": None}, 400, "model", "invalid_value", "valid string"),
        ({"messages": []}, 400, "messages", "invalid_value", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", "invalid_value", "'system'"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", None, "content is missing"),
        ({"messages": [{"role": "user", "content": []}]}, 400, "messages[0].content", None, "empty list"),
        ({"messages": [{"role": "user", "content": "x", "rule": 1}]}, 400, "messages[0].rule", "unknown_field", "role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages[0].role", None, "must end with"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages", "invalid_content", "Unicode"),
        ({"messages": asked({"type": "image_ur"})}, 400, "messages[0].content[0].type", "unknown_part_type", "did you"),
        ({"messages": asked({"text": "x"})}, 400, "messages[0].content[0].type", "unknown_part_type", "Available"),
        ({"messages": asked(image({"uri": "x"}))}, 400, f"{IMAGE}", None, "no field 'uri'"),
        ({"messages": asked(image({}))}, 400, IMAGE, None, "exactly one of `url`"),
        ({"messages": asked(image({"file_id": "f-1"}))}, 400, IMAGE, None, "file_id is not supported"),
        ({"messages": asked(image("data:;base64,?"))}, 400, IMAGE, "invalid_media", "base64"),
        ({"messages": asked(image("data:;base64,"))}, 400, IMAGE, "invalid_media", "0 bytes"),
        ({"messages": asked(image("data:;base64,AAAA"))}, 400, "messages", "invalid_content", "not an image"),
        ({"messages": asked(image("\ud800.png"))}, 400, IMAGE, "path_not_allowed", "inside the server's media folder"),
        ({"messages": asked(image("http://a.example/"))}, 400, IMAGE, "fetching_disabled", "--fetch"),
        ({"messages": asked(text="x" * 600)}, 400, "messages", "context_length_exceeded", "context is 512"),
        ({"max_tokens": 10**40}, 400, "messages", "context_length_exceeded", "context of 512"),
        ({"max_tokens": 0}, 400, "max_tokens", "invalid_value", "greater than or equal to 1"),
        ({"max_tokens": "2"}, 400, "max_tokens", "invalid_value", "valid integer"),
        ({"max_completion_tokens": 3}, 400, "max_tokens", None, "differ"),
        ({"temperature": 2.5}, 400, "temperature", "invalid_value", "less than or equal to 2"),
        ({"temperature": float("nan")}, 400, "temperature", "invalid_value", "finite"),
        ({"top_p": 0}, 400, "top_p", "invalid_value", "greater than 0"),
        ({"seed": 2**63}, 400, "seed", "invalid_value", "less than or equal to"),
        ({"n": 9}, 400, "n", None, "at most 8 answers"),
        ({"stop": list("abcde")}, 400, "stop", None, "at most 4"),
        ({"stop": ""}, 400, "stop", None, "empty"),
        ({"top_logprobs": 2}, 400, "top_logprobs", None, "needs `logprobs: true`"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "invalid_value", "less than or equal to 20"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None, "needs `stream: true`"),
        ({"stream": True, "stream_options": {"usage": True}}, 400, "stream_options.usage", "unknown_field", "include_"),
        ({"temprature": 1}, 400, "temprature", "unknown_field", "did you mean 'temperature'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_refusal_names_its_field(
    server: Server, fields: dict[str, Any], status: int, param: str, code: str | None, message: str
) -> None:
    refusal = chat(server.url, **fields)
    assert refusal.status == status, refusal.content
    assert (refusal.error["param"], refusal.error["code"]) == (param, code) and message in refusal.error["message"]
    assert "Traceback" not in refusal.error["message"] and str(server.media["image"].parent) not in str(refusal.content)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"[", {}),
        (b"[]", {}),
        (b"null", {}),
        (b"\xff\xfe", {}),
        (b'{"messages":' + b"[" * 100_000, {}),
        (b'{"max_tokens":' + b"9" * 5000 + b"}", {}),
        (b'{"model": "any"}', {"Content_Type": "text/plain"}),
        (b"\x1f\x8b\x08\x00", {"Content_Encoding": "gzip"}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_no_request_is_refused(server: Server, body: bytes, headers: dict[str, str]) -> None:
    assert send(server.url, "/v1/chat/completions", body, **headers).error["type"] == "invalid_request_error"


def test_errors_of_paths_methods_and_strangers(server: Server) -> None:
    assert "/nope" in send(server.url, "/nope", method="GET").error["message"]
    wrong = send(server.url, "/v1/models", b"", method="DELETE")
    assert wrong.status == 405 and wrong.headers["allow"] == "GET" and "takes GET" in wrong.error["message"]
    assert send(server.url, "/v1/models/gpt", method="GET").error["code"] == "model_not_found"
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert send(server.url, "/v1/models", method="GET", **headers).status == 403
    with another(server, api_key="secret") as guarded:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s\xe9cret"}):
            for path, method in (("/v1/models", "GET"), ("/v1/chat/completions", "POST"), ("/metrics", "GET")):
                refusal = send(guarded.url, path, None if method == "GET" else {}, method, **headers)
                assert refusal.status == 401 and refusal.error["code"] == "invalid_api_key"
                assert refusal.headers["www-authenticate"] == "Bearer" and "secret" not in str(refusal.content)
        right = send(guarded.url, "/v1/models", method="GET", Authorization="Bearer secret", Host="any.example")
        assert right.status == 200
        assert send(guarded.url, "/healthz", method="GET").status == 200


def test_paths_are_read_from_the_media_folder_alone(server: Server, tmp_path: Path) -> None:
    root, outside = tmp_path / "media", tmp_path / "outside.png"
    root.mkdir()
    outside.write_bytes(server.media["image"].read_bytes())
    (root / "a.png").write_bytes(outside.read_bytes())
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "out.png").symlink_to(outside)
    (root / "folder").symlink_to(tmp_path)
    (root / "large.png").write_bytes(bytes(1_100_000))
    (root / "empty.png").touch()
    os.mkfifo(root / "pipe.png")
    expected = text_of(chat(server.url, messages=asked(image(data_url(outside)))))
    with another(server, media_root=root, max_media_mb=1) as rooted:

        def answer(path: str) -> Answer:
            return chat(rooted.url, messages=asked(image(path)))

        for path in ("a.png", "inside.png", str(root / "a.png"), f"file://{root}/a.png", "file:a.png", "./a.png"):
            assert text_of(answer(path)) == expected, path
        links = ("out.png", "folder/outside.png", "folder/media/../outside.png", f"file://{root}/out.png")
        for path in (*links, "../outside.png", str(outside), f"file://{outside}", "file://host/a.png", "..", ".", "/"):
            refusal = answer(path)
            assert refusal.status == 400 and refusal.error["code"] == "path_not_allowed", path
            assert "outside.png" not in refusal.error["message"] or "outside.png" in path, "what a link leads to"
        for path in ("missing.png", "empty.png", "pipe.png", "a.png/b.png"):
            refusal = answer(path)
            assert refusal.status == 400 and refusal.error["code"] == "invalid_media", path
            assert refusal.error["param"] == IMAGE and str(tmp_path) not in refusal.error["message"]
        refusal = answer("large.png")
        assert refusal.status == 413 and refusal.error["code"] == "media_too_large"
    with another(server) as plain:
        for path in ("a.png", str(outside), f"file://{outside}"):
            refusal = chat(plain.url, messages=asked(image(path)))
            assert refusal.status == 400 and refusal.error["code"] == "paths_disabled"
            assert "--media-root" in refusal.error["message"]


def test_addresses_are_fetched_through_the_guarded_function(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[str] = []
    content = server.media["image"].read_bytes()

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.2/a.png")
            elif self.path == "/missing":
                self.send_response(404)
            else:
                self.send_response(200)
            self.end_headers()
            self.wfile.write(bytes(1_100_000) if self.path == "/large" else content)

        def log_message(self, *_: Any) -> None:
            """Be quiet."""

    expected = text_of(chat(server.url, messages=asked(image(data_url(server.media["image"])))))
    with public_site(monkeypatch, Site) as site, another(server, fetch=True, max_media_mb=1) as fetching:
        assert text_of(chat(fetching.url, messages=asked(image(f"{site}/a.png")))) == expected
        assert requests == ["/a.png"]
        for path, status, code in (
            ("/large", 413, "media_too_large"),
            ("/missing", 400, "fetch_failed"),
            ("/moved", 400, "address_not_allowed"),
        ):
            refusal = chat(fetching.url, messages=asked(image(site + path)))
            assert (refusal.status, refusal.error["code"], refusal.error["param"]) == (status, code, IMAGE)
        requests.clear()
        inside = fetching.url.replace("127.0.0.1", "127.0.0.2")
        for url in (f"{inside}/healthz", "http://localhost/", "http://169.254.169.254/", "http://10.0.0.1/"):
            refusal = chat(fetching.url, messages=asked(image(url)))
            assert refusal.status == 400 and refusal.error["code"] == "address_not_allowed", url
        assert requests == []
    with public_site(monkeypatch, Site) as site:
        assert chat(server.url, messages=asked(image(f"{site}/a.png"))).error["code"] == "fetching_disabled"
    assert requests == []
