"""LLMs with one fault each, all made of one that has none: each token beside the mean of those up to it.

Shapes: B samples, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from omnivit.contracts.context import Context
from omnivit.contracts.examples import LLMExample
from omnivit.contracts.generate import generate_anew
from omnivit.contracts.llm import LanguageModel, LMOutput
from omnivit.data.chat import Chat
from omnivit.model.causal import CausalLM
from omnivit.model.new_tokens import NewTokens, add_to_tokenizer
from omnivit.model.patching import change
from omnivit.model.tokens import byte_tokenizer


@dataclass
class MeansConfig:
    """What a recipe may say."""

    width: int = 16
    """D."""


class Means(LanguageModel):
    """Without a fault. `generate` is its own, so that the rules for it apply."""

    contract = 1
    Config = MeansConfig

    def __init__(self, config: MeansConfig) -> None:
        super().__init__()
        self.width, self.bytes = config.width, byte_tokenizer()
        self.table = nn.Embedding(len(byte_tokenizer()), config.width)
        self.inner = nn.Sequential(nn.Linear(2 * config.width, config.width), nn.GELU())
        self.head = nn.Linear(config.width, len(byte_tokenizer()))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.bytes

    def add_tokens(self, texts: Sequence[str]) -> None:
        if ids := add_to_tokenizer(self.tokenizer(), texts):
            self.tokens = self.rows(ids)

    def rows(self, ids: list[int]) -> nn.Module:
        return NewTokens(self.table, self.head, ids)

    def embed(self, ids: Tensor) -> Tensor:
        found: Tensor = self.table(ids)
        return found

    def embedding(self) -> Tensor:
        return self.table.weight

    def forward(
        self,
        embeds: Tensor,
        mask: Tensor,
        positions: Tensor,
        keep: Tensor,
        context: Context | None = None,
        states: bool = False,
    ) -> LMOutput:
        del positions, context
        real = embeds.masked_fill(~mask[..., None], 0)
        means = self.gather(real, mask.cumsum(dim=1).clamp(min=1)[..., None])
        found = self.inner(torch.cat([real, means.to(real.dtype)], dim=2))
        return LMOutput(self.logits(found, keep), found if states else None)

    def gather(self, real: Tensor, count: Tensor) -> Tensor:
        return real.float().cumsum(dim=1) / count

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        logits: Tensor = self.head(found[keep])
        return logits

    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, context: Context | None = None, **options: Any
    ) -> Tensor:
        return generate_anew(self, embeds, mask, positions, context, **options)

    @classmethod
    def example(cls, folder: Path) -> LLMExample:
        del folder
        return LLMExample()


class HasMoreTokens(Means):
    """Its table is smaller than its vocabulary."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.table, self.head = nn.Embedding(100, config.width), nn.Linear(config.width, 100)


class ForgetsCapitals(Means):
    """Its tokenizer knows no capitals."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.bytes = self.letters()

    def letters(self) -> PreTrainedTokenizerBase:
        names = {chr(97 + number): number for number in range(26)} | {"?": 26, "<pad>": 27}
        tokenizer = Tokenizer(models.BPE(vocab=names, merges=[], unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        fast: PreTrainedTokenizerBase = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")  # type: ignore[no-untyped-call]
        fast.chat_template = byte_tokenizer().chat_template
        return fast


class ForgetsNewTokens(Means):
    """Makes its tokenizer anew whenever it is asked for it."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        return byte_tokenizer()


class HasNoColumn(Means):
    """Says a new token with the last of its old ones."""

    def rows(self, ids: list[int]) -> nn.Module:
        del ids
        change(self.table, lambda plain, found: plain(found.clamp(max=len(byte_tokenizer()) - 1)))
        return nn.Module()


class HidesRows(Means):
    """Keeps the new rows where no recipe looks for them."""

    def add_tokens(self, texts: Sequence[str]) -> None:
        if ids := add_to_tokenizer(self.tokenizer(), texts):
            self.others = self.rows(ids)


class DrawsAnew(Means):
    """Begins anew when it is given a token."""

    def rows(self, ids: list[int]) -> nn.Module:
        nn.init.normal_(self.head.weight)
        return super().rows(ids)


class FreezesRows(Means):
    """Its new rows learn nothing."""

    def rows(self, ids: list[int]) -> nn.Module:
        new = NewTokens(self.table, self.head, ids)
        new.spare = nn.Parameter(torch.zeros(2))
        return new


