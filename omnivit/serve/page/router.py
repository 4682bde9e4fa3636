"""The routes of the chat page: its files, previews of media and held-out examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from omnivit.errors import OmniVitError
from omnivit.recipe import Recipe
from omnivit.serve.page.files import HEADERS, SEALED, SHARED, static_router
from omnivit.serve.page.preview import Wish, preview
from omnivit.serve.page.samples import HeldOut

MOST_SAMPLES = 50
"""Samples in one answer."""


def page_router(recipe: Recipe, folder: Path | None, max_bytes: int) -> APIRouter:
    """All routes: `/` and `/static/...`, which hold nothing of the run and need no key, and `/ui/...`.

    Args:
        recipe: of the model.
        folder: the run's; None: it is not trusted to name code for reading its data.
        max_bytes: the largest file that is previewed.
    """
    router = static_router("index.html", SHARED)
    router.include_router(data_router(recipe, folder, max_bytes))
    return router


def data_router(recipe: Recipe, folder: Path | None, max_bytes: int) -> APIRouter:
    """`/ui/...`: previews and held-out examples.

    Args:
        recipe: of the model.
        folder: the run's.
        max_bytes: the largest file that is previewed.
    """
    router, held_out = APIRouter(prefix="/ui", include_in_schema=False), HeldOut(recipe, folder)

    @router.post("/preview")
    async def show(
        request: Request, kind: str, name: str = "file", plane: str = "axial", window: str = "auto"
    ) -> Response:
        content = await _body(request, max_bytes)
        try:
            shown = await run_in_threadpool(preview, kind, content, name, Wish(plane, window))
        except OmniVitError as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(shown, headers=dict(HEADERS))

    @router.get("/samples")
    def samples(
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_SAMPLES)] = 8,
        slot: Annotated[str | None, Query(alias="other")] = None,
    ) -> dict[str, Any]:
        try:
            return held_out.page(offset, limit) if slot is None else held_out.with_slot(slot)
        except OmniVitError as error:
            raise HTTPException(400, str(error)) from error

    @router.get("/samples/{index}/{number}")
    def medium(index: int, number: int) -> Response:
        try:
            file = held_out.medium(index, number)
        except OmniVitError as error:
            raise HTTPException(404, str(error)) from error
        return Response(file.content, media_type=file.type, headers=dict(SEALED))

    return router


async def _body(request: Request, most: int) -> bytes:
    """The body of a request; refused as soon as it is too large."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > most:
            raise HTTPException(413, f"The file is larger than {most // 10**6} MB, which is the limit of this server.")
    if not content:
        raise HTTPException(400, "The request has no content. Send the file as the body.")
    return bytes(content)
