"""Text token by token, with the whole sequence computed again for each: for LLMs that have no faster way.

Shapes: B samples, T tokens, D LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from omnivit.contracts.context import Context
from omnivit.errors import RecipeError, suggest

SAMPLING = frozenset({"do_sample", "temperature", "top_k", "top_p"})
"""Options of how an id is chosen."""


class Logits(Protocol):
    """What the forward pass of an LLM returns."""

    @property
    def logits(self) -> Tensor:
        """[N, V] of the kept tokens."""


class Generator(Protocol):
    """What generation needs of an LLM (`omnivit.contracts.llm.LanguageModel`)."""

    def __call__(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, keep: Tensor, context: Context | None
    ) -> Logits:
        """Embeddings [B, T, D] -> logits of the tokens where `keep` [B, T] is True."""

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [B, T] -> input embeddings [B, T, D]."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""


def stopping(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> StopStringCriteria:
    """New ids [B, n] -> [B] whether a text of `stop`, which is not empty, ends in the last of them.

    Raises:
        RecipeError: no token of the tokenizer can end such a text.
    """
    try:
        criteria = StopStringCriteria(tokenizer, list(stop))
    except ValueError as error:
        raise RecipeError(f"The tokenizer cannot write {' or '.join(map(repr, stop))}, which ends answers.") from error
    # transformers pads an answer that has ended, while others continue, only where a criterion has this attribute
    criteria.__dict__.setdefault("eos_token_id", None)
    return criteria


@torch.no_grad()
def generate_anew(
    llm: Generator,
    embeds: Tensor,
    mask: Tensor,
    positions: Tensor,
    context: Context | None = None,
    *,
    max_new_tokens: int = 20,
    eos_token_id: int | Collection[int] | None = None,
    pad_token_id: int | None = None,
    streamer: Any = None,
    num_beams: int = 1,
    stop: Sequence[str] = (),
    **sampling: Any,
) -> Tensor:
    """Continue prompts: new ids [B, new], as `transformers.generate` returns them. The cost is quadratic in length.

    Args:
        llm: its `forward` returns the next token's logits.
        embeds: [B, T, D] prompts, padded on the left.
        mask: [B, T] True where a token is.
        positions: [B, T]; those of new tokens continue by one.
        context: of the prompts, for layers that adapters changed.
        max_new_tokens: of each sample.
        eos_token_id: ids that end an answer.
        pad_token_id: the id after the end of an answer while others continue; 0 where None.
        streamer: its `put` gets the new ids [B] of each step, its `end` is called at the end.
        num_beams: must be 1.
        stop: texts that end an answer, too; the ids in which one has come are the last.
        **sampling: `do_sample`, and `temperature`, `top_k` and `top_p` for it.

    Raises:
        RecipeError: there is more than one beam, or an option that only generation with a cache has.
    """
    _check_options(type(llm).__name__, num_beams, sampling)
    ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    done, new = torch.zeros(len(embeds), dtype=torch.bool, device=embeds.device), mask.new_empty(len(mask), 0).long()
    stopped = stopping(llm.tokenizer(), stop) if stop else None
    for _ in range(max_new_tokens):
        # Prompts are padded on the left, so the last column is the last token of every sample.
        keep = torch.zeros_like(mask)
        keep[:, -1] = True
        window = None if context is None else context.window(0, embeds.shape[1], len(embeds))
        ids = _chosen(llm(embeds, mask, positions, keep, window).logits, **sampling)
        # An answer that has ended is padded until all have ended.
        ids = ids.masked_fill(done, pad_token_id or 0)
        new = torch.cat([new, ids[:, None]], dim=1)
        if streamer is not None:
            streamer.put(ids.cpu())
        done = done | torch.isin(ids, ids.new_tensor(sorted(ends)))
        if stopped is not None:
            done = done | stopped(new, None)
        if bool(done.all()):
            break
        embeds = torch.cat([embeds, llm.embed(ids[:, None])], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=1)
    if streamer is not None:
        streamer.end()
    return new


def _check_options(llm: str, num_beams: int, sampling: Collection[str]) -> None:
    """Refuse beams and options that generation without a cache does not have; `llm` is the name of the class."""
    if num_beams != 1:
        raise RecipeError(f"{llm} has no beam search: `num_beams` is {num_beams}. Available: 1.")
    if unknown := sorted(set(sampling) - SAMPLING):
        raise RecipeError(
            f"{llm} generates without a cache, and has no option {unknown[0]!r} for that; "
            f"{suggest(unknown[0], SAMPLING)}"
        )


def _chosen(
    logits: Tensor,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Tensor:
    """[B, V] -> [B] the most likely ids, or sampled ones."""
    if not do_sample:
        return logits.argmax(dim=-1)
    steps = LogitsProcessorList()
    if temperature not in (None, 1.0):
        steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p not in (None, 1.0):
        steps.append(TopPLogitsWarper(top_p))
    no_ids: Any = logits.new_zeros(len(logits), 0, dtype=torch.long)
    scores: Tensor = steps(no_ids, logits.float())
    return torch.multinomial(scores.softmax(dim=-1), 1)[:, 0]
