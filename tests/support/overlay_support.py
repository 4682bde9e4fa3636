"""A run that answers with boxes as text, the box of a head and the mask of another head: for tests of overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests_support import RECIPE, write_jsonl

from omnivit.recipe import load
from omnivit.run.folder import create
from omnivit.run.train import train_and_report

SIDES = (80, 60)
"""Width and height of the picture."""
TEXT_BOX = [12, 6, 32, 30]
"""The box that the answer writes, in pixels."""
HEAD_BOX = [0.5, 0.25, 0.9, 0.75]
"""What the head `box` learns, in shares of the sides."""
HEADS = """
  boxes: {codec: minigpt_v2}
  heads:
    box: {name: head_support:Boxes, hidden: 24}
    seg: {name: head_support:Masks}
stages:
  - name: point
    data: [{path: boxes.jsonl}]
    train: {"heads.*": 1.0e-2, "llm.*": 3.0e-3, "adapters.*": 3.0e-3}
    losses: {lm: 1, box: 2, seg: 1}
    steps: 300
    batch_size: 4
"""


def heads_run(root: Path) -> tuple[Path, Path]:
    """The run folder and the picture that it was trained on, and on nothing else."""
    picture = root / "picture.png"
    Image.new("RGB", SIDES, (220, 220, 220)).save(picture)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:, :4] = 1
    np.save(root / "mask.npy", mask)
    question = [{"type": "image", "image": picture.name}, {"type": "text", "text": "Where?"}]
    answer: list[dict[str, Any]] = [
        {"type": "boxes", "boxes": [TEXT_BOX]},
        {"type": "target", "head": "box", "target": HEAD_BOX},
        {"type": "target", "head": "seg", "target": "mask.npy"},
    ]
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    write_jsonl(root / "boxes.jsonl", [{"id": f"b{number}", "messages": turns} for number in range(8)])
    text = RECIPE.format(root=root)
    text = text[: text.index("    lora:")] + text[text.index("  inputs:") : text.index("stages:")].rstrip() + HEADS
    recipe = root / "heads.yaml"
    recipe.write_text(text + RECIPE.format(root=root)[RECIPE.format(root=root).index("trainer:") :], encoding="utf-8")
    loaded = load(recipe)
    create(root / "run", loaded)
    train_and_report(loaded, root / "run", resume=False)
    return root / "run", picture
