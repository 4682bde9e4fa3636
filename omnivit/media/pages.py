"""Pages: from a medium to PIL images in RGB: pages of a PDF, frames of a TIFF, pictures of pages.

A record chooses pages as one does in a link, counted from 1: `report.pdf#page=3`, `scan.tiff#page=2-5`,
`book.pdf#page=1,4,7-9`. Without a choice the first pages are read, as many as the caller wants. PDFs are drawn by
PDFium (pypdfium2) in the helper process, the wanted pages alone, scaled so that their longer side has a given number of
pixels: however large a page says that it is, memory is bounded before anything is drawn.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import image_decode
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened
from omnivit.media.source import Source, reading

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

MAX_PAGES = 64
"""A medium may choose so many pages at most."""
LONGEST = 1344
"""Pixels of a drawn page's longer side where the caller says nothing: 115 dots an inch for A4."""
CHOICE = re.compile(r"#pages?=(?P<pages>[^#]*)$")
RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")
PIXELS_AT_ONCE = 16_000_000
"""Pages are drawn and sent through the pipe in groups of so many pixels."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin."""
MAX_ASPECT = 100
"""A page more than so many times longer than wide is refused, as pictures are."""


def read_pages(media: Media, pages: int = 1, longest: int = LONGEST) -> list[Image.Image]:
    """The pages of a medium, upright and in RGB on white, in the order of their choice.

    The source may be a path (a choice of pages may follow, see above), encoded bytes, one picture in memory (a PIL
    image or an array) or a list of them. Pages of a PDF are drawn, form fields included; pictures keep their size.

    Args:
        media: what to read.
        pages: how many of the first pages, where the medium chooses none.
        longest: pixels of the longer side of a page drawn from a PDF.

    Raises:
        MediaError: the file must not or cannot be read, is neither PDF nor picture, is damaged, encrypted, without
            pages, or has no such page; names file and reason.
        PluginError: it is a PDF, and pypdfium2 is not installed.
    """
    if not _is_file(media):
        return _pictures_in_memory(media, pages)
    with _opened(media) as document:
        if document.is_pdf:
            return list(_drawn(document, pages, longest))
        return _frames(document, pages)


def facts_of(media: Media) -> MediaFacts:
    """What a medium holds: its number of pages, and the size of the first one (in points, 1/72 inch, for a PDF).

    Raises:
        MediaError: as `read_pages`; also where the page that the medium chooses does not exist.
    """
    first: tuple[float, float]
    if not _is_file(media):
        count = len(media.source) if isinstance(media.source, (list, tuple)) else 1
        size = _pictures_in_memory(media, 1)[0].size
        return _facts(count, size, {"format": "images" if count > 1 else "image"})
    with _opened(media) as document:
        if document.is_pdf:
            count, version, first = document.isolated(_look_at_pdf)
            details = {"format": f"PDF {version / 10:g}", "size in": "points, 1/72 inch"}
        else:
            first, count, details = _look_at_frames(document)
        _wanted(document, count, 1)
    return _facts(count, first, details)


def _facts(count: int, first: tuple[float, float], details: dict[str, str]) -> MediaFacts:
    return MediaFacts("pages", {"pages": count, "height": round(first[1]), "width": round(first[0])}, details=details)


def _is_file(media: Media) -> bool:
    return isinstance(media.source, (str, bytes, os.PathLike))


