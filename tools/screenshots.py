"""Make the pictures of the pages in docs/images, chat.png and desk.png, from trained runs.

    python tools/screenshots.py runs/quickstart runs/other ...

The first run answers a question on the chat page; the desk compares all. The data of the first run's evaluation have to
be there. It needs `selenium`, chromium and chromedriver, as the browser tests do.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

import omnivit
from omnivit.serve.app import Settings, create_app
from omnivit.serve.desk.app import create_desk

if TYPE_CHECKING:
    from browser_support import Page

ROOT = Path(__file__).parents[1]
SUPPORT, IMAGES = ROOT / "tests/support", ROOT / "docs/images"
SIZE = (1280, 1320)
MAX_BYTES = 150_000
COLOURS = (256, 128, 64, 32)


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders; the first is talked with")
    parser.add_argument("--out", type=Path, default=IMAGES, metavar="DIR", help="default: docs/images")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="place of the example, from 0 to 7")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(SUPPORT))
    from browser_support import Page, browser, running

    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as driver:
        driver.set_window_size(*SIZE)
        settings = Settings(name=args.runs[0].resolve().name, run=args.runs[0])
        with running(create_app(omnivit.load(args.runs[0], "cpu"), settings)) as address:
            chat(Page(driver, address), args.sample)
            save(driver.get_screenshot_as_png(), args.out / "chat.png")
        desk_folder = Path(folder) / "runs"
        for run in args.runs:
            shutil.copytree(run, desk_folder / run.resolve().name, ignore=shutil.ignore_patterns("checkpoints"))
        with running(create_desk(desk_folder, Settings(name="desk"))) as address:
            page = Page(driver, address)
            page.wait(lambda: page.all("#answers .answer"))
            save(driver.get_screenshot_as_png(), args.out / "desk.png")


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


def save(picture: bytes, file: Path) -> None:
    """Write a picture with as many colours as fit into `MAX_BYTES`."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        image.quantize(colours, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size <= MAX_BYTES:
            print(f"{file}: {image.width} x {image.height}, {colours} colours, {file.stat().st_size:,} bytes")
            return
    sys.exit(f"{file} is larger than {MAX_BYTES:,} bytes with {COLOURS[-1]} colours")


if __name__ == "__main__":
    main()
