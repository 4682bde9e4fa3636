"""The app of the desk: behind the same gate as the server of a model, so with the same key, host and origin rules."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response

from omnivit import __version__
from omnivit.errors import OmniVitError
from omnivit.serve import failures
from omnivit.serve.desk.router import desk_router
from omnivit.serve.failures import ApiError
from omnivit.serve.gate import Gate
from omnivit.serve.settings import Settings


def create_desk(root: Path, settings: Settings) -> FastAPI:
    """The app for the runs below a folder."""
    app = FastAPI(title="OmniViT desk", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, settings=settings, counted=lambda *_: None)
    failures.install(app)
    app.add_exception_handler(OmniVitError, _refused)
    app.include_router(desk_router(root))
    return app


async def _refused(_: Request, error: Exception) -> Response:
    """What cannot be read is said on the page; a run may have been removed while it was looked at."""
    return ApiError(str(error), 404).response()
