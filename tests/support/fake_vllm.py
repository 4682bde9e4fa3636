"""A small server that speaks as much of vLLM's `/v1/completions` as the backend needs: vLLM itself pins another torch.

It runs a transformers model over the embeddings that it gets, token by token. `bash .ci/bridges vllm` proves the same
against vLLM.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

KEY = "secret"


class FakeVllm:
    """What the server does, and what it has seen.

    Attributes:
        bodies: of the completions.
        left: completions whose client has left before the end.
        fault: `error`: a status of 400; `event`: an error in the stream; `cut`: the stream ends early; `hang`: no head.
        delay: seconds before each token.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.bodies: list[dict[str, Any]] = []
        self.left = 0
        self.fault = ""
        self.delay = 0.0
        self.url = ""

    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "half", "object": "model", "max_model_len": 400}]}

    def refusal(self, body: dict[str, Any]) -> str | None:
        """What vLLM answers with a status of 400."""
        table = self.model.get_input_embeddings().weight
        ids = body.get("prompt") or [0]
        if max(ids) >= len(table):
            return f"Token id {max(ids)} is out of vocabulary"
        if "prompt_embeds" in body and embeds_of(body).shape[-1] != table.shape[-1]:
            width = embeds_of(body).shape[-1]
            return f"`prompt_embeds` hidden_size {width} does not match the model's hidden_size {table.shape[-1]}."
        if self.fault == "error":
            return "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
        return None

    @torch.no_grad()
    def choices(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A choice for each token; greedily."""
        table = self.model.get_input_embeddings()
        given = embeds_of(body) if "prompt_embeds" in body else table(torch.tensor(body["prompt"]))
        embeds, limit = given.float()[None], body["max_tokens"]
        for number in range(limit):
            time.sleep(self.delay)
            scores = self.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
            id = int(scores.argmax())
            embeds = torch.cat([embeds, table(torch.tensor([[id]]))], dim=1)
            finish = "stop" if id in body.get("stop_token_ids", ()) else "length" if number == limit - 1 else None
            yield {"index": 0, "text": "", "token_ids": [id], "finish_reason": finish, **_logprobs(body, scores, id)}
            if finish == "stop":
                return


def embeds_of(body: dict[str, Any]) -> torch.Tensor:
    """[T, D], read as vLLM reads them."""
    content = io.BytesIO(base64.b64decode(body["prompt_embeds"], validate=True))
    embeds: torch.Tensor = torch.load(content, weights_only=True)
    return embeds


def _logprobs(body: dict[str, Any], scores: torch.Tensor, id: int) -> dict[str, Any]:
    """The token first, then the likeliest ones, as vLLM has them."""
    if body.get("logprobs") is None:
        return {"logprobs": None}
    assert body["return_tokens_as_token_ids"]
    top = [id, *scores.topk(body["logprobs"]).indices.tolist()]
    named = {f"token_id:{each}": float(scores[each]) for each in top}
    content = {"tokens": [f"token_id:{id}"], "token_logprobs": [float(scores[id])], "top_logprobs": [named]}
    return {"logprobs": content | {"text_offset": [0]}}


class _Handler(BaseHTTPRequestHandler):
    fake: FakeVllm

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._json(200, self.fake.models())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            return self._json(401, {"error": {"message": "Unauthorized", "code": 401}})
        self.fake.bodies.append(body)
        if reason := self.fake.refusal(body):
            return self._json(400, {"error": {"message": reason, "type": "BadRequestError", "code": 400}})
        if not body.get("stream"):
            return self._json(200, {"choices": list(self.fake.choices(body))})
        if self.fake.fault == "hang":
            while self.connection.recv(1):
                pass
            self.fake.left += 1
            return None
        try:
            self._stream(body)
        except OSError:
            self.fake.left += 1
        return None

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for number, choice in enumerate(self.fake.choices(body)):
            if number == 2 and self.fake.fault == "event":
                return self._event({"error": {"message": "EngineCore encountered an issue", "code": 500}})
            if number == 2 and self.fake.fault == "cut":
                return None
            self._event({"object": "text_completion", "choices": [choice]})
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())

    def _json(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake_vllm(model: Any) -> Iterator[FakeVllm]:
    """A server in a thread, over a model of transformers."""
    fake = FakeVllm(model)
    handler = type("Handler", (_Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()
