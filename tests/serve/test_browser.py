"""The pages in a real browser: conversations with each kind of medium, stopping, downloads, keyboard, small windows."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import Page, browser, running
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from slots_support import slots_run

import omnivit
from omnivit.data.opening import open_reader
from omnivit.run.answering import Answering
from omnivit.serve.app import Settings, create_app
from omnivit.serve.desk.app import create_desk

pytestmark = pytest.mark.browser
SECONDS_OF_TOKENS = 4000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def files(place: Path) -> dict[str, Path]:
    return slots_run(place)[1]


@pytest.fixture(scope="module")
def driver(place: Path) -> Iterator[Chrome]:
    with browser(place / "downloads") as opened:
        yield opened


@pytest.fixture(scope="module")
def address(place: Path, files: dict[str, Path]) -> Iterator[str]:
    run = place / "run"
    assert files
    with running(create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run))) as url:
        yield url


def set_tokens(page: Page, count: int) -> None:
    page.script("document.getElementById('max_tokens').value = arguments[0]", count)


def ask(page: Page, question: str) -> None:
    page.one("#question").send_keys(question, Keys.ENTER)


def answered(page: Page, count: int) -> bool:
    turns = page.all(".turn.assistant")
    return len(turns) == count and all(turn.get_attribute("aria-busy") == "false" for turn in turns)


def test_a_conversation_with_each_kind_of_medium(
    driver: Chrome, address: str, files: dict[str, Path], place: Path
) -> None:
    page = Page(driver, address)
    assert {button.text for button in page.all("#slots button")} >= {f"+ {slot}" for slot in files}
    set_tokens(page, 4)
    for count, (slot, file) in enumerate(files.items(), 1):
        page.one(f"#file-{slot}").send_keys(str(file))
        page.wait(lambda slot=slot: page.all(f"#attached .medium[data-slot={slot}][data-ready=true]"))
        ask(page, f"What is in this {slot}?")
        page.wait(lambda count=count: answered(page, count))
        assert not page.all(".turn-problem"), page.one("#turns").text
        page.wait(lambda slot=slot: page.all(f".turn.user .medium[data-slot={slot}][data-ready=true]"))
    assert len(page.all(".turn.user [data-slot=video] .strip img")) == 10
    assert len(page.all(".turn.user [data-slot=page] .strip.pages img")) == 2
    slider = page.one(".turn.user [data-slot=volume] input[type=range]")
    before = page.one(".turn.user [data-slot=volume] img").get_attribute("src")
    slider.send_keys(Keys.ARROW_RIGHT)
    assert page.one(".turn.user [data-slot=volume] img").get_attribute("src") != before
    cloud = page.one(".turn.user canvas.cloud")
    view = cloud.get_attribute("data-view")
    cloud.send_keys(Keys.ARROW_LEFT)
    assert cloud.get_attribute("data-view") != view
    lit = "const c = arguments[0], g = c.getContext('webgl'), p = new Uint8Array(4 * c.width * c.height);"
    lit += "g.readPixels(0, 0, c.width, c.height, g.RGBA, g.UNSIGNED_BYTE, p); return p.filter((v) => v > 120).length;"
    assert page.script(lit, cloud) > c_alpha(page, cloud)
    page.one("#download").click()
    record = page.wait(lambda: list((place / "downloads").glob("*.jsonl")))[0]
    sample = open_reader("messages", record, record.parent)[0]
    assert [medium.source for medium in sample.media()] == [file.read_bytes() for file in files.values()]
    assert page.troubles() == [] and page.strangers() == []


def c_alpha(page: Page, canvas: object) -> int:
    """The bytes above 120 of an empty canvas: those of its opacity."""
    return int(page.script("return arguments[0].width * arguments[0].height", canvas))


def slowly(pieces: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same pieces of an answer, twenty a second: a fast machine would be done before the button is pressed."""

    def slow(answering: Answering) -> Iterator[Any]:
        for piece in pieces(answering):
            time.sleep(0.05)
            yield piece

    return slow


def test_answers_stop_and_are_asked_again_and_questions_are_edited(
    driver: Chrome, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "pieces", slowly(Answering.pieces))
    page = Page(driver, address)
    set_tokens(page, SECONDS_OF_TOKENS)
    ask(page, "Talk for long.")
    page.wait(lambda: page.one(".turn.assistant .turn-text").text)
    page.one("#stop").click()
    page.wait(lambda: answered(page, 1))
    assert "stopped" in page.one(".turn.assistant .turn-tools").text and page.one("#send").is_displayed()
    set_tokens(page, 3)
    page.one(".turn.assistant .turn-tools").find_element(By.XPATH, ".//button[text()='Ask again']").click()
    page.wait(lambda: answered(page, 1) and "3 out" in page.one(".turn.assistant .turn-tools").text)
    page.one(".turn.user .turn-tools button").click()
    assert page.one("#question").get_attribute("value") == "Talk for long." and not page.all(".turn")
    page.script("document.getElementById('temperature').value = 9")
    page.one("#question").send_keys(Keys.ENTER)
    assert "temperature" in page.wait(lambda: page.all(".turn-problem"))[0].text


