"""New tokens of an LLM: rows of its embedding and output head that train while all others are frozen.

The tables remain unchanged, so that no key of the model changes its name or its shape, and nothing is copied: the new
rows are separate parameters. (Resizing and training a table would move every row by weight decay, and AdamW would keep
two moments of each.)

Shapes: K new tokens, V rows of a table, D width, B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from omnivit.errors import RecipeError
from omnivit.model.patching import change


def add_to_tokenizer(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[int]:
    """Make each text one token, unless it is one already. Returns the new ids.

    The tokens are not special: an answer's text shows them.
    """
    known = tokenizer.get_added_vocab()
    before = set(tokenizer.get_vocab().values())
    missing = [AddedToken(text, normalized=False, special=False) for text in texts if text not in known]
    tokenizer.add_tokens(missing)
    now = tokenizer.get_vocab()
    return [now[token.content] for token in missing if now[token.content] not in before]


class NewTokens(nn.Module):
    """The rows of new tokens, in float32, and the changes to embedding and output head that use them.

    They begin as the mean of all other rows, so that the probabilities of other tokens hardly change (J. Hewitt,
    Initializing New Word Embeddings for Pretrained Language Models, 2021). Where output head and embedding share one
    table, they share the new rows, too.

    Args:
        table: maps ids to rows of its `weight` [V, D].
        head: maps states to logits, by its `weight` [V, D] and, where it has one, its `bias` [V].
        ids: of the new tokens; they are consecutive, the first is at most V.

    Attributes:
        embedding: [K, D] rows of the embedding.
        output: [K, D] rows of the output head; None where the embedding's are used.
        bias: [K] of the output head; None where it has none.

    Raises:
        RecipeError: the ids have gaps, or the tables are quantized.
    """

    def __init__(self, table: Any, head: Any, ids: Sequence[int]) -> None:
        super().__init__()
        self.first, self.count = ids[0], len(ids)
        if list(ids) != list(range(self.first, self.first + self.count)) or self.first > len(table.weight):
            raise RecipeError(
                f"The new tokens have the ids {list(ids)}, but the table of embeddings has {len(table.weight)} rows: "
                "the ids must be consecutive and must not begin after its end."
            )
        if not (table.weight.is_floating_point() and head.weight.is_floating_point()):
            raise RecipeError(
                "The embeddings or the output head are quantized, so new tokens cannot be added. Remove `quantize`."
            )
        self.embedding = nn.Parameter(_mean(table.weight, self.count))
        self.output = None if head.weight is table.weight else nn.Parameter(_mean(head.weight, self.count))
        bias = getattr(head, "bias", None)
        self.bias = None if bias is None else nn.Parameter(_mean(bias, self.count))
        self._scale = getattr(table, "embed_scale", 1.0)  # Gemma 3: the table scales what it looks up
        change(table, self._embed)
        change(head, self._project)

    def _embed(self, plain: Callable[[Tensor], Tensor], ids: Tensor) -> Tensor:
        """[B, T] ids -> [B, T, D]: new tokens from the new rows, all others from the plain table."""
        places = ids - self.first
        new = (places >= 0) & (places < self.count)
        others = plain(ids.masked_fill(new, 0))  # the plain table has no rows for new ids
        rows = self.embedding[places.clamp(0, self.count - 1)] * self._scale
        return torch.where(new[..., None], rows.to(others.dtype), others)

    def _project(self, plain: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
        """[..., D] -> [..., max(V, first + K)]: columns of new tokens from the new rows, others from the plain head."""
        rows = self.embedding if self.output is None else self.output
        others = plain(states)
        new = functional.linear(states.to(rows.dtype), rows, self.bias).to(others.dtype)
        if self.first == others.shape[-1]:
            return torch.cat([others, new], dim=-1)
        return torch.cat([others[..., : self.first], new, others[..., self.first + self.count :]], dim=-1)


def _mean(table: Tensor, count: int) -> Tensor:
    """[V, ...] -> [count, ...] float32, each the mean over V."""
    mean = table.detach().float().mean(dim=0)
    return mean.expand(count, *mean.shape).clone()
