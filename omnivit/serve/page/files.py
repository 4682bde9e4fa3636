"""Static files of a page, with headers that let it load nothing from elsewhere and run no script but its own.

The files are listed once, so a name from an address can only select one of them: no address leads out of the folder.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

TYPES = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
"""Suffix -> media type. Said here, because that of the system may be wrong (`.js` on some Windows machines)."""
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""What the page may load: files of this server and what it made itself (`data:`, `blob:`)."""
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }
)
SEALED: Mapping[str, str] = MappingProxyType(
    {"Content-Security-Policy": "sandbox; default-src 'none'", "X-Content-Type-Options": "nosniff"}
)
"""Headers of media: opened in a window of their own, they can do nothing."""
SHOWN = ("image/", "audio/", "video/")
"""Beginnings of the types that are sent as what they are; everything else is `application/octet-stream`."""
PART = re.compile(r"<!-- (shared-\w+\.html) -->")
SHARED = Path(__file__).with_name("static")
"""Style, icon, helpers, and parts of pages; the desk uses them too."""


def static_router(index: str, *folders: Path) -> APIRouter:
    """Routes `/` and `/static/NAME`.

    Args:
        index: the name of the file at `/`.
        folders: where the files are.
    """
    files = {file.name: file for folder in folders for file in folder.iterdir() if file.suffix in TYPES}
    router = APIRouter(include_in_schema=False)

    page = _with_parts(files[index].read_text(encoding="utf-8"))

    @router.get("/")
    def start() -> Response:
        return HTMLResponse(page, headers=dict(HEADERS))

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"There is no file {name!r} on this page.")
        return _response(files[name])

    return router


def type_of(name: str) -> str:
    """The media type of a file. Only images, audio and videos keep theirs, so that no file is run as a page."""
    guessed = mimetypes.guess_type(name)[0] or ""
    return guessed if guessed.startswith(SHOWN) and "svg" not in guessed else "application/octet-stream"


def _with_parts(page: str) -> str:
    """A page with what it shares with the other one in place of `<!-- NAME.html -->`."""
    return PART.sub(lambda match: (SHARED / match[1]).read_text(encoding="utf-8").rstrip(), page)


def _response(file: Path) -> Response:
    return FileResponse(file, media_type=TYPES[file.suffix], headers=dict(HEADERS))
