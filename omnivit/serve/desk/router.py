"""The routes of the desk: its files, and what it shows of the runs of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse, Response

from omnivit.errors import OmniVitError
from omnivit.serve.desk.data import Desk
from omnivit.serve.page.files import HEADERS, SEALED, SHARED, static_router, type_of
from omnivit.serve.page.preview import Wish

STATIC = Path(__file__).with_name("static")
MOST_RUNS = 12
"""Runs that are compared at once."""


def desk_router(root: Path) -> APIRouter:
    """`/`, `/static/...` and `/desk/...`.

    Args:
        root: the folder whose runs are shown.
    """
    router, desk = APIRouter(include_in_schema=False), Desk(root)
    router.include_router(static_router("desk.html", SHARED, STATIC))

    @router.get("/desk/runs")
    def overview() -> dict[str, Any]:
        return desk.overview()

    @router.get("/desk/results")
    def results(run: Annotated[list[str], Query(max_length=MOST_RUNS)]) -> dict[str, Any]:
        return desk.results(run)

    @router.get("/desk/runs/{name}/curves")
    def curves(name: str) -> dict[str, Any]:
        return desk.curves(name)

    @router.get("/desk/runs/{name}/answers")
    def answers(name: str) -> dict[str, Any]:
        return desk.answers(name)

    @router.get("/desk/runs/{name}/answers/{number}/{place}")
    def medium(name: str, number: int, place: int) -> Response:
        try:
            content, file = desk.medium(name, number, place)
        except OmniVitError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content, media_type=type_of(file), headers=dict(SEALED))

    @router.get("/desk/runs/{name}/answers/{number}/{place}/preview")
    def preview(name: str, number: int, place: int, plane: str = "axial", window: str = "auto") -> Response:
        try:
            return JSONResponse(desk.preview(name, number, place, Wish(plane, window)), headers=dict(HEADERS))
        except OmniVitError as error:
            raise HTTPException(404, str(error)) from error

    return router
