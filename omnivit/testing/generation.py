"""Checks of generation: the LLM's log-probabilities at each step, and the tokens that its layers are given.

The most probable ids hardly change if a layer sees the wrong token; their log-probabilities do.

Shapes: B samples, T tokens of the prompts, K new tokens, D LLM width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from omnivit.contracts.batch import IGNORE
from omnivit.contracts.context import Context
from omnivit.contracts.features import Features
from omnivit.contracts.llm import LanguageModel
from omnivit.data.collate import EncodedSample, Span, collate
from omnivit.model.causal import CausalLM
from omnivit.model.splice import splice
from omnivit.seeds import seeded
from omnivit.testing.parts import CLOSE
from omnivit.testing.rules import Broken, NotApplicable
from omnivit.testing.trial import difference

FORCED = 8
"""New tokens that are given: more than any window that an author tries by hand."""
GREEDILY: Mapping[str, Any] = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
"""How text is generated."""
AT_LENGTH: Mapping[str, Any] = {**GREEDILY, "max_new_tokens": FORCED}
"""The same with more tokens."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    "": {**GREEDILY, "max_new_tokens": FORCED},
    "in 2 beams, ": {**GREEDILY, "num_beams": 2},
}
"""How messages describe a way to generate -> its options; in the first the tokens are given."""
SLOT = "image"
ADVICE = "Read the places of media from the `Context` of the call: in generation it is a window of the batch."


@dataclass(frozen=True)
class Prompted:
    """Prompts that an LLM continues."""

    embeds: Tensor
    """[B, T, D], padded on the left."""
    mask: Tensor
    """[B, T] bool"""
    positions: Tensor
    """[B, T]"""
    context: Context

    def with_new(self, llm: LanguageModel, ids: Tensor) -> Prompted:
        """The prompts with tokens [B or a multiple of it, K] after them: the input of the LLM at the next step."""
        count, beams = ids.shape[1], len(ids) // len(self.mask)
        embeds, mask, positions = (
            part.repeat_interleave(beams, dim=0) for part in (self.embeds, self.mask, self.positions)
        )
        further = positions[:, -1:] + torch.arange(1, count + 1, device=ids.device)
        return Prompted(
            torch.cat([embeds, llm.embed(ids).to(embeds.dtype)], dim=1),
            torch.cat([mask, mask.new_ones(ids.shape)], dim=1),
            torch.cat([positions, further], dim=1),
            self.context.window(0, self.mask.shape[1] + count, len(ids)),
        )

    def scores(self, llm: LanguageModel) -> Tensor:
        """[B, V] log-probabilities of the next token, computed without a cache."""
        keep = torch.zeros_like(self.mask)
        keep[:, -1] = True
        logits: Tensor = llm(self.embeds, self.mask, self.positions, keep, self.context).logits
        return logits.log_softmax(dim=-1)


class _Steps(LogitsProcessor):
    """Records the new ids before each step, and the log-probabilities of the next one.

    With `forced` tokens [B, K] it makes the LLM choose them: a small LLM repeats itself, and where all new tokens are
    alike, a layer that sees the wrong one computes the right numbers.
    """

    def __init__(self, forced: Tensor | None) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.forced = forced

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        number = len(self.seen)
        self.seen.append((input_ids.clone(), scores.log_softmax(dim=-1)))
        if self.forced is None:
            return scores
        return torch.full_like(scores, -torch.inf).scatter(1, self.forced[:, number, None], 0.0)


@torch.no_grad()
def check_steps(llm: CausalLM, prompts: Prompted, names: tuple[str, ...], what: str) -> None:
    """With a cache, every generation step gives the numbers of a full forward pass.

    Args:
        llm: whose layers may be changed.
        prompts: to be continued.
        names: of the samples.
        what: describes the batch in errors.

    Raises:
        Broken: with the sample, the step and both numbers.
    """
    for way, options in WAYS.items():
        with seeded(2):
            given = torch.randint(len(llm.embedding()), (len(prompts.mask), FORCED))
        steps = _Steps(given if "num_beams" not in options else None)
        told = (prompts.embeds, prompts.mask, prompts.positions, prompts.context)
        llm.generate(*told, **options, logits_processor=LogitsProcessorList([steps]))
        for number, (ids, scores) in enumerate(steps.seen):
            expected = prompts.with_new(llm, ids).scores(llm)
            for row, (row_scores, expected_row) in enumerate(zip(scores, expected, strict=True)):
                if where := difference("log-probability", row_scores, expected_row, CLOSE):
                    raise Broken(
                        f"{names[row * len(names) // len(scores)]} of a batch {what}: {way}for new token {number + 1} "
                        f"after {ids[row].tolist()}, with a cache {where}, which is the value without one.",
                        ADVICE,
                    )


