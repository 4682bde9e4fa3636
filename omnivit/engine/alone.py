"""One request after the other, by `LanguageModel.generate`: for LLMs that no running request can join.

Shapes: T tokens of the prompt, n of the answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omnivit.contracts.batch import IGNORE, Batch
from omnivit.contracts.context import Context
from omnivit.contracts.llm import LanguageModel
from omnivit.data.chat import Chat
from omnivit.data.collate import EncodedSample, collate, followed
from omnivit.engine.request import Step
from omnivit.engine.row import Row
from omnivit.engine.sampling import Sampling, ranked
from omnivit.model.omni import OmniModel
from omnivit.seeds import seeded


class _Left(Exception):
    """Nobody waits for more tokens of this answer."""


class _Streamer:
    """What `LanguageModel.generate` gives the new ids to."""

    def __init__(self, row: Row, wait: bool) -> None:
        self.row, self.ids, self.wait = row, list[int](), wait

    def put(self, ids: Tensor) -> None:
        """The next ids; of a prompt in embeddings there are none."""
        for id in ids.flatten().tolist():
            self.ids.append(id)
            if not self.wait and self.row.finish is None:
                self.row.put(Step(id))
        # an end that `generate` finds itself is left to it
        if self.row.generation.cancelled or (self.row.request.stop and self.row.finish == "stop"):
            raise _Left

    def end(self) -> None:
        """No more ids come."""


def continued(
    model: OmniModel, chat: Chat, row: Row, embedded: tuple[Batch, Tensor, Context], slots: Sequence[str]
) -> None:
    """Answer one request from its first to its last token.

    Args:
        model: in `eval()`.
        chat: of the model.
        row: the request; gets the tokens.
        embedded: the prompt as a batch of one, its embeddings [1, T, D], and its context.
        slots: the model's input slots.
    """
    request, llm = row.request, model.llm
    assert isinstance(llm, LanguageModel)
    batch, embeds, context = embedded
    options = options_of(chat, request.sampling, request.max_new_tokens)
    streamer = _Streamer(row, wait=request.logprobs is not None)
    ids = streamer.ids
    try:
        with seeded(request.sampling.seed, devices=True):
            ids = llm.generate(
                embeds,
                batch.attention_mask,
                batch.position_ids,
                context,
                streamer=streamer,
                **options,
            )[0].tolist()
    except _Left:
        ids = streamer.ids
    steps = [Step(id) for id in ids]
    if request.logprobs is not None and ids:
        steps = scored(model, chat, request.prompt, ids, request.logprobs, slots)
    for step in steps[len(row.ids) :]:  # an LLM may ignore the streamer
        if row.finish is None:
            row.put(step)


def options_of(chat: Chat, sampling: Sampling, max_new_tokens: int) -> dict[str, Any]:
    """The options of `LanguageModel.generate`: how tokens are chosen, and what ends an answer."""
    options = sampling.options() | {"max_new_tokens": max_new_tokens}
    options |= {"eos_token_id": list(chat.stop_ids) or None, "pad_token_id": chat.pad_id}
    if chat.stop_texts:  # only then: an LLM written for an earlier version may have no such option
        options["stop"] = chat.stop_texts
    return options


def scored(
    model: OmniModel, chat: Chat, prompt: EncodedSample, ids: Sequence[int], count: int, slots: Sequence[str]
) -> list[Step]:
    """The log-probabilities of an answer's tokens, by one pass over prompt [T] and answer [n]."""
    fresh = torch.tensor(ids)
    answered = followed(replace(prompt, labels=torch.full_like(prompt.ids, IGNORE)), fresh, fresh)
    batch = collate([answered], slots, chat.pad_id).to(next(model.parameters()).device)
    log_probs = model(batch).logits.float().log_softmax(dim=-1).cpu()
    return [Step(id, *ranked(row, id, count)) for id, row in zip(ids, log_probs, strict=True)]
