"""Pages of ten manuals as PDF, and what kind of page each is: code, contents, empty, index or text.

The kind is found by rules over the text layer (fonts, dots that lead to page numbers, columns); a page that no rule
fits is left out. Five manuals are held out: no page of theirs is trained on.
"""

from __future__ import annotations

import ctypes
import gzip
import json
import random
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packages import Debian, SourceError

PACKAGES = (
    Debian("debian-policy", "4.6.2.0", "ef9d01b625c3b87c3a845c2cd1b66f1a16e9240b2b9e5bee53472a00e8457a39", "2 MB"),
    Debian("bash-doc", "5.2.15-2", "2c1a353f7004d14ba81db19c253b958d2dd9582027650739c530fd50376a9d8b", "2 MB"),
    Debian("developers-reference", "12.18", "0dba82f6fa16e373f2a84ad07e7971aa9264ad2e7d2ae46b37edbc9c5fd57e2e", "1 MB"),
    Debian("gnuplot-doc", "5.4.4+dfsg1-2", "73fe1816a296594cf6a1d38528f8d740fd650f57a2cb62e029f7920fcd5b31f0", "3 MB"),
    Debian(
        "r-doc-pdf", "4.2.2.20221110-2", "beb104ad5818d261f280a868294645ca31d7c63365f2c9a55aa3ca9aad5aa71d", "10 MB"
    ),
    Debian("octave-doc", "7.3.0-2", "b27897cc7e3d688daa5cb8f8d1ea47077f3fbd205ce32e22522200ff0c1eadd5", "8 MB"),
    Debian("ddd-doc", "1:3.3.12-5.4", "4d8c914bf1e45cd14b800f41a8be7bce1af3876dea7de399cc69f25fd300dec4", "2 MB"),
    Debian("sbcl-doc", "2:2.2.9-1", "cbb347501ecb4cd6011b805495684b41375a9efbee45f3c33a388da910fa01a0", "2 MB"),
    Debian("debian-reference-en", "2.100", "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f", "2 MB"),
    Debian("maint-guide", "1.2.53", "762c8a400a36668d2eb814a3ba356b06488fd889dfce478eb11d5cfb189a47b5", "1 MB"),
)
LICENCE = (
    "GPL-2+, GPL-3+, GFDL, BSD-like: the manuals' own; for use where they are, not to be handed on with this project"
)
TRAINED = (
    "policy", "debian-reference.en", "maint-guide.en", "octave", "liboctave", "ddd", "sbcl", "sbcl-internals",
    "fullrefman", "R-admin", "R-data", "R-FAQ", "R-ints", "R-lang", "R-intro", "bash",
)  # fmt: skip
HELD_OUT = ("gnuplot", "bashref", "developers-reference", "R-exts", "ddd-themes")
KINDS = ("code", "contents", "empty", "index", "text")
QUESTION = f"What kind of page is this: {', '.join(KINDS)}?"
MOST_TRAINED = 120
"""Pages of a kind to train on, at most,"""
MOST_OF_ONE = 40
"""and of those, of one manual."""
MONOSPACED = re.compile(r"cmtt|ectt|sftt|cmsltt|mono|courier|typewriter|inconsolata|nimbusmon|txtt", re.IGNORECASE)
LEADS = re.compile(r"(\. ?){4,}\s*\w+$")
"""Dots that lead to a page number."""
NUMBERED = re.compile(r"[\s.,]\d{1,4}$")
TEXT, PICTURE = 1, 3
"""Kinds of things on a page, as PDFium numbers them."""
SAMPLED = 400
"""Characters of a page whose fonts are looked at."""


@dataclass(frozen=True)
class Shape:
    """What the rules look at."""

    characters: int
    lines: int
    line: float
    """Characters of a line, on average."""
    monospaced: float
    """Shares: of characters in a monospaced font,"""
    leading: float
    """of lines with dots that lead to a number,"""
    numbered: float
    """of lines that end with a number."""
    columns: bool
    """Two of them."""
    drawn: int
    """Drawn lines and areas, and pictures,"""
    pictures: int
    """of which these."""


def kind_of(shape: Shape) -> str | None:
    """One of `KINDS`; None if the page is between them, or something else (a table, a figure, a title page)."""
    if shape.characters < 150:
        return "empty" if shape.drawn < 20 and not shape.pictures else None
    if shape.lines >= 12 and max(shape.leading, shape.numbered) >= 0.4:
        return "index" if shape.columns else "contents" if shape.leading >= 0.4 else None
    if shape.columns or shape.drawn > 60:
        return None
    if shape.monospaced >= 0.45:
        return "code"
    return "text" if shape.monospaced <= 0.1 and shape.line >= 50 and shape.lines >= 20 else None


