"""An LLM that is built from its example, and prompts for it: text of its tokenizer, mixed with other embeddings.

Shapes: B samples, T tokens, D = `width`, N kept tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from omnivit.contracts.llm import LanguageModel, LMOutput
from omnivit.seeds import seeded
from omnivit.testing.parts import CLOSE
from omnivit.testing.plugin import config_of, example_of, fresh
from omnivit.testing.rules import Broken, NotApplicable
from omnivit.testing.trial import difference

TEXTS = ("What is this?", "Count them, and say where they are.", "Why?")
EVERY = 3
"""Of this number of embeddings of a prompt, one is not a token's, as in a medium."""
NEW = "[OMNIVIT-NEW]"
"""A text that no tokenizer has as one token."""
FILLING = 7.0
"""The value in padding."""


class Prompts(NamedTuple):
    """What `forward` and `generate` take first."""

    embeds: Tensor
    """[B, T, D]"""
    mask: Tensor
    """[B, T] bool"""
    positions: Tensor
    """[B, T]"""


@dataclass
class LLMTrial:
    """An LLM that is built from its example, in `eval()`, and its prompts."""

    llm: LanguageModel
    texts: tuple[str, ...] = TEXTS

    @classmethod
    def start(cls, plugin: type[LanguageModel], folder: Path, seed: int = 0) -> LLMTrial:
        """Build the example of a plugin; `seed` decides its weights alone."""
        example = example_of(plugin, fresh(folder))
        with seeded(seed):
            llm = plugin(config_of(plugin, example.config))
            llm.load()
        return cls(llm.eval())

    def ids(self, text: str) -> list[int]:
        """Of the text alone."""
        found: list[int] = self.llm.tokenizer()(text, add_special_tokens=False)["input_ids"]
        return found

    @cached_property
    def samples(self) -> tuple[Tensor, ...]:
        """[T, D] each, of different lengths.

        Raises:
            NotApplicable: there are ids without an embedding, which the rule `tokenizer` reports.
        """
        ids, rows = [self.ids(text) for text in self.texts], len(self.llm.embedding())
        if not all(ids) or max(map(max, ids)) >= rows:
            raise NotApplicable("not every token has an embedding: see the rule `tokenizer`.")
        return tuple(_mixed(self.llm.embed(torch.tensor([one]))[0]) for one in ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample."""
        return [len(sample) for sample in self.samples]

    def prompts(self, numbers: Sequence[int] | None = None, left: bool = False) -> Prompts:
        """Samples as a batch, those of `numbers` or all, filled up on the right or on the left."""
        chosen = [self.samples[number] for number in (range(len(self.samples)) if numbers is None else numbers)]
        longest = max(map(len, chosen))
        embeds, mask = [], torch.zeros(len(chosen), longest, dtype=torch.bool)
        for number, sample in enumerate(chosen):
            filling = sample.new_full((longest - len(sample), sample.shape[1]), FILLING)
            embeds.append(torch.cat([filling, sample] if left else [sample, filling]))
            mask[number, len(filling) if left else 0 : longest if left else len(sample)] = True
        return Prompts(torch.stack(embeds), mask, (mask.cumsum(dim=1) - 1).clamp(min=0))

    @torch.no_grad()
    def run(self, prompts: Prompts, keep: Tensor) -> Tensor:
        """The logits [N, V] of kept tokens. Raises Broken where there are none."""
        found = self.llm(*prompts, keep)
        if not isinstance(found, LMOutput):
            raise Broken(f"forward returns {type(found).__name__}.", "Return `LMOutput(logits)`.")
        return found.logits


def _mixed(embeds: Tensor) -> Tensor:
    """[T, D] with every third one replaced by random numbers of the same size."""
    size = embeds.detach().std()
    with seeded(len(embeds)):
        others = torch.randn(embeds.shape) * size
    exchanged = torch.arange(len(embeds))[:, None] % EVERY == 1
    return torch.where(exchanged, others.to(embeds.dtype), embeds)


def check_new_token(trial: LLMTrial, prompts: Prompts, before: Tensor, id: int) -> None:
    """Check that a token that was added has an embedding and a logit, and that only these train.

    Args:
        trial: whose LLM took it.
        prompts: some, without it.
        before: their logits [N, V] before it was added.
        id: its own.

    Raises:
        Broken: this is not the case.
    """
    after = trial.run(prompts, prompts.mask)
    if after.shape[1] <= id:
        raise Broken(f"its id is {id}, and the logits have {after.shape[1]} columns.", "Give it a column at its id.")
    others = [column for column in range(before.shape[1]) if column != id]
    if where := difference("row", after[:, others], before[:, others], CLOSE):
        raise Broken(f"the logits of the other tokens have changed: {where}.", "Do not change the other rows.")
    rows = {name: row for name, row in trial.llm.named_parameters() if name.startswith("tokens.")}
    if not rows:
        raise Broken("the LLM has no parameter `tokens.*`.", "Keep its rows in `self.tokens`, as `NewTokens` does.")
    trial.llm.requires_grad_(False)
    for row in rows.values():
        row.requires_grad_(True)
    embeds = trial.llm.embed(torch.tensor([[id]]))
    place = torch.ones(1, 1, dtype=torch.bool)
    logits = trial.llm(embeds, place, torch.zeros(1, 1, dtype=torch.long), place).logits
    torch.log_softmax(logits, dim=1)[0, id].backward()  # type: ignore[no-untyped-call]
    for name, row in rows.items():
        if row.grad is None or not row.grad.isfinite().all() or not row.grad.any():
            raise Broken(f"the parameter {name!r} gets no gradient where its token is read and written.")
