"""The routes of the chat page: its files, previews of media and held-out examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Query
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from omnivit.errors import OmniVitError
from omnivit.recipe import Recipe
from omnivit.serve.fetch import fetch
from omnivit.serve.inputs import Input
from omnivit.serve.page.files import HEADERS, SEALED, SHARED, static_router
from omnivit.serve.page.preview import Wish, preview
from omnivit.serve.page.samples import HeldOut
from omnivit.serve.parts import PartReader
from omnivit.serve.settings import Settings

MOST_SAMPLES = 50
"""Samples in one answer."""


def page_router(recipe: Recipe, inputs: Sequence[Input], settings: Settings) -> APIRouter:
    """All routes: `/` and `/static/...`, which hold nothing of the run and need no key, and `/ui/...`.

    Args:
        recipe: of the model.
        inputs: of the model.
        settings: of the server; without its `run`, readers that are Python code of the run are not trusted.
    """
    router = static_router("index.html", SHARED)
    router.include_router(data_router(recipe, inputs, settings))
    return router


def data_router(recipe: Recipe, inputs: Sequence[Input], settings: Settings) -> APIRouter:
    """`/ui/...`: previews and held-out examples; arguments as of `page_router`."""
    router, held_out = APIRouter(prefix="/ui", include_in_schema=False), HeldOut(recipe, settings.run)
    modalities = {given.slot: given.modality for given in inputs}
    content_alone = replace(settings, fetch=False, media_root=None)

    @router.post("/preview")
    async def show(
        part: Annotated[dict[str, Any], Body()], name: str = "file", plane: str = "axial", window: str = "auto"
    ) -> Response:
        def read() -> dict[str, Any]:
            medium = PartReader(inputs, content_alone, fetch).medium(part, "part")
            return preview(modalities[medium.slot], medium, name, Wish(plane, window))

        try:
            return JSONResponse(await run_in_threadpool(read), headers=dict(HEADERS))
        except OmniVitError as error:
            raise HTTPException(400, str(error)) from error

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
    def medium(index: int, number: int, file: int = 0) -> Response:
        try:
            content = held_out.medium(index, number, file)
        except OmniVitError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content.content, media_type=content.type, headers=dict(SEALED))

    return router