def shape_of(page: Any) -> Shape:
    """Look at the text layer of a page of pypdfium2."""
    text = page.get_textpage()
    lines = [line.strip() for line in text.get_text_range().splitlines() if line.strip()]
    share = 1 / max(1, len(lines))
    things = [thing.type for thing in page.get_objects(max_depth=2)]
    width = page.get_size()[0]
    middle = width / 2
    spans = [(box[0], box[2]) for box in map(text.get_rect, range(text.count_rects()))]
    right = sum(middle - 5 < start < 0.75 * width for start, _ in spans)  # further right: page numbers
    across = sum(start < middle - 20 and end > middle + 20 for start, end in spans)
    return Shape(
        characters=text.count_chars(),
        lines=len(lines),
        line=share * sum(map(len, lines)),
        monospaced=_monospaced(text),
        leading=share * sum(bool(LEADS.search(line)) for line in lines),
        numbered=share * sum(bool(NUMBERED.search(line)) for line in lines),
        columns=right >= 0.3 * len(spans) and across <= 0.15 * len(spans),
        drawn=sum(kind != TEXT for kind in things),
        pictures=things.count(PICTURE),
    )


def _monospaced(text: Any) -> float:
    import pypdfium2.raw as pdfium

    count, found = text.count_chars(), Counter[bool]()
    name, flags = ctypes.create_string_buffer(256), ctypes.c_int()
    for place in range(0, count, max(1, count // SAMPLED)):
        if pdfium.FPDFText_GetUnicode(text, place) > ord(" "):
            pdfium.FPDFText_GetFontInfo(text, place, name, len(name), flags)
            found[bool(MONOSPACED.search(name.value.decode("latin-1")))] += 1
    return found[True] / max(1, found.total())


def build(sources: list[Path], folder: Path) -> None:
    """Write the PDFs, `train.jsonl` and `heldout.jsonl`.

    Raises:
        SourceError: a manual is not where it was.
    """
    files = _manuals(sources, folder)
    draw = random.Random(0)
    trained, held_out = (_by_kind([files[name] for name in names]) for names in (TRAINED, HELD_OUT))
    chosen: dict[str, list[str]] = {kind: _some(trained[kind], MOST_TRAINED, MOST_OF_ONE, draw) for kind in KINDS}
    fewest = min(len(_flat(held_out[kind])) for kind in KINDS)
    tested = {kind: draw.sample(_flat(held_out[kind]), fewest) for kind in KINDS}
    for name, pages in (("train", chosen), ("heldout", tested)):
        print(f"{name}: " + ", ".join(f"{len(pages[kind])} {kind}" for kind in KINDS), file=sys.stderr)
        records = [_record(kind, page) for kind in KINDS for page in pages[kind]]
        draw.shuffle(records)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def _manuals(sources: list[Path], folder: Path) -> dict[str, Path]:
    """Copy the PDFs, unpacked: name -> file."""
    found = {}
    for source in sources:
        for path in sorted(source.rglob("*.pdf*")):
            name = path.name.split(".pdf")[0]
            if name in (*TRAINED, *HELD_OUT) and not path.is_symlink():
                found[name] = folder / f"{name}.pdf"
                content = path.read_bytes()
                found[name].write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    if lacking := sorted({*TRAINED, *HELD_OUT} - set(found)):
        raise SourceError(f"the packages hold no {', '.join(lacking)}: their contents have changed.")
    return found


def _by_kind(files: list[Path]) -> dict[str, list[list[str]]]:
    """Kind -> for each manual, its pages of that kind as `file.pdf#page=N`."""
    import pypdfium2

    found: dict[str, list[list[str]]] = defaultdict(list)
    for path in files:
        pages = defaultdict(list)
        with pypdfium2.PdfDocument(path) as document:
            for number, page in enumerate(document, start=1):
                pages[kind_of(shape_of(page))].append(f"{path.name}#page={number}")
                page.close()
        for kind in KINDS:
            found[kind].append(pages[kind])
    return found


def _some(pages: list[list[str]], most: int, most_of_one: int, draw: random.Random) -> list[str]:
    few = _flat([draw.sample(one, min(len(one), most_of_one)) for one in pages])
    return draw.sample(few, min(len(few), most))


def _flat(pages: list[list[str]]) -> list[str]:
    return [page for one in pages for page in one]


def _record(kind: str, page: str) -> dict[str, Any]:
    question = [{"type": "page", "page": page}, {"type": "text", "text": QUESTION}]
    return {"id": page, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": kind}]}
