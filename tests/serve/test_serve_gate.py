"""What a request passes before a route sees it: the size of its body, the key, the host and the origin."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from omnivit.serve.gate import Gate
from omnivit.serve.settings import Settings, SettingsError


def client(**options: Any) -> TestClient:
    async def size(request: Any) -> PlainTextResponse:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(routes=[Route("/v1/models", size, methods=["GET", "POST"]), Route("/healthz", size)])
    gate = Gate(app, Settings(max_body_mb=0.001, **options), lambda *_: None)
    return TestClient(gate, base_url="http://localhost")


def test_a_large_body_is_refused_also_without_its_length() -> None:
    asking = client()
    assert asking.post("/v1/models", content=b"x" * 1000).text == "1000"
    for content in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        response = asking.post("/v1/models", content=content)
        assert response.status_code == 413 and response.json()["error"]["code"] == "body_too_large"


def test_a_key_is_asked_for() -> None:
    asking = client(api_key="secret", host="0.0.0.0")
    assert asking.get("/healthz").status_code == 200
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        assert asking.get("/v1/models", headers=header).status_code == 401
    assert asking.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(SettingsError, match="OMNIVIT_API_KEY"):
        Settings(host="0.0.0.0")


def test_pages_of_other_origins_are_refused() -> None:
    asking = client()
    assert asking.get("/v1/models", headers={"Origin": "http://localhost"}).status_code == 200
    for header in ({"Host": "rebound.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert asking.get("/v1/models", headers=header).status_code == 403
