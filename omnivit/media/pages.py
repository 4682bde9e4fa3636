"""Pages: from a medium to PIL images in RGB: pages of a PDF, frames of a TIFF, images of pages.

A record selects pages as in a link, counted from 1: `report.pdf#page=3`, `scan.tiff#page=2-5`,
`book.pdf#page=1,4,7-9`. Without a selection, the first pages are read. PDFium (pypdfium2) renders the selected pages of
a PDF in the helper process, scaled so that their longer side has a given number of pixels. So memory is bounded before
a page is rendered, whatever size the page declares.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from omnivit import moved
from omnivit.contracts.media import MediaFacts
from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media import image_decode
from omnivit.media.advice import REMOVE, download_again
from omnivit.media.image_decode import MAX_ASPECT
from omnivit.media.isolate import isolated
from omnivit.media.locate import opened
from omnivit.media.source import Source, reading

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

MAX_PAGES = 64
"""Most pages that a medium can select."""
LONGEST = 1344
"""Default length of the longer side of a rendered page in pixels: 115 dots per inch for A4."""
SELECTION = re.compile(r"#pages?=(?P<pages>[^#]*)$")
RANGE = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?")
PIXELS_AT_ONCE = 16_000_000
"""Pages are rendered and sent through the pipe in groups of this many pixels."""
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin."""


def read_pages(media: Media, pages: int = 1, longest: int = LONGEST) -> list[Image.Image]:
    """The pages of a medium, upright and in RGB on white, in the order of the selection.

    The source is a path (a selection of pages can follow it, see above), encoded bytes, one image in memory (a PIL
    image or an array) or a list of images. Pages of a PDF are rendered with their form fields; images keep their size.

    Args:
        media: what to read.
        pages: number of pages to read from the first, if the medium selects none.
        longest: length of the longer side of a rendered PDF page, in pixels.

    Raises:
        MediaError: the file cannot be opened or read, is neither a PDF nor an image, is damaged or encrypted, has no
            pages, or lacks a selected page. The message names the file and the reason.
        PluginError: the file is a PDF, and pypdfium2 is not installed.
    """
    if not _is_file(media):
        return _images_in_memory(media, pages)
    with _document(media) as document:
        if document.is_pdf:
            return list(_rendered(document, pages, longest))
        return _frames(document, pages)


def facts_of(media: Media) -> MediaFacts:
    """The number of pages of a medium, and the size of the first one (for a PDF in points, 1/72 inch).

    Raises:
        MediaError: as `read_pages`; also if a page that the medium selects does not exist.
    """
    first: tuple[float, float]
    if not _is_file(media):
        count = len(media.source) if isinstance(media.source, (list, tuple)) else 1
        size = _images_in_memory(media, 1)[0].size
        return _facts(count, size, {"format": "images" if count > 1 else "image"})
    with _document(media) as document:
        if document.is_pdf:
            count, version, first = document.isolated(_pdf_facts)
            details = {"format": f"PDF {version / 10:g}", "size in": "points, 1/72 inch"}
        else:
            first, count, details = _frame_facts(document)
        _selected(document, count, 1)
    return _facts(count, first, details)


def selection_of(media: Media) -> tuple[int, ...] | None:
    """The pages that a medium selects, counted from 0; None: it selects none."""
    return _split(media)[1] if _is_file(media) else None


def content_of(media: Media) -> bytes:
    """The content of a document; where the medium selects pages, a document of these pages alone, which can be read
    without the selection. Raises MediaError as `read_pages`."""
    with _document(media) as document:
        if document.selection is None:
            return document.source.read()
        if document.is_pdf:
            count, _, _ = document.isolated(_pdf_facts)
            return document.isolated(_extract, list(_selected(document, count, 1)))
        first, *others = _frames(document, 1)
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=others, compression="tiff_deflate")
    return buffer.getvalue()


def _facts(count: int, first: tuple[float, float], details: dict[str, str]) -> MediaFacts:
    return MediaFacts("pages", {"pages": count, "height": round(first[1]), "width": round(first[0])}, details=details)


def _is_file(media: Media) -> bool:
    return isinstance(media.source, (str, bytes, os.PathLike))


