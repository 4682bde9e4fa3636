"""What the server does at its limits: requests, time, bodies and media; and when it stops."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from serve_support import Answer, Server, another, asked, chat, listening, send, slow_steps, until
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from omnivit.run.assistant import Assistant
from omnivit.serve import running
from omnivit.serve.app import create_app
from omnivit.serve.gate import Gate
from omnivit.serve.settings import Settings

SMALL = {"max_body_mb": 2, "max_media_mb": 1}


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@contextmanager
def held(server: Server, count: int, pool: ThreadPoolExecutor) -> Iterator[list[Future[Answer]]]:
    """Requests that all wait, because the model is in use until the end of the block."""
    with server.assistant.engine.exclusive():
        futures = [pool.submit(chat, server.url) for _ in range(count)]
        until(lambda: server.assistant.engine.stats()["waiting"] == count)
        yield futures


def test_a_full_server_refuses_before_it_reads_the_media(server: Server) -> None:
    broken = asked({"type": "image", "image": "data:;base64,AAAA"})
    with another(server, slots=2, queue=2) as full, ThreadPoolExecutor(4) as pool:
        with held(full, 3, pool) as waiting:
            assert chat(full.url, n=2).status == 429, "one place is free"
            waiting.append(pool.submit(chat, full.url))
            until(lambda: full.assistant.engine.stats()["waiting"] == 4)
            refusal = chat(full.url, messages=broken)
            assert refusal.status == 429 and refusal.headers["retry-after"] == "1"
            assert refusal.error["code"] == "queue_full" and "4 of 4 places" in refusal.error["message"]
            with pytest.raises(openai.RateLimitError, match="queue is full"):
                client_of(full).chat.completions.create(model="any", messages=asked())
            assert send(full.url, "/v1/models", method="GET").status == 200, "other routes answer"
        assert [future.result(30).status for future in waiting] == [200] * 4
        assert chat(full.url, messages=broken).status == 400 and chat(full.url, n=4).status == 200
        refusal = chat(full.url, n=5)
        assert refusal.status == 400 and refusal.error["param"] == "n" and "at most 4" in refusal.error["message"]


def test_of_a_hundred_requests_those_with_a_place_are_answered_and_none_hangs(server: Server) -> None:
    with another(server, slots=8, queue=56) as busy, ThreadPoolExecutor(100) as pool:
        with busy.assistant.engine.exclusive():
            futures = [pool.submit(chat, busy.url) for _ in range(100)]
            until(lambda: sum(future.done() for future in futures) == 36)
            until(lambda: busy.assistant.engine.stats()["waiting"] == 64)
            assert {future.result().status for future in futures if future.done()} == {429}
        answers = [future.result(60) for future in futures]
        assert sorted(answer.status for answer in answers) == [200] * 64 + [429] * 36
        bodies = [json.loads(answer.content) for answer in [*answers, chat(busy.url)] if answer.status == 200]
        texts = {body["choices"][0]["message"]["content"] for body in bodies}
        assert len(bodies) == 65 and len(texts) == 1, "in any company the same answer"


def test_a_request_that_takes_too_long_is_stopped(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_steps(monkeypatch)
    with another(server, timeout_s=0.3) as slow:
        engine = slow.assistant.engine
        begun = time.monotonic()
        late = chat(slow.url, max_tokens=450)
        assert late.status == 504 and time.monotonic() - begun < 5
        assert late.error["code"] == "timeout" and "--timeout" in late.error["message"]
        until(lambda: engine.stats()["running"] == 0, seconds=5)
        with engine.exclusive():  # also while it waits
            assert chat(slow.url).error["code"] == "timeout" and engine.stats()["waiting"] == 0
        stream = client_of(slow).chat.completions.create(model="any", messages=asked(), max_tokens=450, stream=True)
        texts: list[str] = []
        with pytest.raises(openai.APIError, match=r"not complete within 0\.3 seconds"):
            texts.extend(chunk.choices[0].delta.content or "" for chunk in stream)
        assert "".join(texts), "what came in time was sent"
        until(lambda: engine.stats()["running"] == 0, seconds=5)
        tokens = engine.stats()["tokens"]
        time.sleep(0.2)
        assert engine.stats()["tokens"] == tokens < 60, "nothing is generated for nobody"


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    async def size(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/", size, methods=["POST"])])
    app.add_middleware(Gate, settings=Settings(), counted=lambda *_: None, body_seconds=0.05)
    with listening(app) as (url, _):
        assert send(url, "/", b"quick").content == b"5"
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nslow")
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == 408
            error = json.loads(response.read())["error"]
    assert error["type"] == "timeout_error" and "within 0.05 seconds" in error["message"]


def test_bodies_and_media_have_limits(server: Server) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = "data:image/png;base64," + "A" * 1_400_000
    large = {"type": "image_url", "image_url": {"url": content}}
    with another(server, max_media=2, **SMALL) as small:
        many = chat(small.url, messages=[*asked(image, image), *asked(image)])
        assert many.status == 400 and many.error["code"] == "too_many_media" and "--max-media" in many.error["message"]
        refusal = chat(small.url, messages=asked(large))
        assert refusal.status == 413 and refusal.error["code"] == "media_too_large"
        assert refusal.error["param"] == "messages[0].content[0].image_url" and "1 MB" in refusal.error["message"]
        half = content[:800_022]
        together = {"type": "video", "video": {"url": [half, half]}}
        refusal = chat(small.url, messages=asked(together))
        assert refusal.status == 413 and refusal.error["code"] == "media_too_large", "files of one medium"
        many = chat(small.url, messages=asked({"type": "video", "video": {"url": ["data:;base64,AA=="] * 4097}}))
        assert many.status == 400 and "at most 4096" in many.error["message"]
        refusal = chat(small.url, messages=asked(large, large))
        assert refusal.status == 413 and refusal.error["code"] == "body_too_large"
        with pytest.raises(openai.APIStatusError, match="larger than 2 MB") as failure:
            client_of(small).chat.completions.create(model="any", messages=asked(text="x" * 9_000_000))
        assert failure.value.status_code == 413


def test_an_answer_that_a_slow_medium_keeps_waiting_holds_no_other_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More slow addresses than any fixed number of threads: each request that is let in has one."""
    leave = threading.Event()

    def slow(*_: Any) -> bytes:
        assert leave.wait(30)
        return server.media["image"].read_bytes()

    monkeypatch.setattr("omnivit.serve.completions.fetch", slow)
    question = asked({"type": "image", "image": "http://slow.example/a.png"})
    with another(server, fetch=True, slots=4, queue=8, timeout_s=60) as fetching, ThreadPoolExecutor(11) as pool:
        waiting = [pool.submit(chat, fetching.url, messages=question) for _ in range(11)]
        begun = time.monotonic()
        until(lambda: chat(fetching.url).status == 200 and chat(fetching.url, n=2).status == 429)
        assert time.monotonic() - begun < 20 and not any(future.done() for future in waiting)
        leave.set()
        assert [future.result(30).status for future in waiting] == [200] * 11


