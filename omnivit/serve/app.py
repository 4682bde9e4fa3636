"""The app: a model behind `/v1/models` and `/v1/chat/completions`, with health, metrics and documentation."""

from __future__ import annotations

import html
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from omnivit import __version__
from omnivit.engine import AnyEngine, Engine
from omnivit.run.assistant import Assistant
from omnivit.serve import failures
from omnivit.serve.completions import Completions
from omnivit.serve.failures import ApiError, responses
from omnivit.serve.gate import Gate
from omnivit.serve.inputs import inputs_of
from omnivit.serve.metrics import CONTENT_TYPE, Metrics
from omnivit.serve.page.files import HEADERS
from omnivit.serve.page.router import page_router
from omnivit.serve.schema import ChatRequest, ChatResponse, Health, ModelList, ModelRecord
from omnivit.serve.settings import Settings

__all__ = ["Settings", "create_app"]
ALWAYS = (401, 403, 405, 408, 413, 500)
"""Errors that any route may give."""
_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {}}}


def create_app(assistant: Assistant, settings: Settings, engine: AnyEngine | None = None) -> FastAPI:
    """The server's app for a loaded model.

    Args:
        assistant: answers; gets an engine, which is closed with the app.
        settings: of the server.
        engine: default: one that computes here, with the settings' `slots` and `queue`.
    """
    chat = assistant.preparer.chat
    assistant.engine = engine or Engine(assistant.model, chat, slots=settings.slots, queue=settings.queue)
    metrics = Metrics(assistant)
    inputs = inputs_of(assistant)
    completions = Completions(assistant, settings, metrics, inputs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        completions.close()

    app = FastAPI(
        title="OmniViT",
        version=__version__,
        docs_url=None,  # FastAPI's page loads its scripts from a CDN
        redoc_url=None,
        lifespan=lifespan,
        responses=responses(*ALWAYS),
    )
    app.add_middleware(Gate, settings=settings, counted=metrics.answered)
    app.state.inputs, app.state.close = inputs, completions.close
    failures.install(app)
    _add_answers(app, completions)
    _add_models(app, _model_record(assistant, settings, completions))
    _add_operation(app, metrics)
    app.include_router(page_router(assistant.recipe, inputs, settings))
    return app


def _add_answers(app: FastAPI, completions: Completions) -> None:
    @app.post(
        "/v1/chat/completions",
        response_model=ChatResponse,
        responses={200: {"content": _STREAM}, **responses(400, 404, 429, 499, 503, 504)},
        summary="Continue a conversation with the assistant's next turn",
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await completions.answer(body, request)


def _add_models(app: FastAPI, record: ModelRecord) -> None:
    @app.get("/v1/models", response_model=ModelList, summary="The model, its inputs and its context")
    async def models() -> ModelList:
        return ModelList(data=[record])

    @app.get("/v1/models/{model}", response_model=ModelRecord, responses=responses(400, 404), summary="The same, alone")
    async def model_named(model: str) -> ModelRecord:
        if model != record.id:
            raise ApiError(f"There is no model {model[:100]!r}; available: {record.id!r}.", 404, code="model_not_found")
        return record


def _add_operation(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/healthz", response_model=Health, summary="Whether the server answers")
    async def healthz() -> Health:
        return Health()

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics in the text form of Prometheus")
    async def metrics_page() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", response_class=HTMLResponse, summary="This list of paths")
    async def docs() -> HTMLResponse:
        return HTMLResponse(_listing(app.openapi()), headers=dict(HEADERS))


def _model_record(assistant: Assistant, settings: Settings, completions: Completions) -> ModelRecord:
    return ModelRecord.model_validate(
        {
            "id": settings.name,
            "created": int(time.time()),
            "inputs": [given.record() for given in completions.inputs],
            "context": assistant.context,
            "heads": [name for name, _ in assistant.model.named_heads()],
            "boxes": assistant.preparer.boxes is not None,
        }
    )


def _listing(schema: dict[str, Any]) -> str:
    """The paths and their fields, as a page that needs nothing else."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            statuses = ", ".join(operation["responses"])
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation['summary'])}</p>")
            parts.append(f"<p>Status: {html.escape(statuses)}</p>")
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if name := content.get("schema", {}).get("$ref", "").rpartition("/")[2]:
                parts.append(_fields(schema["components"]["schemas"][name]))
    # the policy of `HEADERS` allows no style in the page itself
    head = '<meta charset="utf-8"><title>OmniViT API</title><link rel="stylesheet" href="/static/style.css">'
    body = f'<h1>OmniViT API</h1><p><a href="/openapi.json">openapi.json</a></p>{"".join(parts)}'
    return f'<!doctype html><html lang="en">{head}<main class="text">{body}</main></html>'


def _fields(model: dict[str, Any]) -> str:
    rows = [
        f"<li><code>{html.escape(name)}</code> {html.escape(field.get('description', ''))}</li>"
        for name, field in model["properties"].items()
    ]
    return f"<ul>{''.join(rows)}</ul>"
