"""The token that stands for a medium in the prompts of an export.

Inside OmniViT a medium needs no token of its own, since what stands at its places is never looked up. Programs that
count tokens of a text need one. Best is one that the model has and that no text becomes; then logits stay as they are.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken

from omnivit.data.chat import Chat
from omnivit.model.causal import CausalLM

TEXT = "<image>"
IDLE = ("reserved", "unused", "image_pad", "image")
"""Words in the texts of tokens that tokenizers keep free."""


@dataclass(frozen=True)
class ImageToken:
    """The token of images."""

    text: str
    id: int
    tokenizer: Any
    """A copy of the run's tokenizer that has the token."""
    is_new_row: bool
    """Whether the LLM's tables get one more row for it."""

    @classmethod
    def of(cls, chat: Chat, llm: CausalLM, slot: str, rows: int) -> ImageToken:
        """Choose the token.

        Args:
            chat: of the run.
            llm: has the tokenizer.
            slot: the input.
            rows: of the LLM's tables.
        """
        tokenizer: Any = copy.deepcopy(llm.tokenizer())
        text = chat._placeholders.get(slot) or _idle(chat, tokenizer)
        if text is None:
            text = TEXT
            tokenizer.add_tokens([AddedToken(text, special=True, normalized=False)], special_tokens=True)
        id: int = tokenizer.get_vocab()[text]
        return cls(text, id, tokenizer, id >= rows)


def _idle(chat: Chat, tokenizer: Any) -> str | None:
    """A special token that nothing uses; None where there is none."""
    written = chat._template.text
    used = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, *chat._apart, *chat.content_ids().values()}
    added = tokenizer.get_added_vocab()
    idle = [token for token in added if token not in used and token not in written]
    for word in IDLE:
        if matches := [token for token in idle if word in token.lower()]:
            return str(min(matches, key=lambda token: (token != TEXT, added[token])))
    unknown = tokenizer.unk_token
    return str(unknown) if unknown in idle else None
