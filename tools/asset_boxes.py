"""Where is the drawing? Drawings of the quickstart at random places and sizes on plain backgrounds, with their boxes.

The pages have different shapes, so a model that reads its answers off a square has to know how the page was fitted into
it. Drawings of the held-out side are never seen in training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from packages import Package
from PIL import Image

PACKAGES: tuple[Package, ...] = ()
LICENCE = "that of each drawing: samples/LICENSES"

SAMPLES = Path(__file__).parents[1] / "samples"
QUESTION = "Where is the drawing?"
SIZES = ((192, 128), (128, 192), (160, 160), (224, 128), (128, 224))
"""Width and height of a page."""
SHARES = (0.4, 0.9)
"""Longer side of the drawing as a share of the shorter side of the page."""
WHITE = 245
"""A pixel of a drawing with all channels above this is background."""
COUNTS = {"train": 3000, "heldout": 100}
SOURCES = {"train": "align.jsonl", "heldout": "heldout_category.jsonl"}
"""Side -> the file of samples/ with its drawings."""


def build(sources: list[Path], folder: Path) -> None:
    """Write `pages/` and the two files of samples."""
    del sources
    (folder / "pages").mkdir()
    for side, count in COUNTS.items():
        drawings = drawings_of(SAMPLES / SOURCES[side])
        draw = random.Random(f"boxes {side}")
        with (folder / f"{side}.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                page, box = placed(Image.open(draw.choice(drawings)), draw)
                name = f"pages/{side}_{number:04d}.png"
                page.save(folder / name)
                file.write(json.dumps(record(f"{side}/{number:04d}", name, box)) + "\n")


def drawings_of(file: Path) -> list[Path]:
    """The drawings that a file of samples shows, each once."""
    records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    names = {part["image"] for r in records for part in r["messages"][0]["content"] if part["type"] == "image"}
    return [SAMPLES / name for name in sorted(names)]


def placed(drawing: Image.Image, draw: random.Random) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A page with the drawing on it, and its box in pixels: x0, y0, x1, y1."""
    ink = (np.asarray(drawing) < WHITE).any(axis=2)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    frame = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    size = draw.choice(SIZES)
    page = Image.new("RGB", size, tuple(draw.randint(140, 255) for _ in range(3)))
    scale = draw.uniform(*SHARES) * min(size) / max(frame[2] - frame[0], frame[3] - frame[1])
    width, height = (max(4, round(scale * (frame[k + 2] - frame[k]))) for k in (0, 1))
    left, top = draw.randint(0, size[0] - width), draw.randint(0, size[1] - height)
    mask = Image.fromarray(ink.astype(np.uint8) * 255).crop(frame).resize((width, height))
    page.paste(drawing.crop(frame).resize((width, height)), (left, top), mask)
    return page, (left, top, left + width, top + height)


def record(name: str, page: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    """A question about a page, and its box as the answer."""
    question = [{"type": "image", "image": page}, {"type": "text", "text": QUESTION}]
    answer = [{"type": "boxes", "boxes": [list(box)]}]
    return {"id": name, "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
