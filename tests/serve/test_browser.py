"""The chat page in a real browser: conversations with each kind of medium, their previews, and the record of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_steps import answer, attach, colours_of, phone, set_tokens, unnamed
from browser_support import Page
from medical_files import series
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from omnivit.cli import main
from omnivit.data.opening import open_reader

pytestmark = pytest.mark.browser


def test_a_conversation_with_each_kind_of_medium(
    driver: Chrome, address: str, files: dict[str, Path], place: Path
) -> None:
    page = Page(driver, address)
    assert {button.text for button in page.all("#slots button")} >= {f"+ {slot}" for slot in files}
    set_tokens(page, 4)
    for slot, file in files.items():
        attach(page, slot, file)
        words = answer(page, f"What is in this {slot}?").text
        assert "4 out" in words, words
        page.wait(lambda slot=slot: page.all(f".turn.user .medium[data-slot={slot}][data-ready=true]"))
        (drawing, *_) = page.all(f".turn.user [data-slot={slot}] :is(img, canvas)")
        if slot not in ("points", "page"):  # a cloud is looked at below; the pages of this document are white
            assert colours_of(page, drawing) > 1, slot
    assert len(page.all(".turn.user [data-slot=video] .strip img")) == 10
    assert len(page.all(".turn.user [data-slot=page] .strip.pages img")) == 2
    assert page.one(".turn.user [data-slot=image] img").get_property("naturalWidth") == 80
    assert unnamed(driver) == []
    with phone(driver):
        assert page.width() <= 375
        assert all(medium.rect["x"] + medium.rect["width"] <= 375 for medium in page.all(".medium"))
    page.one("#download").click()
    record = page.wait(lambda: list((place / "downloads").glob("*.jsonl")))[0]
    sample = open_reader("messages", record, record.parent)[0]
    assert [medium.source for medium in sample.media()] == [file.read_bytes() for file in files.values()]
    assert page.troubles() == [] and page.strangers() == []


def test_volumes_have_slices_planes_and_windows_and_points_turn(
    driver: Chrome, address: str, files: dict[str, Path]
) -> None:
    page = Page(driver, address)
    volume = attach(page, "volume", files["volume"])

    def source() -> str:
        return str(page.one("#attached [data-slot=volume] img").get_attribute("src"))

    def changed(before: str) -> str:
        page.wait(lambda: source() != before)
        return source()

    image = source()
    page.one("#attached [data-slot=volume] input[type=range]").send_keys(Keys.ARROW_RIGHT)
    image = changed(image)
    plane, window = (Select(select) for select in page.all("#attached [data-slot=volume] select"))
    plane.select_by_value("sagittal")
    image = changed(image)
    window.select_by_value("bone")
    changed(image)
    assert "mm from the middle" in volume.text
    attach(page, "points", files["points"])
    cloud = page.one("#attached canvas.cloud")
    view, pixels = cloud.get_attribute("data-view"), page.script("return arguments[0].toDataURL()", cloud)
    cloud.send_keys(Keys.ARROW_LEFT)
    assert cloud.get_attribute("data-view") != view
    assert page.script("return arguments[0].toDataURL()", cloud) != pixels and colours_of(page, cloud) > 20
    assert page.script("return Boolean(arguments[0].getContext('webgl'))", cloud)


def test_a_question_with_several_media_whose_record_can_be_checked(
    driver: Chrome,
    address: str,
    files: dict[str, Path],
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """DICOM files that are chosen together are one volume, on the page, in the request and in the record."""
    page = Page(driver, address)
    set_tokens(page, 4)
    slices = series(tmp_path / "scan", 5)
    volume = attach(page, "volume", *slices)
    assert "5 files" in volume.text and "slice 3 of 5" in volume.text
    attach(page, "audio", files["audio"])
    attach(page, "image", files["image"])
    attach(page, "image", files["image"])
    assert len(page.all("#attached .medium")) == 4
    answer(page, "What have they in common?")
    answer(page, "And what not?")
    before = set((place / "downloads").iterdir())
    page.one("#download").click()
    (record,) = page.wait(lambda: set((place / "downloads").glob("*.jsonl")) - before)
    sample = open_reader("messages", record, record.parent)[0]
    first, *others = (medium.source for medium in sample.media())
    assert isinstance(first, tuple) and sorted(first) == sorted(file.read_bytes() for file in slices)
    assert others == [files[slot].read_bytes() for slot in ("audio", "image", "image")]
    assert [turn.role for turn in sample.messages] == ["user", "assistant"] * 2
    recipe = (place / "slots.yaml").read_text(encoding="utf-8").replace("held.jsonl", record.name)
    recipe = recipe.replace(f'root: "{place}"', f'root: "{record.parent}"')
    (tmp_path / "again.yaml").write_text(recipe, encoding="utf-8")
    assert main(["check", str(tmp_path / "again.yaml")]) == 0, capsys.readouterr().err
    assert page.troubles() == []


def test_files_that_are_no_volume_together_are_explained_beside_them(
    driver: Chrome, address: str, tmp_path: Path
) -> None:
    page = Page(driver, address)
    (tmp_path / "mixed").mkdir()
    for number, file in enumerate((*series(tmp_path / "one", 2), *series(tmp_path / "two", 2))):
        (tmp_path / "mixed" / f"IM{number}").write_bytes(file.read_bytes())
    page.one("#folder-volume").send_keys(str(tmp_path / "mixed"))
    medium = page.wait(lambda: page.all("#attached .medium[data-ready=failed]"))[0]
    assert "There is no preview" in medium.text and "2 series" in medium.text
