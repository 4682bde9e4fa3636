"""Pages of PDFs and of pictures: the wanted ones, in their order, of bounded size; and a clear word for the rest."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_document import encrypted, files, pages, painted, pdf, stream, tiff
from PIL import Image

from omnivit.contracts.sample import Media
from omnivit.errors import MediaError
from omnivit.media.pages import MAX_PAGES, facts_of, read_pages

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    five = pages([painted((r / 255, g / 255, b / 255)) for r, g, b in COLOURS])
    (tmp_path / "five.pdf").write_bytes(five)
    (tmp_path / "turned.pdf").write_bytes(pages([painted((1, 0, 0))], entries=b"/Rotate 90"))
    (tmp_path / "scan.tiff").write_bytes(tiff(["red", "lime", "blue"]))
    Image.new("RGB", (30, 20), "red").save(tmp_path / "page.png")
    return tmp_path


def media(root: Path, source: object) -> Media:
    return Media("page", source, str(root))


def colours(found: list[Image.Image]) -> list[tuple[int, ...]]:
    """Of a place in the lower left part."""
    return [tuple(np.asarray(page)[-page.height // 4, page.width // 5].tolist()) for page in found]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [("", [0]), ("#page=3", [2]), ("#page=2-4", [1, 2, 3]), ("#pages=5,1,1-2", [4, 0, 0, 1]), ("#page= 2 , 3", [1, 2])],
)
def test_a_record_chooses_pages(root: Path, choice: str, wanted: list[int]) -> None:
    assert colours(read_pages(media(root, f"five.pdf{choice}"))) == [COLOURS[page] for page in wanted]


def test_without_a_choice_the_first_ones_are_read(root: Path) -> None:
    assert colours(read_pages(media(root, "five.pdf"), pages=2)) == list(COLOURS[:2])
    assert len(read_pages(media(root, "five.pdf"), pages=9)) == 5


@pytest.mark.parametrize("choice", ["0", "3-2", "a", "", "1,", "-2", "1.5"])
def test_a_bad_choice_is_explained(root: Path, choice: str) -> None:
    with pytest.raises(MediaError, match=r"^five\.pdf#page=.*selects no pages\. Write numbers from 1"):
        read_pages(media(root, f"five.pdf#page={choice}"))


def test_too_many_pages_and_missing_ones_are_refused(root: Path) -> None:
    with pytest.raises(MediaError, match=f"selects more than {MAX_PAGES} pages"):
        read_pages(media(root, "five.pdf#page=1-9999999"))
    with pytest.raises(MediaError, match=r"five\.pdf: has no page 6, only the pages 1 to 5\. Correct `#page=`"):
        read_pages(media(root, "five.pdf#page=5-7"))
    with pytest.raises(MediaError, match=r"page\.png: has no page 2, only one page"):
        read_pages(media(root, "page.png#page=2"))


def test_the_choice_does_not_loosen_the_root(root: Path) -> None:
    with pytest.raises(MediaError, match=r"contains `\.\.`"):
        read_pages(media(root, "../five.pdf#page=1"))


@pytest.mark.parametrize("longest", [64, 100, 1344])
def test_the_longer_side_of_a_drawn_page_is_as_wanted(root: Path, longest: int) -> None:
    page = read_pages(media(root, "five.pdf"), longest=longest)[0]
    assert page.height == longest and page.mode == "RGB"
    assert page.width == pytest.approx(longest * 2 / 3, abs=1)
    assert read_pages(media(root, "turned.pdf"), longest=longest)[0].width == longest


def test_a_page_is_drawn_on_white(root: Path) -> None:
    page = np.asarray(read_pages(media(root, "five.pdf"))[0])
    assert page[5, -5].tolist() == [255, 255, 255]


def test_what_was_filled_into_a_form_is_drawn() -> None:
    field = b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (MMM) /Rect [20 20 180 60] /DA (/F 24 Tf 0 g) /F 4 >>"
    form = pdf(
        [
            b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [5 0 R] /DR << /Font << /F 6 0 R >> >> >> >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 300] /Contents 4 0 R /Annots [5 0 R] >>",
            stream(b""),
            field,
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        ]
    )
    page = np.asarray(read_pages(Media("page", form), longest=300)[0])
    assert (page[240:280, 20:180] < 128).any() and (page[:240] == 255).all()


def test_many_pages_are_drawn_in_groups(root: Path) -> None:
    found = read_pages(media(root, "five.pdf#page=1-5"), longest=3000)  # one page at once
    assert colours(found) == list(COLOURS)


def test_bytes_pictures_and_lists_are_documents(root: Path) -> None:
    red, blue = Image.new("RGB", (8, 6), "red"), np.zeros((6, 8, 3), dtype=np.uint8)
    assert len(read_pages(Media("page", (root / "five.pdf").read_bytes()), pages=3)) == 3
    assert colours(read_pages(Media("page", (root / "scan.tiff").read_bytes()), pages=2)) == list(COLOURS[:2])
    assert [page.size for page in read_pages(Media("page", red))] == [(8, 6)]
    assert [page.size for page in read_pages(Media("page", [red, blue]), pages=5)] == [(8, 6), (8, 6)]
    assert len(read_pages(Media("page", [red, blue]))) == 1
    with pytest.raises(MediaError, match="the list is empty and contains no page"):
        read_pages(Media("page", []))


def test_frames_of_a_tiff_are_pages(root: Path) -> None:
    assert colours(read_pages(media(root, "scan.tiff#page=3,1"))) == [COLOURS[2], COLOURS[0]]
    assert colours(read_pages(media(root, "scan.tiff"), pages=2)) == list(COLOURS[:2])


def test_only_wanted_pages_are_drawn() -> None:
    many = pages([painted((1, 0, 0))] * 10_000)
    began = time.monotonic()
    assert len(read_pages(Media("page", many))) == 1
    assert time.monotonic() - began < 5


def test_a_password_for_changes_alone_opens() -> None:
    locked = encrypted(painted((1, 0, 0)), b"", b"owner")
    assert colours(read_pages(Media("page", locked))) == [COLOURS[0]]


def test_look_says_what_a_file_holds(root: Path) -> None:
    facts = facts_of(media(root, "five.pdf"))
    assert (facts.kind, dict(facts.shape)) == ("pages", {"pages": 5, "height": 300, "width": 200})
    assert facts.details["format"] == "PDF 1.4"
    assert dict(facts_of(media(root, "scan.tiff#page=2")).shape) == {"pages": 3, "height": 60, "width": 40}
    assert dict(facts_of(media(root, "page.png")).shape) == {"pages": 1, "height": 20, "width": 30}
    with pytest.raises(MediaError, match="has no page 7"):
        facts_of(media(root, "five.pdf#page=7"))


def test_hostile_files_are_told_as_well_by_look(tmp_path: Path) -> None:
    for name, fate in files(tmp_path).items():
        if name in ("password.pdf", "no pages.pdf", "noise.pdf", "html.pdf", "huge.tiff"):
            with pytest.raises(MediaError, match=fate):
                facts_of(media(tmp_path, name))


def test_the_helper_process_need_not_import_torch() -> None:
    code = "import sys, omnivit.media.pages; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
