"""Attention inside each sample of a packed row: causal attention, sample by sample, with no mask.

`transformers` marks the borders of packed samples in a mask, which costs more than padding on a CPU. Here the row is
cut at the borders, and each piece is attended to by `scaled_dot_product_attention`: the numbers are those of each
sample alone.

Shapes: B rows (1), H heads, K heads of keys and values, T tokens of all samples, E width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from omnivit.contracts.context import Context
from omnivit.contracts.places import attention_of
from omnivit.errors import LibraryError

NAME = "omnivit_segments"
KEYWORD = "segment_lengths"
"""The argument of the model that brings the number of tokens of each sample to the attention."""
REPLACED = ("sdpa", "eager")
"""Implementations that it stands for; those of flash-attention pack by positions themselves."""
_OTHERS = ("softcap", "s_aux", "position_bias")
"""Arguments that would change the result."""


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of query [B, H, T, E] to key and value [B, K, T, E] -> [B, T, H, E]; without lengths as `sdpa`.

    Raises:
        LibraryError: the model's attention has a term that is not understood.
    """
    lengths: Sequence[int] | None = options.pop(KEYWORD, None)
    if lengths is None:
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result
    for name in _OTHERS:
        if options.get(name) is not None:
            raise LibraryError(
                f"{type(module).__name__} attends with `{name}`, which packed samples cannot have. Remove "
                "`batching: {kind: packed}` from the stage."
            )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    pieces = zip(*(torch.split(part, list(lengths), dim=2) for part in (query, key, value)), strict=True)
    attended = [
        scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling) for q, k, v in pieces
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def attention_arguments(
    mask: Tensor, positions: Tensor, context: Context | None
) -> tuple[Tensor | None, Tensor, dict[str, Any]]:
    """The mask, where one is needed, positions [B, T], and more arguments for `transformers` (`Places.attention`)."""
    if context is None or context.places is None:
        kind, positions = attention_of(mask, positions)
        return (mask.long() if kind == "mask" else None), positions, {}
    places = context.places
    if places.attention == "segments":
        # `transformers` hands on a mask of four dimensions as it is, and here nothing reads it
        return mask.new_ones(1, 1, 1, 1), places.positions, {KEYWORD: places.segments}
    return (mask.long() if places.attention == "mask" else None), places.positions, {}


def packing_problem(model: Any, longest: int) -> str:
    """Why a model cannot take several samples in a row, as a clause; empty if it can.

    Args:
        model: of transformers.
        longest: tokens of the longest sample.
    """
    name, config = type(model).__name__, model.config.get_text_config()
    if getattr(model, "_is_stateful", False):
        return f"{name} carries a state from token to token, and it would pass from one sample to the next"
    if not getattr(model, "_supports_attention_backend", False) or not model._supports_sdpa:
        return f"{name} does not let its attention be replaced"
    implementation = str(config._attn_implementation)
    if implementation not in (*REPLACED, NAME):
        return f"packing replaces the attention `sdpa` or `eager`, but the model uses {implementation!r}"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < longest:
        return f"its attention reaches back {window} tokens, fewer than the longest sample may have ({longest})"
    for term in ("attn_logit_softcapping", "attention_chunk_size"):
        if getattr(config, term, None) is not None:
            return f"the attention of {name} has `{term}`"
    return ""


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