@dataclass
class _Probe:
    """Records the windows of a batch that a changed layer is given."""

    seen: list[tuple[int, Context | None]] = field(default_factory=list)
    """Of each call: how many tokens it is given, and their window."""

    def __call__(self, plain: Callable[..., Any], context: Context | None, hidden: Tensor) -> Any:
        self.seen.append((hidden.shape[1], context))
        return plain(hidden)


@torch.no_grad()
def check_windows(llm: LanguageModel, places: int) -> None:
    """During generation, changed layers get the window of the batch that belongs to their tokens.

    Args:
        llm: that offers `patching`, with nothing changed yet.
        places: an id whose embedding is replaced by a medium's tokens.

    Raises:
        Broken: with the call, what the layer was shown and what belongs there.
    """
    probe = _Probe()
    llm.patching.around(llm.patching.layers[0].mlp, probe)
    llm.add_peft()
    prompts = _with_media(llm, places)
    columns = prompts.mask.shape[1]
    llm.generate(prompts.embeds, prompts.mask, prompts.positions, prompts.context, **GREEDILY)
    before = 0
    for number, (length, context) in enumerate(probe.seen):
        start = 0 if length >= columns else before  # all anew, or what follows the tokens that were read already
        before = start + length
        expected = prompts.context.window(start, length, len(prompts.mask))
        if context is None or not _same(context, expected):
            raise Broken(
                f"call {number + 1}, with tokens {start} to {before - 1} of prompts of {columns}, shows a changed "
                f"layer {_words(context)}; these tokens need {_words(expected)}.",
                "Call `generate` inside `patching.telling(context)`, and count the tokens of the cache.",
            )
    if before < columns + 1:
        raise Broken(f"a changed layer was called for {before} tokens alone.", "Run the changed layers in `generate`.")


def word_of(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> str:
    """The text of a token in answers [B, K] that is not the last of its answer, to be the end of answers.

    Raises:
        NotApplicable: no such token has a text of its own.
    """
    for id in ids[:, :-1].flatten().tolist():
        text = str(tokenizer.decode([id], skip_special_tokens=True))
        if text.strip() and "\ufffd" not in text:
            return text
    raise NotApplicable("no token of its answers has a text at which an answer could end.")


def _with_media(llm: LanguageModel, places: int) -> Prompted:
    """The longest sample begins with a medium, the next one ends with one, the last one is text; padded on the left."""
    parts: tuple[tuple[int | None, ...], ...] = ((None, 5, 6, 7, 8, 9), (5, 6, None), (9, 8))
    rows, samples = 3, []
    for number, sample in enumerate(parts):
        ids: list[int] = []
        spans = []
        for part in sample:
            if part is None:
                spans.append(Span(SLOT, len(ids), rows))
            ids += [places] * rows if part is None else [part]
        tokens = torch.tensor(ids)
        items = tuple({"rows": torch.zeros(rows)} for _ in spans)
        labels = torch.full_like(tokens, IGNORE)
        samples.append(EncodedSample(f"sample {number}", tokens, labels, tuple(spans), items, torch.arange(len(ids))))
    batch = collate(samples, (SLOT,), pad_id=0, pad_left=True)
    with seeded(1):
        values = torch.randn(2, rows, llm.width) * llm.embedding().float().std()
    features = {SLOT: Features(values, torch.ones(2, rows, dtype=torch.bool))}
    return Prompted(splice(llm.embed(batch.input_ids), features, batch), batch.attention_mask, batch.position_ids,
                    Context.of(batch, features))  # fmt: skip


def _same(context: Context, expected: Context) -> bool:
    return (
        torch.equal(context.route, expected.route)
        and context.media.keys() == expected.media.keys()
        and all(torch.equal(media.seen, expected.media[slot].seen) for slot, media in context.media.items())
    )


def _words(context: Context | None) -> str:
    if context is None:
        return "no window"
    seen = {slot: media.seen.tolist() for slot, media in context.media.items()}
    return f"tokens of media at {context.route.tolist()} and media begun {seen or 'nowhere'}"