class LearnsQuestions(Means):
    """Its template calls everybody the assistant."""

    def chat(self, template: str | None = None) -> Chat:
        tokenizer = self.tokenizer()

        class Everything(Chat):
            def encode(self, *arguments: Any, **options: Any) -> Any:
                found = super().encode(*arguments, **options)
                object.__setattr__(found, "labels", found.ids)
                return found

        return Everything(tokenizer, template)


class EmbedsOneByOne(Means):
    """Gives its table of embeddings column by column."""

    def embedding(self) -> Tensor:
        return self.table.weight.T


class KeepsAll(Means):
    """Gives the logits of all tokens, whichever are kept."""

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        del keep
        logits: Tensor = self.head(found.flatten(0, 1))
        return logits


class MistakesIndices(Means):
    """Takes indices and counts them from the end."""

    keeps_by_index = True

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        if keep.dtype == torch.bool:
            return super().logits(found, keep)
        logits: Tensor = self.head(found.flatten(0, 1).flip(0)[keep])
        return logits


class HidesStates(Means):
    """Never gives its states."""

    def forward(self, *arguments: Any, **options: Any) -> LMOutput:
        return super().forward(*arguments, **{**options, "states": False})


class CountsPadding(Means):
    """Takes the mean over padding too."""

    def gather(self, real: Tensor, count: Tensor) -> Tensor:
        return super().gather(real, torch.arange(1, real.shape[1] + 1, device=count.device)[:, None])


class LooksAhead(Means):
    """Every token sees the mean of all."""

    def gather(self, real: Tensor, count: Tensor) -> Tensor:
        return super().gather(real, count)[:, -1:].expand_as(real)


class GoesOnForEver(Means):
    """Knows no end."""

    def generate(self, *arguments: Any, **options: Any) -> Tensor:
        return super().generate(*arguments, **{**options, "eos_token_id": None})


class TalksOn(Means):
    """Does not stop at a text."""

    def generate(self, *arguments: Any, **options: Any) -> Tensor:
        return super().generate(*arguments, **{**options, "stop": ()})


class SaysNothing(Means):
    """Does not tell the streamer."""

    def generate(self, *arguments: Any, **options: Any) -> Tensor:
        return super().generate(*arguments, **{**options, "streamer": None})


class DetachesEmbeddings(Means):
    """Lets no gradient through to what comes in."""

    def gather(self, real: Tensor, count: Tensor) -> Tensor:
        return super().gather(real, count).detach()

    def forward(self, embeds: Tensor, *arguments: Any, **options: Any) -> LMOutput:
        return super().forward(embeds.detach(), *arguments, **options)


class HasSpareLayer(Means):
    """Has a layer that nothing goes through."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.spare = nn.Linear(2, 2)


class CountsCalls(Means):
    """A buffer of it moves whenever it is asked."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(()))

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        self.calls += 1
        return super().logits(found, keep)


class DropsAlways(Means):
    """Drops out in `eval()` too."""

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        return super().logits(nn.functional.dropout(found, 0.5, training=True), keep)


class DrawsSecretly(Means):
    """Something that it computes with is drawn and not kept in its state."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.register_buffer("secret", torch.randn(1), persistent=False)

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        return super().logits(found, keep) * self.secret


class BuiltOnCpu(Means):
    """A parameter of it ignores the meta device."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.head.bias = nn.Parameter(torch.zeros(self.head.out_features, device="cpu"))


class KeepsTensor(Means):
    """Holds a tensor that does not move with it."""

    def __init__(self, config: MeansConfig) -> None:
        super().__init__(config)
        self.scale = torch.ones(config.width)

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        return super().logits(found * self.scale.to(found.dtype), keep)


class InsistsOnFloat(Means):
    """Computes in float32 whatever its weights are."""

    def logits(self, found: Tensor, keep: Tensor) -> Tensor:
        return super().logits(found.float(), keep)


class ShowsTheBeginning(CausalLM):
    """Shows changed layers the first tokens of the prompts at every step."""

    def generate(
        self, embeds: Tensor, mask: Tensor, positions: Tensor, context: Context | None = None, **options: Any
    ) -> Tensor:
        if context is not None:
            parts = (context.route, context.slots, context.media, context.text, context.last)
            context = FromTheBeginning(*parts)
        return super().generate(embeds, mask, positions, context, **options)


class FromTheBeginning(Context):
    """Knows of no start."""

    def window(self, start: int, length: int, size: int) -> Context:
        del start
        return super().window(0, length, size)
