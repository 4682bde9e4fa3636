"""Make the pictures of the pages in docs/images from trained runs.

    python tools/screenshots.py runs/quickstart runs/other ...       chat.png, desk.png and answers.png
    python tools/screenshots.py --kinds runs/any_modality_small      a conversation with each input: chat_SLOT.png

Without `--kinds`, the first run answers a question, and the desk compares all. The data of the first run's evaluation
have to be there. It needs `selenium`, chromium and chromedriver, as the browser tests do.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from PIL import Image

import omnivit
from omnivit.serve.app import Settings, create_app
from omnivit.serve.desk.app import create_desk

if TYPE_CHECKING:
    from browser_support import Page
    from selenium.webdriver import Chrome

ROOT = Path(__file__).parents[1]
SUPPORT, IMAGES = ROOT / "tests/support", ROOT / "docs/images"
SIZE = (1280, 1320)
DESK_SIZE = (1280, 1180)
ANSWERS_HEIGHT = 560
KIND_SIZE = (760, 420)
"""So narrow that the panel with the settings is closed; the height grows with the conversation."""
MAX_BYTES = 120_000
COLOURS = (256, 128, 64, 32)
TOKENS = 32
PICKED = {"image": 3, "page": 4, "points": 2, "audio": 1}
"""Slot -> place of the sample among those of the slot, where the first one shows little (such as an empty page)."""


def main() -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first is talked with")
    parser.add_argument("--kinds", action="store_true", help="a conversation with each kind of input of the run")
    parser.add_argument("--out", type=Path, default=IMAGES, metavar="DIR", help="default: docs/images")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="place of the example, from 0 to 7")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(SUPPORT))
    from browser_support import Page, browser, running

    with tempfile.TemporaryDirectory() as name, browser(Path(name)) as driver:
        settings = Settings(name=args.runs[0].resolve().name, run=args.runs[0])
        with running(create_app(omnivit.load(args.runs[0], "cpu"), settings)) as address:
            if args.kinds:
                kinds(driver, address, Path(name), args.out)
                return
            driver.set_window_size(*SIZE)
            chat(Page(driver, address), args.sample)
            save(driver.get_screenshot_as_png(), args.out / "chat.png")
        driver.set_window_size(*DESK_SIZE)
        folder = Path(name) / "runs"
        for run in args.runs:
            shutil.copytree(run, folder / run.resolve().name, ignore=shutil.ignore_patterns("checkpoints"))
        with running(create_desk(folder, Settings(name="desk"))) as address:
            desk(Page(driver, address), args.runs[0].resolve().name, args.out)


def kinds(driver: Chrome, address: str, folder: Path, out: Path) -> None:
    """Ask a question of the evaluation about a medium of each input."""
    from browser_steps import answer, attach, set_tokens
    from browser_support import Page

    with urlopen(f"{address}/v1/models") as response:
        slots = [given["slot"] for given in json.load(response)["data"][0]["inputs"]]
    for slot in slots:
        with urlopen(f"{address}/ui/samples?other={slot}") as response:
            samples = json.load(response)["samples"]
        sample = samples[min(PICKED.get(slot, 0), len(samples) - 1)]
        files = []
        for number, name in enumerate(sample["media"][0]["files"]):
            files.append(folder / name.partition("#")[0])
            with urlopen(f"{address}/ui/samples/{sample['index']}/0?file={number}") as response:
                files[-1].write_bytes(response.read())
        view(driver, *KIND_SIZE)
        page = Page(driver, address)
        set_tokens(page, TOKENS)
        attach(page, slot, *files)
        words = answer(page, sample["question"]).find_element("css selector", ".turn-text").text
        print(f"{slot}: {sample['question']} {words!r}, expected {sample['answer']!r}")
        page.script("document.activeElement.blur(); window.scrollTo(0, 0)")
        view(driver, KIND_SIZE[0], page.script("return document.documentElement.scrollHeight"))
        save(driver.get_screenshot_as_png(), out / f"chat_{slot}.png")


def view(driver: Chrome, width: int, height: int) -> None:
    """Let the page be so large, without a window around it."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def chat(page: Page, number: int) -> None:
    """Ask the question of an example, and whether the answer depends on its medium."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page.wait(lambda: page.all("#samples button"))[number].click()
    page.wait(lambda: page.all("#attached .medium[data-ready=true]"))
    page.one("#question").send_keys(Keys.ENTER)
    page.wait(lambda: page.all(".turn.assistant[aria-busy=false]"))
    page.one(".turn.assistant").find_element(By.XPATH, ".//button[text()='Does it look?']").click()
    page.wait(lambda: page.all(".side-by-side .verdict"))
    page.script("document.activeElement.blur(); window.scrollTo(0, 0)")


def desk(page: Page, name: str, out: Path) -> None:
    """The top of the desk, and the answers of a run."""
    from selenium.webdriver.support.ui import Select

    page.wait(lambda: page.all("#tables table"))
    save(page.driver.get_screenshot_as_png(), out / "desk.png")
    Select(page.one("#answers-run")).select_by_visible_text(name)
    page.wait(lambda: page.all("#answers .thumb img"))
    page.wait(lambda: len(page.all("#answers .thumb img")) == len(page.all("#answers .thumb")))
    section = "document.getElementById('answers-title').closest('section')"
    top = int(page.script(f"{section}.scrollIntoView(); return {section}.getBoundingClientRect().top"))
    page.script("document.querySelector('.bar').style.visibility = 'hidden'")  # it would cover the title
    save(page.driver.get_screenshot_as_png(), out / "answers.png", (top, top + ANSWERS_HEIGHT))


def save(picture: bytes, file: Path, part: tuple[int, int] | None = None) -> None:
    """Write a picture, or the part from one height to another, with as many colours as fit into `MAX_BYTES`."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image = image.crop((0, part[0], image.width, min(part[1], image.height))) if part else image
    for colours in COLOURS:
        image.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= MAX_BYTES:
            print(f"{file}: {image.width} x {image.height}, {colours} colours, {file.stat().st_size:,} bytes")
            return
    sys.exit(f"{file} is larger than {MAX_BYTES:,} bytes with {COLOURS[-1]} colours")


if __name__ == "__main__":
    main()
