"""How media get onto the chat page: paste, drag and drop, folders, microphone and camera."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_steps import answer, colours_of, drop, ready, set_tokens
from browser_support import Page
from medical_files import series
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.browser
COPY = """
const done = arguments[arguments.length - 1], canvas = new OffscreenCanvas(40, 30), context = canvas.getContext('2d');
context.fillStyle = 'red'; context.fillRect(0, 0, 20, 30);
canvas.convertToBlob({type: 'image/png'})
  .then((blob) => navigator.clipboard.write([new ClipboardItem({'image/png': blob})]))
  .then(() => done('copied'), (error) => done(String(error)));
"""


def test_a_copied_image_is_pasted_beside_the_question(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    allowed = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": address}
    driver.execute_cdp_cmd("Browser.grantPermissions", allowed)
    assert driver.execute_async_script(COPY) == "copied"
    set_tokens(page, 3)
    page.one("#question").send_keys("Is it red?", Keys.CONTROL, "v")
    picture = ready(page, "image")
    assert colours_of(page, picture.find_element("css selector", "img")) > 1
    assert page.one("#question").get_attribute("value") == "Is it red?"
    page.one("#question").clear()
    assert "3 out" in answer(page, "Is it red?").text
    assert page.troubles() == []


def test_dropped_files_go_to_the_input_that_reads_them(
    driver: Chrome, address: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """Several files, of which the slices of a scan are one volume; and a folder, in which the slices have no suffix."""
    page = Page(driver, address)
    drop(driver, files["audio"], *series(tmp_path / "scan", 4), files["page"], files["points"])
    for slot in ("audio", "volume", "page", "points"):
        ready(page, slot)
    assert len(page.all("#attached .medium")) == 4 and not page.one("#drop").is_displayed()
    page.one("#new").click()
    assert not page.all("#attached .medium")
    folder = tmp_path / "disc"
    folder.mkdir()
    for number, file in enumerate(series(tmp_path / "other", 3)):
        (folder / f"IM{number}").write_bytes(file.read_bytes())
    (folder / "DICOMDIR").write_bytes(b"a list of the files")
    drop(driver, folder)
    assert "slice 2 of 3" in ready(page, "volume").text
    set_tokens(page, 3)
    assert "3 out" in answer(page, "Which organ is it?").text
    page.one("#folder-volume").send_keys(str(folder))
    assert "3 files" in ready(page, "volume").text
    assert page.troubles() == []


def test_the_microphone_records_a_wav_file_and_the_camera_takes_a_picture(driver: Chrome, address: str) -> None:
    """Chromium's own devices: a beep every second, and a green picture that moves."""
    page = Page(driver, address)
    set_tokens(page, 3)
    record = next(button for button in page.all("#slots button") if button.text == "Record")
    record.click()
    page.wait(lambda: record.text == "Stop recording" and record.get_attribute("aria-pressed") == "true")
    page.wait(lambda: page.script("window.begun ??= performance.now(); return performance.now() - begun > 1500"))
    record.click()
    sound = ready(page, "audio")
    assert "recording.wav" in sound.text
    assert colours_of(page, sound.find_element("css selector", "canvas.wave")) > 1
    next(button for button in page.all("#slots button") if button.text == "Camera").click()
    page.wait(lambda: page.all("dialog video") and page.script("return document.querySelector('video').videoWidth > 0"))
    take = next(button for button in page.all("dialog button") if button.text == "Take the picture")
    page.wait(take.is_enabled)
    take.click()
    picture = ready(page, "image")
    assert "camera.png" in picture.text and not page.all("dialog video")
    assert colours_of(page, picture.find_element("css selector", "img")) > 1
    assert "3 out" in answer(page, "What is heard and seen?").text
    assert page.troubles() == []
