"""An encoder whose rows lie as a test wants: the grid of a picture or a clip, a row of a sound, points in no order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omnivit.contracts.encoder import Encoder
from omnivit.contracts.features import Features
from omnivit.contracts.sample import Media, Message, Sample, Text
from omnivit.model.build import load_model
from omnivit.model.omni import OmniModel
from omnivit.recipe import Data, Model, Recipe, Slot

Kind = Literal["image", "video", "audio", "points"]
GRIDS: dict[str, tuple[tuple[int, ...], ...]] = {"image": ((4, 4),), "video": ((3, 4, 4), (2, 4, 4)), "audio": (),
                                                 "points": ()}  # fmt: skip
COUNTS = {"image": (16,), "video": (48, 32), "audio": (24, 18), "points": (20,)}
"""Rows of the first medium, of the second, and so on in turn."""
WIDTH = 12


@dataclass
class RowsConfig:
    """What lies how."""

    kind: Kind = "image"


@dataclass(frozen=True)
class RowsProcessor:
    """A number -> rows that depend on it, and how they lie."""

    kind: str

    def __call__(self, media: Media) -> dict[str, Tensor]:
        most = max(COUNTS[self.kind])
        generator = torch.Generator().manual_seed(int(media.source))
        return {"rows": torch.randn(most, WIDTH, generator=generator), "which": torch.tensor(int(media.source))}

    def length(self, item: Mapping[str, Tensor]) -> int:
        counts = COUNTS[self.kind]
        return counts[int(item["which"]) % len(counts)]

    def grid(self, item: Mapping[str, Tensor]) -> tuple[int, ...] | None:
        grids = GRIDS[self.kind]
        return grids[int(item["which"]) % len(grids)] if grids else None

    def fingerprint(self) -> str:
        return self.kind


class RowsEncoder(Encoder):
    """Rows [M, S, 12], padded to the most; a sound's rows are one-dimensional, points have no grid at all."""

    Config = RowsConfig
    modality = "anything"

    def __init__(self, config: RowsConfig) -> None:
        super().__init__()
        self.kind, self.width = config.kind, WIDTH
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def processor(self) -> RowsProcessor:
        return RowsProcessor(self.kind)

    def forward(self, items: Mapping[str, Tensor]) -> Features:
        counts = torch.tensor([self.processor().length({"which": which}) for which in items["which"]])
        values = items["rows"] * self.scale
        mask = torch.arange(values.shape[1]) < counts[:, None]
        return Features(values, mask, self._grid(items["which"], values.shape[1]))

    def _grid(self, which: Tensor, rows: int) -> Tensor | None:
        if not GRIDS[self.kind]:
            return None
        found = []
        for number in which.tolist():
            sizes = GRIDS[self.kind][number % len(GRIDS[self.kind])]
            places = torch.cartesian_prod(*(torch.arange(size) for size in sizes))
            found.append(nn.functional.pad(places, (0, 0, 0, rows - len(places))))
        return torch.stack(found)


def recipe_of(adapter: dict[str, Any], kind: str, llm: dict[str, Any]) -> Recipe:
    """A recipe with one input, `media`."""
    slot = Slot({"name": "matrix_support:RowsEncoder", "kind": kind}, adapter)
    block = {"name": "causal", "tokenizer": "bytes", "config": llm}
    return Recipe(Model(block, {"media": slot}), data=Data(max_length=512))


def model_of(adapter: dict[str, Any], kind: str, llm: dict[str, Any]) -> OmniModel:
    """The built model of `recipe_of`."""
    return load_model(recipe_of(adapter, kind, llm))


def samples() -> list[Sample]:
    """One medium, two in one question (of differing sizes where the kind has such), and none."""
    return [
        Sample("one", (_asks("What is ", 0, "?"), _says("a cat"))),
        Sample("two", (_asks("Compare ", 1, " and ", 2, "."), _says("no"), _asks("Why?"), _says("see"))),
        Sample("none", (_asks("Two and two?"), _says("four"))),
    ]


def _asks(*parts: str | int) -> Message:
    return Message("user", tuple(Text(p) if isinstance(p, str) else Media("media", p) for p in parts))


def _says(text: str) -> Message:
    return Message("assistant", (Text(text),))
