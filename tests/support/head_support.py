"""A head for tests, named in recipes as `head_support:Boxes`, and a recipe and data that use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests_support import COLOURS, text_record, write_jsonl
from torch import Tensor, nn

from omnivit.contracts.examples import HeadExample
from omnivit.contracts.head import Head, HeadOutput, TargetProcessor
from omnivit.contracts.sample import Target
from omnivit.data.head_targets import Numbers
from omnivit.errors import MediaError
from omnivit.media.arrays import read_array

BOXES = {"red": [0.1, 0.1, 0.5, 0.4], "green": [0.2, 0.5, 0.9, 0.8], "blue": [0.6, 0.1, 0.9, 0.3]}
"""Where a picture of each colour is said to have something; grey ones have nothing."""
HEADS = """
  heads:
    box: {name: head_support:Boxes, hidden: 24}
stages:
  - name: point
    data: [{path: boxes.jsonl}]
    train: {"heads.*": 5e-3, "llm.*": 5e-3, "adapters.*": 5e-3}
    losses: {lm: 1, box: 2}
    batch_size: 8
"""
"""In place of the stages of the shared recipe."""


class Boxes(Head):
    """A box for each `[BOX]`."""

    token = "[BOX]"
    losses = ("corners", "size")

    @dataclass
    class Config:
        """What a recipe may say."""

        hidden: int = 16
        """Width between the layers."""

    def __init__(self, config: Config, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.layers = nn.Sequential(nn.Linear(llm_width, config.hidden), nn.GELU(), nn.Linear(config.hidden, 4))

    def processor(self) -> TargetProcessor:
        return Numbers("boxes", (4,))

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        boxes = self.layers(states).sigmoid()
        if targets is None:
            return HeadOutput({}, boxes)
        away = (boxes - targets["boxes"]).abs()
        return HeadOutput({"corners": away.sum(), "size": 0.5 * away[:, 2:].sum()}, boxes)


class BoxesBefore(Boxes):
    """Reads the state from which the LLM predicts the token."""

    reads_before = True


class MaskReader:
    """Reads masks out of .npy files; says their size, since the collator fills them up."""

    def __call__(self, target: Target) -> dict[str, Tensor]:
        found = read_array(target.media(), check=flat)
        return {"mask": torch.from_numpy(found != 0), "size": torch.tensor(found.shape)}

    def fingerprint(self) -> str:
        return "masks"


def flat(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or 0 in shape:
        raise MediaError(f"is {list(shape)}; a mask has a height and a width")


class Masks(Head):
    """A mask for each `[SEG]`, as the sum of a row and a column of logits; of any size."""

    token = "[SEG]"
    losses = ("mask",)
    contract = 1
    Config = Boxes.Config
    SIDE = 8

    def __init__(self, config: Boxes.Config, llm_width: int) -> None:
        super().__init__(config, llm_width)
        self.edges = nn.Linear(llm_width, 2 * self.SIDE)

    def processor(self) -> TargetProcessor:
        return MaskReader()

    def forward(self, states: Tensor, targets: Mapping[str, Tensor] | None = None) -> HeadOutput:
        rows, columns = self.edges(states.to(self.edges.weight.dtype)).chunk(2, dim=1)
        logits = rows[:, :, None] + columns[:, None, :]
        if targets is None:
            return HeadOutput({}, logits)
        height, width = targets["mask"].shape[1:]
        ours = nn.functional.pad(logits, (0, width - self.SIDE, 0, height - self.SIDE)).float()
        apart = nn.functional.binary_cross_entropy_with_logits(ours, targets["mask"].float(), reduction="none")
        inside = torch.arange(height, device=ours.device)[:, None] < targets["size"][:, 0, None, None]
        inside = inside & (torch.arange(width, device=ours.device) < targets["size"][:, 1, None, None])
        return HeadOutput({"mask": (apart * inside).sum()}, logits)

    @classmethod
    def example(cls, folder: Path) -> HeadExample:
        """Three masks of other sizes."""
        for number, shape in enumerate(((8, 5), (3, 8), (6, 6))):
            np.save(folder / f"{number}.npy", np.eye(*shape, dtype=np.uint8))
        return HeadExample([f"{number}.npy" for number in range(3)])


def answer(colour: str) -> list[dict[str, Any]]:
    """The words of an answer, and where there is a box, that too."""
    words: list[dict[str, Any]] = [{"type": "text", "text": colour}]
    return words + ([{"type": "target", "head": "box", "target": BOXES[colour]}] if colour in BOXES else [])


def box_record(name: str, colour: str) -> dict[str, Any]:
    """A question about a picture of one colour."""
    question = [{"type": "image", "image": f"{colour}.png"}, {"type": "text", "text": "What is where?"}]
    return {
        "id": name,
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer(colour)}],
    }


def write_boxes(root: Path, count: int = 20) -> Path:
    """boxes.jsonl: questions about the four pictures, of which three have a box, and some of text alone."""
    colours = list(COLOURS)
    records = [box_record(f"b{i}", colours[i % 4]) for i in range(count)]
    records += [text_record(f"t{i}", "Say it " + "again " * i, "it") for i in range(4)]
    return write_jsonl(root / "boxes.jsonl", records)


def with_heads(recipe: str) -> str:
    """The text of the shared recipe with a head, and one stage that trains it."""
    return recipe[: recipe.index("stages:")].rstrip() + HEADS + recipe[recipe.index("trainer:") :]
