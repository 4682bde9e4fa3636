"""Boxes as text, and boxes and masks of heads, over the picture that was asked about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_steps import answer, attach
from browser_support import Page, running
from overlay_support import SIDES, heads_run
from selenium.webdriver import Chrome

import omnivit
from omnivit.contracts.sample import Media, Message, Text
from omnivit.run.reply import Reply
from omnivit.serve.app import Settings, create_app

pytestmark = pytest.mark.browser
Given = tuple[str, Path, Reply]
COLOUR_AT = """
const [canvas, x, y] = arguments, context = canvas.getContext('2d');
return Array.from(context.getImageData(Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1).data);
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Given]:
    """The address of the page, the picture, and what the model answers about it."""
    run, picture = heads_run(tmp_path_factory.mktemp("overlay"))
    assistant = omnivit.load(run, "cpu")
    with running(create_app(assistant, Settings(name="heads", run=run))) as url:
        question = Message("user", (Media("image", str(picture)), Text("Where?")))
        yield url, picture, assistant.respond([question], max_new_tokens=60)


def test_boxes_and_masks_are_drawn_where_the_answer_says(driver: Chrome, given: Given) -> None:
    url, picture, reply = given
    (text_box,) = reply.boxes
    head_box, mask = (prediction.plain() for prediction in reply.predictions)
    assert len(head_box) == 4 and len(mask) == 8, "the model has learnt to write the tokens of its heads"
    page = Page(driver, url)
    assert "box, seg" in page.one("#facts").text
    attach(page, "image", picture)
    shown = answer(page, "Where?")
    canvas = page.wait(lambda: page.all(".turn.user .frame canvas"))[0]
    for name in ("box: [", "seg: 8 x 8 values"):
        assert name in shown.text
    label = canvas.get_attribute("aria-label")
    assert f"box from {round(text_box[0])}, {round(text_box[1])} to {round(text_box[2])}, {round(text_box[3])}" in label
    assert label.count("box from") == 2 and "1 mask" in label

    def colour(x: float, y: float) -> list[int]:
        return list(page.script(COLOUR_AT, canvas, x, y))

    def edge(box: list[float]) -> list[int]:
        """In the middle of its left side."""
        return colour(box[0], (box[1] + box[3]) / 2)

    size = page.script("return [arguments[0].clientWidth, arguments[0].clientHeight]", canvas)
    assert size[0] / size[1] == pytest.approx(SIDES[0] / SIDES[1], rel=0.02), "the picture fills its frame"
    shares = [value / SIDES[at % 2] for at, value in enumerate(text_box)]
    assert edge(shares)[:3] == [255, 107, 74] and edge(head_box)[:3] == [47, 181, 165]
    inside = [[(column + 0.5) / 8, (row + 0.5) / 8] for row in range(8) for column in range(8) if mask[row][column] > 0]
    outside = [
        [(column + 0.5) / 8, (row + 0.5) / 8] for row in range(8) for column in range(8) if mask[row][column] < 0
    ]
    assert inside and outside
    assert sum(colour(x, y)[3] > 0 for x, y in inside) == len(inside)
    assert sum(colour(x, y)[3] == 0 for x, y in outside) >= len(outside) - 12, "boxes cross a few of them"
    assert page.troubles() == []


def test_points_in_mappings_and_shapes_of_no_kind(driver: Chrome, given: Given) -> None:
    """What a head predicts has no type: the page goes by its form."""
    page = Page(driver, given[0])
    draw = """
    const done = arguments[arguments.length - 1];
    import('/static/overlay.js').then(async ({ drawOver }) => {
      const frame = document.createElement('span'), image = new Image();
      frame.className = 'frame';
      frame.append(image);
      document.body.append(frame);
      image.src = '/static/icon.svg';
      await image.decode();
      const labels = arguments[0].map((value) => {
        drawOver(frame, { boxes: [], points: [], predictions: [{ head: 'x', value }] });
        return frame.querySelector('canvas')?.getAttribute('aria-label') ?? null;
      });
      frame.remove();
      done(labels);
    }, (error) => done([String(error)]));
    """
    side = page.script(
        "const i = new Image(); i.src = '/static/icon.svg'; return i.decode().then(() => i.naturalWidth)"
    )
    values = [
        {"point": [0.5, 0.5]},
        {"boxes": [[1, 2, 3, 4], [0, 0, 1, 1]]},
        [[[0, 1, 0], [1, 0, 1]]],
        [3],
        None,
        {"x": 1},
    ]
    labels = driver.execute_async_script(draw, values)
    half = round(side / 2)
    assert labels == [
        f"point at {half}, {half}",
        f"box from 1, 2 to 3, 4; box from 0, 0 to {side}, {side}",
        "1 mask",
        None,
        None,
        None,
    ]