def test_samples_and_does_it_look(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    set_tokens(page, 4)
    page.wait(lambda: page.all("#samples button"))[0].click()
    page.wait(lambda: page.all("#attached .medium[data-ready=true]"))
    assert page.one("#question").get_attribute("value") == "Which colour is it?"
    assert page.one("#examples-note").text == "From the run's evaluation data."
    page.script("document.getElementById('temperature').value = 1.5")
    page.one("#question").send_keys(Keys.ENTER)
    page.wait(lambda: answered(page, 1))
    page.script(
        "window.bodies = []; const f = fetch; window.fetch = (u, o) => { bodies.push(o?.body); return f(u, o); };"
    )
    page.one(".turn.assistant .turn-tools").find_element(By.XPATH, ".//button[text()='Does it look?']").click()
    verdict = page.wait(lambda: page.all(".side-by-side .verdict"))[0].text
    first, second = (answer.text for answer in page.all(".side-by-side .turn-text"))
    assert verdict == ("The same answer with another medium." if first == second else "The answers differ.")
    assert "temperature 0" in page.one(".side-by-side").text
    assert len(page.all(".side-by-side .medium[data-slot=image]")) == 2
    asked = [json.loads(body) for body in page.script("return bodies") if isinstance(body, str)]
    assert [request["temperature"] for request in asked] == [0, 0] and asked[0]["messages"] != asked[1]["messages"]
    assert page.troubles() == [] and page.strangers() == []


@pytest.mark.usefixtures("files")
def test_evaluation_data_that_cannot_be_read_are_explained(driver: Chrome, place: Path) -> None:
    held, run = place / "held.jsonl", place / "run"
    held.rename(held.with_suffix(".away"))
    try:
        with running(create_app(omnivit.load(run, "cpu"), Settings(name="tiny", run=run))) as url:
            note = Page(driver, url).one("#examples-note")
            assert note.is_displayed() and "cannot be read here" in note.text and "held.jsonl" in note.text
    finally:
        held.with_suffix(".away").rename(held)


def test_recordings_become_wav_files_and_pictures(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    record = next(button for button in page.all("#slots button") if button.text == "Record")
    record.click()
    page.wait(lambda: record.text == "Stop recording")
    page.wait(lambda: page.script("return performance.now()") > 1500)
    record.click()
    page.wait(lambda: page.all("#attached .medium[data-slot=audio][data-ready=true]"))
    assert "recording.wav" in page.one("#attached").text


def test_keyboard_dark_mode_and_a_phone(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    set_tokens(page, 3)
    for _ in range(40):
        if page.script("return document.activeElement.id") == "question":
            break
        driver.switch_to.active_element.send_keys(Keys.TAB)
    driver.switch_to.active_element.send_keys("By keys alone?", Keys.TAB)
    while page.script("return document.activeElement.id") != "send":
        driver.switch_to.active_element.send_keys(Keys.TAB)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: answered(page, 1))
    assert "Answer" in page.script("return document.getElementById('announcer').textContent")
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(ground)
    page.one("#theme").click()
    assert page.script(ground) != light and page.one("#theme").get_attribute("aria-pressed") == "true"
    page.one("#theme").click()
    narrow(driver, True)
    try:
        assert not page.is_wider_than_window() and page.one("#panel-toggle").is_displayed()
        page.one("#panel-toggle").click()
        assert page.one("#temperature").is_displayed()
    finally:
        narrow(driver, False)


def narrow(driver: Chrome, on: bool) -> None:
    """A window of a phone's width."""
    if on:
        metrics = {"width": 375, "height": 740, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    else:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_desk_compares_runs(driver: Chrome, trained_run: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        shutil.copytree(trained_run, tmp_path / name)
    recipe = tmp_path / "second" / "recipe.yaml"
    recipe.write_text(re.sub(r"(?m)^seed: \d+", "seed: 77", recipe.read_text(encoding="utf-8")), encoding="utf-8")
    assert "seed: 77" in recipe.read_text(encoding="utf-8")
    with running(create_desk(tmp_path, Settings(name="desk"))) as url:
        page = Page(driver, url)
        assert len(page.all("#runs tbody tr")) == 2 and len(page.all("#chart .curve")) == 2
        assert "seed" in page.one("#differences").text and "accuracy" in page.one("#tables").text
        answers = page.wait(lambda: page.all("#answers .answer"))
        assert "wrong" in page.one("#answers-note").text
        rights = ["wrong" not in answer.get_attribute("class") for answer in answers]
        assert rights == sorted(rights)
        page.one("#text").send_keys("no answer has this text")
        page.wait(lambda: not page.all("#answers .answer"))
        page.all("#runs input")[0].send_keys(Keys.SPACE)
        page.wait(lambda: len(page.all("#chart .curve")) == 1)
        narrow(driver, True)
        try:
            assert not page.is_wider_than_window()
        finally:
            narrow(driver, False)
        assert page.troubles() == [] and page.strangers() == []
