"""One input slot in a loader worker: a medium -> tensors, and the number of its tokens in the LLM's sequence.

A slot may have several branches (encoder and adapter each), whose tokens follow one another in the sequence. Two
branches may share an encoder, which then prepares and encodes each medium once. Has no weights, pickles small.

Shapes: M media, Q instruction tokens (padded).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from omnivit.contracts.adapter import Instruction, Length, Positions
from omnivit.contracts.encoder import (
    DescribingProcessor,
    FittingProcessor,
    PrefacingProcessor,
    Processor,
    layout_of,
)
from omnivit.contracts.faults import reading
from omnivit.contracts.fit import Fit
from omnivit.contracts.sample import Media
from omnivit.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Combine = Literal["tokens", "sum", "mean"]
_IDS, _MASK = "instruction.input_ids", "instruction.attention_mask"
_TRUNCATING = threading.Lock()


@dataclass(frozen=True)
class InstructionReader:
    """A turn's text -> token ids for an adapter that reads the instruction."""

    tokenizer: PreTrainedTokenizerBase
    limit: int
    """Most tokens."""

    def __call__(self, text: str) -> dict[str, Tensor]:
        """[Q] ids and mask, padded to `limit` so that they stack; `instruction_of` cuts them to the batch's longest."""
        with _TRUNCATING:  # the first call sets the limit in the tokenizer, which refuses that while a thread uses it
            input_ids = self.tokenizer(text, truncation=True, max_length=self.limit)["input_ids"]
        padding = self.limit - len(input_ids)
        fill = self.tokenizer.pad_token_id or 0
        padded = torch.tensor([*input_ids, *[fill] * padding], dtype=torch.long)
        return {_IDS: padded, _MASK: torch.arange(self.limit) < len(input_ids)}

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
    """For each branch: the index of its encoder's processor, and its adapter's length rule."""
    positions: Positions | None = None
    """The position ids of a medium's tokens; None: one by one."""
    instruction: InstructionReader | None = None
    """Set if an adapter of the slot reads the instruction."""
    combine: Combine = "tokens"
    """What several media of one turn become."""
    views: tuple[Processor | None, ...] = ()
    """For each branch that reads its encoder in another way than the encoder's own: the processor with its lengths."""

    def __call__(self, media: Media, instruction: str = "") -> dict[str, Tensor]:
        """One medium, and the user's text of its turn -> named tensors. Raises MediaError."""
        prepared = []
        for processor in self.processors:
            with reading(media, type(processor)):
                prepared.append(processor(media))
        if len(prepared) == 1:
            items = dict(prepared[0])
        else:  # two encoders may use the same names
            items = {f"{number}.{key}": value for number, item in enumerate(prepared) for key, value in item.items()}
        return items if self.instruction is None else items | self.instruction(instruction)

    def preface(self, media: Media) -> str:
        """The text that the LLM reads before the medium; usually empty. Raises MediaError."""
        prefacing = (processor for processor in self.processors if isinstance(processor, PrefacingProcessor))
        return "".join(processor.preface(media) for processor in prefacing)

    def description(self, items: Mapping[str, Tensor]) -> str:
        """The text that the LLM reads after the medium; usually empty."""
        describing = (
            (number, processor)
            for number, processor in enumerate(self.processors)
            if isinstance(processor, DescribingProcessor)
        )
        count = len(self.processors)
        return "".join(processor.description(encoder_items(items, number, count)) for number, processor in describing)

    @property
    def fits(self) -> bool:
        """Whether an encoder of the slot says what the model sees of an image."""
        return any(isinstance(processor, FittingProcessor) for processor in self.processors)

    def fit_of(self, media: Media) -> Fit:
        """What the model sees of an image.

        Raises:
            DataError: the encoders of the slot do not say, or see different parts; or a MediaError.
        """
        fits = []
        for processor in self.processors:
            if isinstance(processor, FittingProcessor):
                with reading(media, type(processor)):
                    fits.append(processor.fit_of(media))
        if not fits:
            raise DataError(
                f"the encoder of the input {media.slot!r} does not say which part of a medium the model sees, so boxes "
                "cannot be written for it. Use `clip` or `timm`, or `fit_of` in an encoder of your own."
            )
        if any(fit.view != fits[0].view for fit in fits):
            raise DataError(
                f"the encoders of the input {media.slot!r} see different parts of the image, so a box has no single "
                "place. Give them the same `fit` and cropping."
            )
        return fits[0]

    def tokens(self, items: Mapping[str, Tensor]) -> int:
        """The number of the medium's tokens in the LLM's sequence. Raises RecipeError if an adapter cannot take it."""
        parts = [encoder_items(items, number, len(self.processors)) for number in range(len(self.processors))]
        layouts = [layout_of(processor, part) for processor, part in zip(self.processors, parts, strict=True)]
        views = self.views or (None,) * len(self.branches)
        return sum(
            length(layouts[number] if view is None else layout_of(view, parts[number])).tokens
            for (number, length), view in zip(self.branches, views, strict=True)
        )

    def fingerprint(self) -> str:
        """Changes whenever the same medium would give other tensors."""
        parts = [processor.fingerprint() for processor in self.processors]
        parts += [] if self.combine == "tokens" else [f"combine={self.combine}"]
        return "+".join(parts if self.instruction is None else [*parts, self.instruction.fingerprint()])


def media_of(items: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the medium itself, without the instruction."""
    return {key: value for key, value in items.items() if key not in (_IDS, _MASK)}


def encoder_items(items: Mapping[str, Tensor], number: int, count: int) -> dict[str, Tensor]:
    """The slot's tensors that belong to encoder `number` of `count`."""
    media = media_of(items)
    if count == 1:
        return media
    prefix = f"{number}."
    return {key.removeprefix(prefix): value for key, value in media.items() if key.startswith(prefix)}


def instruction_of(items: Mapping[str, Tensor]) -> Instruction | None:
    """The stacked instructions [M, Q] of a batch's media, if any adapter of the slot reads them."""
    if _IDS not in items:
        return None
    # they are padded to the reader's limit so that they stack; an adapter needs no more than the longest of the batch
    ids, mask = items[_IDS], items[_MASK]
    longest = max(1, int(mask.sum(dim=1).max()))
    return Instruction(ids[:, :longest], mask[:, :longest])