def test_a_client_that_leaves_while_its_media_are_read_keeps_its_place_until_then(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, begun = threading.Event(), threading.Event()

    def slow(*_: Any) -> bytes:
        begun.set()
        assert leave.wait(30)
        return server.media["image"].read_bytes()

    monkeypatch.setattr("omnivit.serve.completions.fetch", slow)
    body = json.dumps({"model": "any", "messages": asked({"type": "image", "image": "http://slow.example/a.png"})})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with another(server, fetch=True, slots=1, queue=0) as fetching:
        host, _, port = fetching.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
            assert begun.wait(10)
        time.sleep(0.5)
        assert chat(fetching.url).status == 429
        leave.set()
        until(lambda: chat(fetching.url).status == 200, seconds=10)
        assert 'status="499"' in send(fetching.url, "/metrics", method="GET").content.decode()


def test_answers_get_time_when_the_server_stops_and_then_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_steps(monkeypatch)
    monkeypatch.setattr(running, "GRACE", 0.5)
    model = server.assistant
    app = create_app(assistant := Assistant(model.model, model.preparer, model.recipe), Settings(name="any"))
    with listening(app) as (url, web), ThreadPoolExecutor(3) as pool:
        quick = pool.submit(chat, url, max_tokens=8)
        long = pool.submit(chat, url, max_tokens=450)
        stream = pool.submit(chat, url, max_tokens=450, stream=True)
        until(lambda: assistant.engine.stats()["running"] == 3)
        web.should_exit = True
        assert quick.result(10).status == 200
        refusal = long.result(10)
        assert refusal.status == 503 and refusal.error["code"] == "stopping" and refusal.headers["retry-after"] == "1"
        last = stream.result(10).content.decode().strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "stopping"
        until(lambda: assistant.engine.stats()["running"] == 0, seconds=5)
    with pytest.raises(ConnectionRefusedError):
        chat(url)


def test_a_server_that_has_closed_its_engine_says_so(server: Server) -> None:
    model = server.assistant
    app = create_app(Assistant(model.model, model.preparer, model.recipe), Settings(name="any"))
    with listening(app) as (url, _):
        app.state.close()
        for stream in (False, True):
            refusal = chat(url, stream=stream)
            assert refusal.status == 503 and refusal.error["code"] == "stopping" and refusal.headers["retry-after"]
        app.state.close()
        assert send(url, "/healthz", method="GET").status == 200
