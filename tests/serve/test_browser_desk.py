"""The desk in a real browser: runs laid over each other, held-out answers with their media, and a run that trains."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from browser_steps import colours_of, phone, scheme, unnamed
from browser_support import Page, running
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from omnivit.run.folder import RECIPE
from omnivit.run.lock import hold
from omnivit.run.runs import REPORT
from omnivit.serve.app import Settings
from omnivit.serve.desk.app import create_desk

pytestmark = pytest.mark.browser
HOSTILE = "<img src=x onerror=window.hacked=1>"


def copied(run: Path, target: Path, **changes: str) -> Path:
    """A copy of a run whose recipe has other values of these keys (the first of each)."""
    shutil.copytree(run, target)
    recipe = target / RECIPE
    text = recipe.read_text(encoding="utf-8")
    for key, value in changes.items():
        text, count = re.subn(rf"(?m)^( *){key}: .*$", rf"\g<1>{key}: {value}", text, count=1)
        assert count == 1, key
    recipe.write_text(text, encoding="utf-8")
    return target


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "answers.jsonl").read_text(encoding="utf-8").splitlines()]


def write_answers(run: Path, answers: list[dict[str, Any]]) -> None:
    lines = (json.dumps(answer) + "\n" for answer in answers)
    (run / "answers.jsonl").write_text("".join(lines), encoding="utf-8")


def test_the_desk_compares_runs(driver: Chrome, trained_run: Path, tmp_path: Path) -> None:
    copied(trained_run, tmp_path / "first")
    copied(trained_run, tmp_path / HOSTILE, seed="77")
    with running(create_desk(tmp_path, Settings(name="desk"))) as url:
        page = Page(driver, url)
        rows = page.all("#runs tbody tr")
        assert len(rows) == 2 and all("finished" in row.text and "3 of 3" in row.text for row in rows)
        assert len(page.all("#chart .curve")) == 2 and len(page.all("#chart .stage")) == 1
        assert "align" in page.one("#chart").text and HOSTILE in page.one("#chart .legend").text
        assert "seed" in page.one("#differences").text and len(page.all("#differences .differs")) == 1
        table = page.one("#tables").text
        assert "accuracy" in table and re.search(r"\d\.\d% \[\d+\.\d%, \d+\.\d%\], n = 8", table), table
        for name, label in (("validation_loss", "Validation loss of"), ("lr", "Learning rate of")):
            Select(page.one("#curve")).select_by_value(name)
            page.wait(lambda label=label: page.all(f"#chart svg[aria-label^='{label}']"))
            assert len(page.all("#chart .curve")) == 2
        assert page.script("return window.hacked ?? null") is None and not page.all("img[src=x]")
        assert unnamed(driver) == []
        page.all("#runs input")[0].send_keys(Keys.SPACE)
        page.wait(lambda: len(page.all("#chart .curve")) == 1)
        with phone(driver):
            assert page.width() <= 375
        light = page.script("return getComputedStyle(document.body).backgroundColor")
        with scheme(driver, "dark"):
            page.wait(lambda: page.script("return getComputedStyle(document.body).backgroundColor") != light)
        assert page.troubles() == [] and page.strangers() == []


def test_held_out_answers_are_filtered_and_show_their_media(
    driver: Chrome, trained_run: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    root = next(iter(files.values())).parent
    run = copied(trained_run, tmp_path / "run", root=str(root))
    answers = records(run)
    for answer in answers:
        answer["media"] = []
    for answer, (slot, file) in zip(answers, files.items(), strict=False):
        answer["media"] = [{"slot": slot, "source": file.name}]
        answer["prediction"] = HOSTILE
    write_answers(run, answers)
    with running(create_desk(tmp_path, Settings(name="desk"))) as url:
        page = Page(driver, url)
        cards = page.wait(lambda: page.all("#answers .answer"))
        assert "wrong" in page.one("#answers-note").text and HOSTILE in page.one("#answers").text
        rights = ["wrong" not in card.get_attribute("class") for card in cards]
        assert rights == sorted(rights) and False in rights
        thumbs = {thumb.get_attribute("title"): thumb for thumb in page.all("#answers button.thumb")}
        picture = page.wait(lambda: thumbs["shapes.png"].find_elements("css selector", "img"))[0]
        assert colours_of(page, picture) > 1
        assert unnamed(driver) == []
        for slot, file in files.items():
            thumbs[file.name].click()
            page.wait(lambda: "Loading" not in page.one("#medium-preview").text)
            drawings = page.all("#medium-preview :is(img, canvas)")
            assert drawings and slot in page.one("#medium-name").text, page.one("#medium-dialog").text
            assert unnamed(driver) == []
            page.one("#medium-dialog button.primary").click()
            page.wait(lambda: not page.all("#medium-dialog[open]"))
        classes = [option.get_attribute("value") for option in page.all("#group option")]
        assert len(classes) > 2 and classes[0] == ""
        Select(page.one("#group")).select_by_value(classes[1])
        kept = [answer for answer in answers if answer["condition"] == "true" and answer["reference"] == classes[1]]
        page.wait(lambda: len(page.all("#answers .answer")) == len(kept))
        Select(page.one("#group")).select_by_value("")
        Select(page.one("#right")).select_by_value("right")
        page.wait(lambda: not page.all("#answers .answer.wrong"))
        Select(page.one("#right")).select_by_value("wrong")
        page.wait(lambda: page.all("#answers .answer.wrong"))
        Select(page.one("#condition")).select_by_value("none")
        page.wait(lambda: HOSTILE not in page.one("#answers").text)
        page.one("#text").send_keys("no answer has this text")
        page.wait(lambda: not page.all("#answers .answer"))
        assert page.script("return window.hacked ?? null") is None
        assert page.troubles() == [] and page.strangers() == []


def test_a_run_that_trains_is_followed(driver: Chrome, trained_run: Path, tmp_path: Path) -> None:
    run = copied(trained_run, tmp_path / "run")
    answers, report = records(run), (run / REPORT).read_text(encoding="utf-8")
    for name in ("answers.jsonl", REPORT):
        (run / name).unlink()
    log = max(run.glob("logs/instruct/version_*/metrics.csv"))
    with running(create_desk(tmp_path, Settings(name="desk"))) as url:
        with hold(run):
            page = Page(driver, url)
            row = page.one("#runs tbody tr").text
            assert "running" in row and "1 running" in page.one("#facts").text
            assert "no answers yet" in page.one("#answers-note").text and "no report yet" in page.one("#tables").text
            drawn = "return document.querySelector('#chart .curve').getAttribute('d')"
            curve = page.script(drawn)
            with log.open(newline="", encoding="utf-8") as stream:
                names = csv.DictReader(stream).fieldnames
            assert names is not None
            with log.open("a", newline="", encoding="utf-8") as stream:
                csv.DictWriter(stream, names).writerow({"optimizer_step": 4, "loss": 9.25})
            page.wait(lambda: page.script(drawn) != curve)
            assert "4" in page.script("return document.querySelector('#runs tbody').innerText")
            write_answers(run, answers)
            (run / REPORT).write_text(report, encoding="utf-8")
        page.wait(lambda: "finished" in page.script("return document.querySelector('#runs tbody').innerText"))
        page.wait(lambda: page.all("#answers .answer"))
        assert "accuracy" in page.one("#tables").text
        assert page.troubles() == []


def test_curves_are_smoothed_within_their_stage(driver: Chrome, trained_run: Path, tmp_path: Path) -> None:
    """A stage that ends at 10 and one that begins at 1: no smoothed value lies between."""
    copied(trained_run, tmp_path / "run")
    points = [[step, 10 if step <= 60 else 1] for step in range(1, 121)]
    call = """
    const [points, ends, done] = arguments;
    import('/static/chart.js').then(({ smoothed }) => done(smoothed(points, ends)), (error) => done(String(error)));
    """
    with running(create_desk(tmp_path, Settings(name="desk"))) as url:
        Page(driver, url)
        assert driver.execute_async_script(call, points, [60, 120]) == points
        across = driver.execute_async_script(call, points, [120])
        assert 1 < across[60][1] < 10, "in one stage, neighbours count"