@dataclass(frozen=True)
class _Document:
    """An opened file, or its bytes, and the pages that a record chose."""

    source: Source
    name: str
    choice: tuple[int, ...] | None
    """Pages counted from 0; None: no choice."""
    is_pdf: bool

    def __enter__(self) -> _Document:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.source.close()

    def isolated(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(source, *args)` in the helper process."""
        return isolated(function, self.source, *args, name=self.name, size=self.source.size)


def _opened(media: Media) -> _Document:
    choice = None
    if not isinstance(media.source, bytes):
        media, choice = _split(media)
    source = opened(media)
    # PDF readers look for the header in the first 1024 bytes: mail and printers put their own lines before it
    return _Document(source, source.name, choice, b"%PDF-" in source.head(1024))


def _split(media: Media) -> tuple[Media, tuple[int, ...] | None]:
    """The medium without its choice of pages, and the choice, counted from 0."""
    text = os.fspath(media.source)
    found = CHOICE.search(text) if isinstance(text, str) else None
    if found is None:
        return media, None
    pages: list[int] = []
    for part in found["pages"].split(","):
        said = RANGE.fullmatch(part.strip())
        first, last = (int(said[1]), int(said[2] or said[1])) if said else (0, 0)
        if not 1 <= first <= last:
            raise MediaError(
                f"{text}: {part.strip()!r} chooses no pages. Write numbers from 1 and ranges: #page=3 or #page=1,4,7-9."
            )
        if len(pages) + last - first + 1 > MAX_PAGES:
            raise MediaError(f"{text}: chooses more than {MAX_PAGES} pages (omnivit.media.pages.MAX_PAGES). Split it.")
        pages += range(first - 1, last)
    return replace(media, source=text[: found.start()]), tuple(pages)


def _wanted(document: _Document, count: int, pages: int) -> Sequence[int]:
    """Which pages of `count` are to be read."""
    if count < 1:
        raise MediaError(f"{document.name}: the document has no pages. Fetch it again, or take the sample out.")
    if document.choice is None:
        return range(min(pages, count, MAX_PAGES))
    beyond = [page + 1 for page in document.choice if page >= count]
    if beyond:
        have = f"the pages 1 to {count}" if count > 1 else "one page"
        raise MediaError(f"{document.name}: has no page {beyond[0]}, only {have}. Mend `#page=` in the record.")
    return document.choice


def _drawn(document: _Document, pages: int, longest: int) -> Iterator[Image.Image]:
    count, _, _ = document.isolated(_look_at_pdf)
    wanted = list(_wanted(document, count, pages))
    group = max(1, PIXELS_AT_ONCE // longest**2)
    for start in range(0, len(wanted), group):
        for array in document.isolated(_draw, wanted[start : start + group], longest):
            yield Image.fromarray(array)


def _look_at_pdf(source: Source) -> tuple[int, int, tuple[float, float]]:
    """In the helper: pages, version (17 for 1.7) and size of the first page in points."""
    with _pdf(source) as document:
        count = len(document)
        first = document[0].get_size() if count else (0.0, 0.0)
        return count, int(document.get_version() or 0), first


def _draw(source: Source, pages: Sequence[int], longest: int) -> list[np.ndarray[Any, Any]]:
    """In the helper: the pages as uint8 [H, W, 3], their longer sides `longest` pixels."""
    with _pdf(source) as document:
        return [_draw_page(document, source.name, page, longest) for page in pages]


def _draw_page(document: Any, name: str, number: int, longest: int) -> np.ndarray[Any, Any]:
    import pypdfium2

    try:
        page = document[number]
    except pypdfium2.PdfiumError as error:
        raise MediaError(
            f"{name}: page {number + 1} cannot be read, the file is damaged ({error}). Fetch it again, or choose other "
            f"pages."
        ) from error
    width, height = page.get_size()
    if not 0 < max(width, height) <= MAX_ASPECT * min(width, height):  # false for NaN, too
        raise MediaError(
            f"{name}: page {number + 1} is {width:g} x {height:g} points, which is no page. Crop it, or choose other "
            f"pages."
        )
    # sides are rounded up: a hair less keeps the longer one from becoming a pixel more
    bitmap = page.render(scale=(longest - 0.01) / max(width, height), rev_byteorder=True)
    image: np.ndarray[Any, Any] = bitmap.to_numpy()[..., :3].copy()
    page.close()
    return image


@contextlib.contextmanager
def _pdf(source: Source) -> Iterator[Any]:
    """A PDF opened by PDFium, its form fields ready to be drawn."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(source.nameable())
    except pypdfium2.PdfiumError as error:
        # PDFium tells the error of an earlier file where it has none for this one: only the file itself is certain
        if b"/Encrypt" not in source.read():
            reason = (
                f"is no PDF that can be opened: it is damaged, cut short or without pages ({error}). Fetch it again"
            )
        elif "assword" in str(error):
            reason = "is encrypted and wants a password. Decrypt it first, for example with `qpdf --decrypt`"
        else:
            reason = "is encrypted in a way that PDFium does not know. Decrypt it first"
        raise MediaError(f"{source.name}: {reason}, or take the sample out.") from error
    try:
        with contextlib.suppress(pypdfium2.PdfiumError):  # forms of a kind that cannot be drawn: the page can
            document.init_forms()
        yield document
    finally:
        document.close()


def _frames(document: _Document, pages: int) -> list[Image.Image]:
    """The pages of a picture file: frames of a TIFF; other formats hold one page, their first frame."""
    with _tiff(document) as frames:
        if frames is not None:
            count = _count(document, frames)
            return [_frame(document, frames, number) for number in _wanted(document, count, pages)]
    _wanted(document, 1, pages)
    return [_picture(document)]


def _look_at_frames(document: _Document) -> tuple[tuple[int, int], int, dict[str, str]]:
    with _tiff(document) as frames:
        if frames is not None:
            return _frame(document, frames, 0).size, _count(document, frames), {"format": "TIFF"}
    return _picture(document).size, 1, {"format": "image"}


def _picture(document: _Document) -> Image.Image:
    try:
        return image_decode.read(document.source, image_decode.upright_rgb)
    except MediaError as error:
        if document.name.lower().endswith(".pdf"):
            raise MediaError(f"{error} It is no PDF either: `%PDF-` does not stand in its first 1024 bytes.") from error
        raise


@contextlib.contextmanager
def _tiff(document: _Document) -> Iterator[Image.Image | None]:
    """The file as a TIFF, no frame of it decoded; None if it is anything else."""
    if document.source.head(4) not in TIFF:
        yield None
        return
    with image_decode.opened_image(document.source, ("TIFF",)) as image:
        yield image


def _count(document: _Document, frames: Any) -> int:
    with _explained(document, "the list of its pages"):
        return int(frames.n_frames)


def _frame(document: _Document, frames: Image.Image, number: int) -> Image.Image:
    """One frame, by the rules of pictures: bounded by its header before it is decoded."""
    with _explained(document, f"page {number + 1}"):
        frames.seek(number)
        image_decode.check_size(frames, document.name)
        frames.load()
        return image_decode.upright_rgb(frames, document.name)


@contextlib.contextmanager
def _explained(document: _Document, what: str) -> Iterator[None]:
    """Errors tell which part of the document they are of."""
    with reading(f"{document.name}, {what}"):
        yield


def _pictures_in_memory(media: Media, pages: int) -> list[Image.Image]:
    from omnivit.media.images import open_image

    sources = media.source if isinstance(media.source, (list, tuple)) else [media.source]
    if not sources:
        raise MediaError(f"{media}: an empty list holds no page. Pass at least one picture.")
    return [open_image(replace(media, source=source)) for source in sources[: min(pages, MAX_PAGES)]]
