"""The chat page in a real browser: answers that stop, sampling, the key, the comparison, keyboard, screen readers, dark
mode, a phone, and hostile texts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_steps import answer, answered, ask, attach, phone, scheme, set_tokens, slowly, unnamed
from browser_support import Page, running
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import omnivit
from omnivit.engine import Step
from omnivit.run.answering import Answering
from omnivit.serve.app import Settings, create_app

pytestmark = pytest.mark.browser
LONG = 4000
"""Tokens of an answer that is still growing when a test stops it."""
HOSTILE = "<img src=x onerror=window.hacked=1>"
WATCH = """
window.bodies = []; window.urls = [];
const plain = window.fetch;
window.fetch = (url, options) => { urls.push(url); bodies.push(options?.body); return plain(url, options); };
"""
PAIRS = (
    ("ink", "ground"), ("ink", "surface"), ("ink", "tint"), ("ink", "raised"), ("soft", "ground"), ("soft", "surface"),
    ("soft", "raised"), ("accent", "surface"), ("accent", "ground"), ("on-accent", "accent"), ("bad", "bad-tint"),
    ("bad", "surface"), ("good", "surface"),
)  # fmt: skip
"""Colours of texts and what is behind them, as style.css uses them."""


def press(page: Page, text: str) -> None:
    """The button of the last answer."""
    page.all(".turn.assistant .turn-tools")[-1].find_element(By.XPATH, f".//button[text()='{text}']").click()


def test_answers_stop_and_are_asked_again_and_questions_are_edited(
    driver: Chrome, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "pieces", slowly(Answering.pieces))
    page = Page(driver, address)
    set_tokens(page, LONG)
    ask(page, "Talk for long.")
    page.wait(lambda: page.one(".turn.assistant .turn-text").text)
    assert page.one(".turn.assistant").get_attribute("aria-busy") == "true"
    page.one("#stop").click()
    page.wait(lambda: answered(page, 1))
    assert "stopped" in page.one(".turn.assistant .turn-tools").text and page.one("#send").is_displayed()
    press(page, "Ask again")
    page.wait(lambda: page.one(".turn.assistant .turn-text").text)
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.wait(lambda: answered(page, 1) and "stopped" in page.one(".turn.assistant .turn-tools").text)
    set_tokens(page, 3)
    press(page, "Ask again")
    page.wait(lambda: answered(page, 1) and "3 out" in page.one(".turn.assistant .turn-tools").text)
    page.one(".turn.user .turn-tools button").click()
    assert page.one("#question").get_attribute("value") == "Talk for long." and not page.all(".turn")
    page.script("document.getElementById('temperature').value = 9")
    page.one("#question").send_keys(Keys.ENTER)
    assert "temperature" in page.wait(lambda: page.all(".turn-problem"))[0].text


def test_sampling_settings_take_effect(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    page.one("#question").send_keys("Once", Keys.ENTER)  # so that the answer can be asked for again
    page.wait(lambda: answered(page, 1))

    def words(**settings: float) -> str:
        fields = {"temperature": 0, "top_p": 1, "max_tokens": 12, "seed": "", **settings}
        for name, value in fields.items():
            page.script("document.getElementById(arguments[0]).value = arguments[1]", name, value)
        press(page, "Ask again")
        page.wait(lambda: answered(page, 1) and "out" in page.one(".turn.assistant .turn-tools").text)
        return str(page.script("return document.querySelector('.turn.assistant .turn-text').textContent"))

    greedy = words()
    assert words() == greedy
    assert len({words(temperature=1.8, seed=seed) for seed in (1, 2, 3)} | {greedy}) > 2
    assert words(temperature=1.8, seed=1) == words(temperature=1.8, seed=1)
    assert words(temperature=1.8, seed=1, top_p=0.01) == greedy, "the likeliest token alone is left"
    assert words(max_tokens=2) == greedy[: len(words(max_tokens=2))] and "2 out" in page.one(".turn-tools .quiet").text


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
    page.script(WATCH)
    # samples are read before the model is asked; meanwhile nothing else is
    assert page.script("document.querySelector('[title^=\"Ask the same question\"]').click(); return send.hidden")
    verdict = page.wait(lambda: page.all(".side-by-side .verdict"))[0].text
    first, second = (words.text for words in page.all(".side-by-side .turn-text"))
    assert verdict == ("The same answer with another medium." if first == second else "The answers differ.")
    assert "temperature 0" in page.one(".side-by-side").text
    assert len(page.all(".side-by-side .medium[data-slot=image]")) == 2
    asked = [json.loads(body) for body in page.script("return bodies") if isinstance(body, str)]
    asked = [body for body in asked if "messages" in body]
    assert [request["temperature"] for request in asked] == [0, 0] and asked[0]["messages"] != asked[1]["messages"]
    assert page.troubles() == [] and page.strangers() == []


@pytest.fixture
def guarded(place: Path, files: dict[str, Path]) -> Iterator[str]:
    """A server that wants a key, has a hostile name, and does not find its evaluation data."""
    held, run = place / "held.jsonl", place / "run"
    assert files
    held.rename(held.with_suffix(".away"))
    try:
        settings = Settings(name=HOSTILE, run=run, api_key="the-secret-key")
        with running(create_app(omnivit.load(run, "cpu"), settings)) as url:
            yield url
    finally:
        held.with_suffix(".away").rename(held)


def test_the_key_is_asked_for_and_stands_in_no_address(
    driver: Chrome, guarded: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(driver, guarded, is_open=False)
    page.wait(lambda: page.all("#key-dialog[open]"))
    assert unnamed(driver) == [] and not page.one("#key-refused").is_displayed()
    page.one("#key").send_keys(Keys.ESCAPE)
    assert "API key is missing" in page.wait(lambda: page.all("#problem .problem"))[0].text
    driver.refresh()
    page.wait(lambda: page.all("#key-dialog[open]"))
    page.one("#key").send_keys("wrong", Keys.ENTER)
    page.wait(lambda: page.one("#key-refused").is_displayed())
    assert page.one("#key").get_attribute("value") == ""
    page.one("#key").send_keys("the-secret-key", Keys.ENTER)
    page.wait_until_ready()
    assert not page.all("#key-dialog[open]")
    note = page.one("#examples-note")
    assert note.is_displayed() and "cannot be read here" in note.text and "held.jsonl" in note.text
    page.script(WATCH)
    attach(page, "image", files["image"])

    def pieces(_: Answering) -> Iterator[tuple[str, list[Step]]]:
        yield HOSTILE, []
        yield f"<script>window.hacked=1</script>{HOSTILE}", []

    monkeypatch.setattr(Answering, "pieces", pieces)
    set_tokens(page, 2)
    hostile_file = tmp_path / f"{HOSTILE}.png"
    hostile_file.write_bytes(files["image"].read_bytes())
    attach(page, "image", hostile_file)
    words = answer(page, f"{HOSTILE}?").find_element(By.CSS_SELECTOR, ".turn-text").text
    assert words.startswith(HOSTILE) and "<script>" in words
    assert HOSTILE in page.one(".turn.user").text and page.one("#model").text == HOSTILE
    assert page.all(f".turn.user .medium-name[title='{HOSTILE}.png']")
    assert page.script("return window.hacked ?? null") is None
    assert not page.all("img[src=x], .turn script")
    assert "secret" not in driver.current_url and not any("secret" in url for url in page.script("return urls"))
    driver.refresh()
    page.wait_until_ready()  # the tab keeps the key
    assert page.script("return document.cookie + JSON.stringify(localStorage)") in ("{}", '{"omnivit-theme":"light"}')


def test_all_controls_are_reached_by_tab_and_have_names(driver: Chrome, address: str, files: dict[str, Path]) -> None:
    page = Page(driver, address)
    set_tokens(page, 3)
    for slot in ("volume", "audio", "points"):
        attach(page, slot, files[slot])
    visible = page.script(
        "return [...document.querySelectorAll('button, input, select, textarea, canvas[tabindex], a[href]')]"
        ".filter((node) => !node.disabled && node.checkVisibility({visibilityProperty: true})).length"
    )
    reach = "const node = document.activeElement; (window.reached ??= new Set()).add(node); return reached.size"
    page.script("document.activeElement.blur()")
    for _ in range(visible + 6):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        page.script(reach)
    missed = page.script(
        "return [...document.querySelectorAll('button, input, select, textarea, canvas[tabindex], a[href]')]"
        ".filter((node) => !node.disabled && node.checkVisibility({visibilityProperty: true}) && !reached.has(node))"
        ".map((node) => node.outerHTML)"
    )
    assert missed == []
    assert unnamed(driver) == []
    page.script("document.querySelector('label[for=question]').remove(); question.placeholder = ''")
    assert len(unnamed(driver)) == 1, "the check sees a field without a name"


def test_a_conversation_by_keys_alone_is_announced(driver: Chrome, address: str) -> None:
    page = Page(driver, address)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.script("return document.activeElement.matches(arguments[0])", selector):
                return
            driver.switch_to.active_element.send_keys(Keys.TAB)
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#max_tokens")
    driver.switch_to.active_element.send_keys(Keys.CONTROL, "a")
    driver.switch_to.active_element.send_keys("3")
    tab_to("#samples button")
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: page.all("#attached .medium[data-ready=true]"))
    assert page.script("return document.activeElement.id") == "question"
    announcer = page.one("#announcer")
    assert announcer.get_attribute("role") == "status" and announcer.get_attribute("aria-live") == "polite"
    driver.switch_to.active_element.send_keys(" By keys alone?")
    tab_to("#send")
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: answered(page, 1))
    said = page.script(
        "return [announcer.textContent, document.querySelector('.turn.assistant .turn-text').textContent]"
    )
    assert said[0] == f"Answer: {said[1]}"
    tab_to(".turn.assistant .turn-tools button")
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.wait(lambda: answered(page, 1))
    page.one("body").send_keys(Keys.HOME)
    page.script("document.activeElement.blur()")
    tab_to(".skip")
    assert page.one(".skip").is_displayed()
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert driver.current_url.endswith("#question")


def luminance(colour: str) -> float:
    """Of a colour `#rrggbb` (WCAG 2.2, "relative luminance")."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrasts(page: Page) -> dict[tuple[str, str], float]:
    """Contrast ratios (WCAG 2.2) of the pairs that are below 4.5, which level AA asks for."""
    style = "return getComputedStyle(document.documentElement).getPropertyValue(arguments[0]).trim()"
    low = {}
    for pair in PAIRS:
        values = [str(page.script(style, f"--{name}")) for name in pair]
        assert all(re.fullmatch("#[0-9a-f]{6}", value) for value in values), values
        dark, light = sorted(luminance(value) for value in values)
        if (light + 0.05) / (dark + 0.05) < 4.5:
            low[pair] = (light + 0.05) / (dark + 0.05)
    return low


