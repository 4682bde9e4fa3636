"""One input slot in a loader worker: a medium -> tensors, and the number of rows that it will take.

A slot may have several branches (encoder and adapter each), whose rows stand one after the other in the sequence; two
branches may share an encoder, which then prepares and encodes each medium once. Holds no weights, pickles small.

Shapes: M media, Q instruction tokens (padded).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnivit.contracts.adapter import Instruction, Length, Positions
from omnivit.contracts.encoder import PrefacingProcessor, Processor, layout_of
from omnivit.contracts.faults import reading
from omnivit.contracts.sample import Media

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_IDS, _MASK = "instruction.ids", "instruction.mask"


@dataclass(frozen=True)
class InstructionReader:
    """A turn's text -> token ids for an adapter that reads the instruction."""

    tokenizer: PreTrainedTokenizerBase
    limit: int
    """Most tokens."""

    def __call__(self, text: str) -> dict[str, Tensor]:
        """[Q] ids and mask, padded to `limit` so that they stack; `instruction_of` cuts them to the batch's longest."""
        found = self.tokenizer(text, truncation=True, max_length=self.limit)["input_ids"]
        padding = self.limit - len(found)
        fill = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([*found, *[fill] * padding], dtype=torch.long)
        return {_IDS: ids, _MASK: torch.arange(self.limit) < len(found)}

    def fingerprint(self) -> str:
        """Changes with the vocabulary and the limit. 16 hex digits."""
        facts = [sorted(self.tokenizer.get_vocab().items()), self.limit]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SlotPreparer:
    """Prepares the media of one slot."""

    processors: tuple[Processor, ...]
    """Of each distinct encoder of the slot."""
    branches: tuple[tuple[int, Length], ...]
    """For each branch: which of the processors is its encoder's, and its adapter's length rule."""
    positions: Positions | None = None
    """How the LLM counts the rows of a medium; None: one by one."""
    instruction: InstructionReader | None = None
    """Where an adapter of the slot reads the instruction."""

    def __call__(self, media: Media, instruction: str = "") -> dict[str, Tensor]:
        """One medium, and the user's words of its turn -> named tensors. Raises MediaError."""
        found = []
        for processor in self.processors:
            with reading(media, type(processor)):
                found.append(processor(media))
        if len(found) == 1:
            items = dict(found[0])
        else:
            items = {f"{number}.{key}": value for number, item in enumerate(found) for key, value in item.items()}
        return items if self.instruction is None else items | self.instruction(instruction)

    def preface(self, media: Media) -> str:
        """What the LLM reads before the medium; usually nothing. Raises MediaError."""
        return "".join(found.preface(media) for found in self.processors if isinstance(found, PrefacingProcessor))

    def rows(self, items: Mapping[str, Tensor]) -> int:
        """Rows in the LLM's sequence that the medium will take. Raises RecipeError where an adapter cannot take it."""
        layouts = [
            layout_of(processor, encoder_items(items, number, len(self.processors)))
            for number, processor in enumerate(self.processors)
        ]
        return sum(length(layouts[number]).rows for number, length in self.branches)

    def fingerprint(self) -> str:
        """Changes whenever the same medium would give other tensors."""
        parts = [processor.fingerprint() for processor in self.processors]
        return "+".join(parts if self.instruction is None else [*parts, self.instruction.fingerprint()])


def encoder_items(items: Mapping[str, Tensor], number: int, count: int) -> dict[str, Tensor]:
    """What encoder `number` of `count` in a slot is given of the slot's tensors."""
    own = {key: value for key, value in items.items() if key not in (_IDS, _MASK)}
    if count == 1:
        return own
    prefix = f"{number}."
    return {key.removeprefix(prefix): value for key, value in own.items() if key.startswith(prefix)}


def instruction_of(items: Mapping[str, Tensor]) -> Instruction | None:
    """The stacked instructions [M, Q] of a batch's media, if any adapter of the slot reads them."""
    if _IDS not in items:
        return None
    ids, mask = items[_IDS], items[_MASK]
    longest = max(1, int(mask.sum(dim=1).max()))
    return Instruction(ids[:, :longest], mask[:, :longest])
