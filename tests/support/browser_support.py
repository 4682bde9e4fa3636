"""A real browser, Debian's chromium without a window, and apps that it talks to."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from omnivit.serve.running import bound

MISSING = "Browser tests need chromium and chromedriver; on Debian: apt-get install chromium chromium-driver"
PATIENCE = 60.0


@contextmanager
def browser(downloads: Path) -> Iterator[Chrome]:
    """Chromium that writes its console and its requests into logs."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    assert chromium and driver, MISSING
    options = ChromeOptions()
    options.binary_location = chromium
    flags = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
             "--disable-background-networking", "--disable-component-update", "--no-first-run",
             "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--enable-unsafe-swiftshader",
             "--force-prefers-reduced-motion")  # fmt: skip
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    opened = Chrome(options, Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of an app that runs in a thread."""
    with bound("127.0.0.1", 0) as place:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


class Page:
    """What a person does on a page."""

    def __init__(self, driver: Chrome, address: str, is_open: bool = True) -> None:
        """Open an address; `is_open`: and wait until the page is ready, as it will be without a key."""
        self.driver, self.address = driver, address
        for log in ("browser", "performance"):
            driver.get_log(log)  # empties it
        driver.get(address)
        if is_open:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        self.wait(lambda: self.script("return document.body?.dataset.ready === 'true'"))

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
        """The first true value of a condition."""
        end = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < end, f"waited in vain; the page says: {self.one('body').text[:600]}"
            time.sleep(0.1)
        return value

    def troubles(self) -> list[str]:
        """Errors in the console, refusals by the content security policy included."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def strangers(self) -> list[str]:
        """Requests of this page to other hosts."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith((self.address, "data:", "blob:"))]

    def width(self) -> int:
        """Of all that can be scrolled to, in CSS pixels."""
        return int(self.script("return document.documentElement.scrollWidth"))