def test_dark_mode_follows_the_system_and_the_button(driver: Chrome, address: str) -> None:
    page = Page(driver, address)
    page.script("localStorage.clear()")
    ground = "return getComputedStyle(document.body).backgroundColor"
    with scheme(driver, "light"):
        driver.refresh()
        page.wait_until_ready()
        light = page.script(ground)
        assert contrasts(page) == {} and page.one("#theme").text == "Dark"
    with scheme(driver, "dark"):
        page.wait(lambda: page.script(ground) != light)
        dark = page.script(ground)
        assert contrasts(page) == {} and page.one("#theme").text == "Light"
        assert page.one("#theme").get_attribute("aria-pressed") == "true"
        assert page.script("return getComputedStyle(document.documentElement).colorScheme") == "dark"
        page.one("#theme").click()
        assert page.script(ground) == light
        driver.refresh()
        page.wait_until_ready()
        assert page.script(ground) == light, "the choice is kept"
    page.one("#theme").click()
    assert page.script(ground) == dark
    page.script("localStorage.clear()")


def test_a_phone_shows_everything_in_its_width(driver: Chrome, address: str, files: dict[str, Path]) -> None:
    page = Page(driver, address)
    with phone(driver):
        assert page.width() <= 375 and page.one("#panel-toggle").is_displayed()
        assert not page.one("#temperature").is_displayed()
        page.one("#panel-toggle").click()
        assert page.one("#temperature").is_displayed() and page.width() <= 375
        assert page.one("#panel-toggle").get_attribute("aria-expanded") == "true"
        page.one("#temperature").send_keys(Keys.ESCAPE)
        page.wait(lambda: not page.one("#temperature").is_displayed())
        set_tokens(page, 30)
        attach(page, "volume", files["volume"])
        answer(page, "A_word_that_is_longer_than_the_phone_is_wide_" * 4)
        assert page.width() <= 375
        small = page.script(
            "return [...document.querySelectorAll('button')].filter((node) => node.checkVisibility()"
            " && node.getBoundingClientRect().height < 24).map((node) => node.outerHTML)"
        )
        assert small == [], "targets of a finger have 24 pixels at least (WCAG 2.2, 2.5.8)"
