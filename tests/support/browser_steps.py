"""Steps that tests of the pages share: asking, waiting, and how the browser is made to look like another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser_support import Page
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from omnivit.run.answering import Answering

CONTROLS = frozenset(
    {
        "button", "textbox", "searchbox", "combobox", "checkbox", "slider", "spinbutton", "link", "listbox", "radio",
        "switch", "menuitem", "tab", "ComboBoxSelect", "PopUpButton", "dialog", "img", "image", "region", "group",
    }
)  # fmt: skip
"""Roles whose elements need a name that a screen reader can say."""
DRAWN = """
const canvas = arguments[0], copy = document.createElement('canvas');
[copy.width, copy.height] = [canvas.naturalWidth || canvas.width, canvas.naturalHeight || canvas.height];
const context = copy.getContext('2d');
context.drawImage(canvas, 0, 0, copy.width, copy.height);
const data = context.getImageData(0, 0, copy.width, copy.height).data, colours = new Set();
for (let at = 0; at < data.length; at += 4) colours.add((data[at] << 16) + (data[at + 1] << 8) + data[at + 2]);
return colours.size;
"""


def set_tokens(page: Page, count: int) -> None:
    """How long answers may be."""
    page.script("document.getElementById('max_tokens').value = arguments[0]", count)


def ask(page: Page, question: str) -> None:
    """Type a question and press Enter."""
    page.one("#question").send_keys(question, Keys.ENTER)


def answered(page: Page, count: int) -> bool:
    """Whether there are so many answers, all complete."""
    turns = page.all(".turn.assistant")
    return len(turns) == count and all(turn.get_attribute("aria-busy") == "false" for turn in turns)


def attach(page: Page, slot: str, *files: Path, chooser: str = "file") -> WebElement:
    """Choose files for a slot; the preview, once it is there."""
    page.one(f"#{chooser}-{slot}").send_keys("\n".join(map(str, files)))
    return ready(page, slot)


def ready(page: Page, slot: str) -> WebElement:
    """The preview of the medium that was added last."""
    selector = f"#attached .medium[data-slot={slot}]"
    page.wait(lambda: page.all(selector) and not page.all(f"{selector}:not([data-ready])"))
    medium = page.all(selector)[-1]
    assert medium.get_attribute("data-ready") == "true", medium.text
    return medium


def answer(page: Page, question: str) -> WebElement:
    """Ask, and wait for the complete answer."""
    count = len(page.all(".turn.assistant"))
    ask(page, question)
    page.wait(lambda: answered(page, count + 1))
    assert not page.all(".turn-problem"), page.one("#turns").text
    return page.all(".turn.assistant")[-1]


def colours_of(page: Page, drawing: WebElement) -> int:
    """The number of colours of an image or a canvas: 1 if it is blank."""
    return int(page.script(DRAWN, drawing))


def unnamed(driver: Chrome) -> list[str]:
    """Controls and pictures that have no accessible name, as the browser computes names for screen readers."""
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    nodes = [node for node in nodes if not node.get("ignored")]
    assert sum(node["role"]["value"] in CONTROLS for node in nodes) > 2, "the tree of the page is empty"
    return [
        f"{node['role']['value']} {node.get('properties', '')}"
        for node in nodes
        if node["role"]["value"] in CONTROLS and not str(node.get("name", {}).get("value", "")).strip()
    ]


@contextmanager
def phone(driver: Chrome) -> Iterator[None]:
    """A window of a phone's width."""
    metrics = {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextmanager
def scheme(driver: Chrome, name: str) -> Iterator[None]:
    """A system that asks for `dark` or `light`."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def drop(driver: Chrome, *files: Path) -> None:
    """Drag files from outside over the page, and let them go there."""
    data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        driver.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 300, "data": data})


def slowly(pieces: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same pieces of an answer, twenty a second: a fast machine would be done before the button is pressed."""

    def slow(answering: Answering) -> Iterator[Any]:
        for piece in pieces(answering):
            time.sleep(0.05)
            yield piece

    return slow
