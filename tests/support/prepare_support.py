"""A small preparer without a model: real chat encoder, a processor that says which seed it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omnivit.contracts.adapter import Length, same_length
from omnivit.contracts.features import Layout
from omnivit.contracts.sample import Media, Message, Part, Sample, Text
from omnivit.data.chat import Chat
from omnivit.data.prepare import Preparer
from omnivit.data.slot import SlotPreparer
from omnivit.errors import MediaError
from omnivit.model.tokens import byte_tokenizer

NO_SEED = -1


@dataclass(frozen=True)
class SeedProcessor:
    """One medium -> its augmentation seed; the medium `broken.png` cannot be read."""

    rows: int = 6

    def __call__(self, media: Media) -> dict[str, Tensor]:
        if media.source == "broken.png":
            raise MediaError("broken.png: is broken")
        return {"seed": torch.tensor(NO_SEED if media.seed is None else media.seed % 2**62)}

    def length(self, item: Mapping[str, Tensor]) -> int:
        assert item["seed"].ndim == 0
        return self.rows

    def fingerprint(self) -> str:
        return f"rows={self.rows}"


class TellingProcessor(SeedProcessor):
    """Says something before each medium."""

    told = "Modality: <|im_end|>\n"

    def preface(self, media: Media) -> str:
        assert media.source
        return self.told


def halved(layout: Layout) -> Layout:
    """An adapter that joins two rows into one."""
    return Layout(layout.tokens // 2)


def slot(rows: int, length: Length = same_length) -> SlotPreparer:
    """An input slot of one branch."""
    return SlotPreparer((SeedProcessor(rows),), ((0, length),))


def small_preparer(max_length: int = 200, truncate: bool = False, **changes: object) -> Preparer:
    """Two slots: 6 encoder rows become 3 in `image`, 4 stay 4 in `audio`."""
    slots = {"image": slot(6, halved), "audio": slot(4)}
    made = Preparer(Chat(byte_tokenizer()), slots, max_length, truncate)
    return replace(made, **changes)  # type: ignore[arg-type]


def sample(*parts: str | Media, answer: str = "yes", name: str = "s") -> Sample:
    """A question made of texts and media, and an answer."""
    question: tuple[Part, ...] = tuple(Text(part) if isinstance(part, str) else part for part in parts)
    return Sample(name, (Message("user", question), Message("assistant", (Text(answer),))), "f.jsonl:3")