@dataclass(frozen=True)
class _Document:
    """An open file, or its bytes, and the pages that the record selects."""

    source: Source
    name: str
    selection: tuple[int, ...] | None
    """Pages counted from 0; None: the record selects none."""
    is_pdf: bool

    def __enter__(self) -> _Document:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.source.close()

    def isolated(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(source, *args)` in the helper process."""
        return isolated(function, self.source, *args, name=self.name, size=self.source.size)


def _document(media: Media) -> _Document:
    media, selection = _split(media)
    source = opened(media)
    # PDF readers search the header in the first 1024 bytes, because mail and printers can put other lines before it
    return _Document(source, source.name, selection, b"%PDF-" in source.head(1024))


def _split(media: Media) -> tuple[Media, tuple[int, ...] | None]:
    """The medium without its selection of pages, and the selection, counted from 0."""
    text = os.fspath(media.source)
    selection = SELECTION.search(text) if isinstance(text, str) else None
    if selection is None:
        return media, None
    pages: list[int] = []
    for part in selection["pages"].split(","):
        numbers = RANGE.fullmatch(part.strip())
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (0, 0)
        if not 1 <= first <= last:
            raise MediaError(
                f"{text}: {part.strip()!r} selects no pages. Write numbers from 1 and ranges: #page=3 or #page=1,4,7-9."
            )
        if len(pages) + last - first + 1 > MAX_PAGES:
            raise MediaError(
                f"{text}: selects more than {MAX_PAGES} pages (omnivit.media.pages.MAX_PAGES). Use several media."
            )
        pages += range(first - 1, last)
    return replace(media, source=text[: selection.start()]), tuple(pages)


def _selected(document: _Document, count: int, pages: int) -> Sequence[int]:
    """The numbers of the pages to read, of a document with `count` pages."""
    if count < 1:
        raise MediaError(f"{document.name}: the document has no pages. {download_again()}")
    if document.selection is None:
        return range(min(pages, count, MAX_PAGES))
    beyond = [page + 1 for page in document.selection if page >= count]
    if beyond:
        existing = f"the pages 1 to {count}" if count > 1 else "one page"
        raise MediaError(f"{document.name}: has no page {beyond[0]}, only {existing}. Correct `#page=` in the record.")
    return document.selection


def _rendered(document: _Document, pages: int, longest: int) -> Iterator[Image.Image]:
    count, _, _ = document.isolated(_pdf_facts)
    numbers = list(_selected(document, count, pages))
    group = max(1, PIXELS_AT_ONCE // longest**2)
    for start in range(0, len(numbers), group):
        for array in document.isolated(_render, numbers[start : start + group], longest):
            yield Image.fromarray(array)


def _pdf_facts(source: Source) -> tuple[int, int, tuple[float, float]]:
    """Runs in the helper process: number of pages, version (17 for 1.7), and size of the first page in points."""
    with _pdf(source) as document:
        count = len(document)
        first = document[0].get_size() if count else (0.0, 0.0)
        return count, int(document.get_version() or 0), first


def _extract(source: Source, pages: Sequence[int]) -> bytes:
    """Runs in the helper process: a PDF of some pages."""
    import pypdfium2

    buffer = io.BytesIO()
    with _pdf(source) as document:
        part = pypdfium2.PdfDocument.new()
        part.import_pages(document, list(pages))
        part.save(buffer)
        part.close()
    return buffer.getvalue()


def _render(source: Source, pages: Sequence[int], longest: int) -> list[np.ndarray[Any, Any]]:
    """Runs in the helper process: the pages as uint8 [H, W, 3]; their longer sides have `longest` pixels."""
    with _pdf(source) as document:
        return [_render_page(document, source.name, page, longest) for page in pages]


def _render_page(document: Any, name: str, number: int, longest: int) -> np.ndarray[Any, Any]:
    import pypdfium2

    try:
        page = document[number]
    except pypdfium2.PdfiumError as error:
        raise MediaError(
            f"{name}: page {number + 1} cannot be read, the file is damaged ({error}). "
            f"{download_again(alternative='select other pages')}"
        ) from error
    width, height = page.get_size()
    if not 0 < max(width, height) <= MAX_ASPECT * min(width, height):  # also false for NaN
        raise MediaError(
            f"{name}: page {number + 1} has {width:g} x {height:g} points, which is empty or more elongated than "
            f"{MAX_ASPECT}:1. Crop it, or select other pages."
        )
    # PDFium rounds sides up: the small margin keeps the longer side from becoming one pixel larger
    bitmap = page.render(scale=(longest - 0.01) / max(width, height), rev_byteorder=True)
    image: np.ndarray[Any, Any] = bitmap.to_numpy()[..., :3].copy()
    page.close()
    return image


@contextlib.contextmanager
def _pdf(source: Source) -> Iterator[Any]:
    """A PDF opened by PDFium, with its form fields ready for rendering."""
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(source.nameable())
    except pypdfium2.PdfiumError as error:
        # PDFium can report the error of an earlier file, so the content decides whether the file is encrypted
        if b"/Encrypt" not in source.read():
            reason = f"is not a PDF that can be opened: it is damaged, cut short or has no pages ({error})."
            raise MediaError(f"{source.name}: {reason} {download_again()}") from error
        if "assword" in str(error):
            reason = "is encrypted and needs a password. Decrypt it first, for example with `qpdf --decrypt`"
        else:
            reason = "is encrypted with a method that PDFium does not support. Decrypt it first"
        raise MediaError(f"{source.name}: {reason}, or {REMOVE}.") from error
    try:
        with contextlib.suppress(pypdfium2.PdfiumError):  # forms that cannot be rendered; the page itself can
            document.init_forms()
        yield document
    finally:
        document.close()


def _frames(document: _Document, pages: int) -> list[Image.Image]:
    """The pages of an image file: the frames of a TIFF; the first frame of any other format."""
    with _tiff(document) as frames:
        if frames is not None:
            count = _count(document, frames)
            return [_frame(document, frames, number) for number in _selected(document, count, pages)]
    _selected(document, 1, pages)
    return [_image(document)]


def _frame_facts(document: _Document) -> tuple[tuple[int, int], int, dict[str, str]]:
    """Size of the first page of an image file, number of pages, and format."""
    with _tiff(document) as frames:
        if frames is not None:
            return _frame(document, frames, 0).size, _count(document, frames), {"format": "TIFF"}
    return _image(document).size, 1, {"format": "image"}


def _image(document: _Document) -> Image.Image:
    try:
        return image_decode.read(document.source, image_decode.upright_rgb)
    except MediaError as error:
        if document.name.lower().endswith(".pdf"):
            raise MediaError(f"{error} It is not a PDF either: its first 1024 bytes do not contain `%PDF-`.") from error
        raise


@contextlib.contextmanager
def _tiff(document: _Document) -> Iterator[Image.Image | None]:
    """The file as a TIFF whose frames are not decoded yet; None if it has another format."""
    if document.source.head(4) not in TIFF:
        yield None
        return
    with image_decode.opened_image(document.source, ("TIFF",)) as image:
        yield image


def _count(document: _Document, frames: Any) -> int:
    with _explained(document, "the list of its pages"):
        return int(frames.n_frames)


def _frame(document: _Document, frames: Image.Image, number: int) -> Image.Image:
    """One frame, with the limits of images: its header is checked before it is decoded."""
    with _explained(document, f"page {number + 1}"):
        frames.seek(number)
        image_decode.check_size(frames, document.name)
        frames.load()
        return image_decode.upright_rgb(frames, document.name)


@contextlib.contextmanager
def _explained(document: _Document, what: str) -> Iterator[None]:
    """Errors name the part of the document in which they occur."""
    with reading(f"{document.name}, {what}"):
        yield


def _images_in_memory(media: Media, pages: int) -> list[Image.Image]:
    from omnivit.media.images import open_image

    sources = media.source if isinstance(media.source, (list, tuple)) else [media.source]
    if not sources:
        raise MediaError(f"{media}: the list is empty and contains no page. Pass at least one image.")
    return [open_image(replace(media, source=source)) for source in sources[: min(pages, MAX_PAGES)]]


def __getattr__(name: str) -> Any:
    return moved.attribute(__name__, name)  # names that have moved
