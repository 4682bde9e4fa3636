"""`gated_cross_attention`: new layers between the LLM's, in which text attends to the last medium before it.

Flamingo (Alayrac et al., arXiv 2204.14198, section 2.2 and appendix A.1.2), as OpenFlamingo (arXiv 2308.01390) and
Otter (arXiv 2305.03726) build it. The tokens of media are not part of the LLM's sequence, where one learned
embedding marks each medium. Gates start at zero, so that the new layers do not change the LLM's outputs at first.

Shapes: B samples, T tokens, D LLM width, M media of the slot, R tokens of a medium, D' their width, N media of the
sample that has most, H heads, E width of a head.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Context,
    Encoder,
    Features,
    FixedLength,
    Instruction,
    LanguageModel,
    RecipeError,
    SlotContext,
    load_strictly,
    locate,
    read_state,
    require_weights,
)

_KEY = re.compile(r"(?:.*\.)?(?:gated_cross_attn_layers\.(\d+)|(\d+)\.gated_cross_attn_layer)\.(.+)")
"""Keys of gated layers in checkpoints of OpenFlamingo and Otter: the number of the LLM's layer, then the name."""


@dataclass
class GatedCrossAttentionConfig:
    """Options of `gated_cross_attention`."""

    layer_interval: int = 4
    """Distance between gated layers: 4 puts one before layers 4, 8, 12, ... of the LLM (counted from 1)."""
    heads: int = 8
    """H, attention heads of a gated layer."""
    head_width: int = 64
    """E, width of an attention head."""
    mlp_ratio: int = 4
    """Hidden width of the MLP of a gated layer, as a multiple of the LLM's width."""
    only_immediate: bool = True
    """`true`: text attends to the last medium before it only; `false`: to all media before it."""
    marker: bool = True
    """`true`: a learned embedding marks the medium in the LLM's sequence, as Flamingo's `<image>` token does; `false`:
    nothing marks it."""
    path: str | None = None
    """Pretrained weights of the gated layers: a checkpoint file of OpenFlamingo or Otter. The embedding of their
    `<image>` token is not loaded."""

    renamed: ClassVar[Mapping[str, str]] = {"every": "layer_interval"}

    def __post_init__(self) -> None:
        for name in ("layer_interval", "heads", "head_width", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} ({getattr(self, name)}) must be at least 1.")


class GatedCrossAttentionAdapter(Adapter):
    """Tokens [M, R, D'] -> one learned embedding for each medium [M, 1, D]; the tokens themselves are kept as `memory`.

    Parameters are `marker` and `layers.INDEX.*`, INDEX being that of the LLM's layer (from 0) which follows the gated
    one, with OpenFlamingo's names below it. The marker starts as a new embedding of the LLM does (normal, 0.02), all
    else as in OpenFlamingo: torch's defaults, gates at zero.

    Other adapters of the same slot may keep tokens too: text attends to all tokens of a medium's `memory`.
    """

    Config = GatedCrossAttentionConfig
    contract = 1
    packs = True
    card = Card(
        paper="Alayrac et al., Flamingo: a Visual Language Model for Few-Shot Learning, arXiv 2204.14198",
        weights="none, unless `path` is set: then those of OpenFlamingo or Otter, by their authors' terms",
        tokens="1, which marks the medium (0 with `marker: false`); its own tokens are not part of the sequence",
    )

    def __init__(self, config: GatedCrossAttentionConfig, width: int, llm_width: int) -> None:
        super().__init__(config, width, llm_width)
        self.config = config
        require_weights(config.path)
        self.length = FixedLength(int(config.marker))
        self.marker = nn.Parameter(torch.randn(llm_width) * 0.02) if config.marker else None
        self.layers = nn.ModuleDict()
        """Filled by `install`, which knows the LLM's layers."""
        self._memory_width = width
        self._weights: dict[str, Tensor] | None = None

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Two gated layers."""
        del folder
        return AdapterExample({"layer_interval": 2, "heads": 2, "head_width": 8}, text_unchanged=True)

    def load(self) -> None:
        """Read the weights of `path`; `install` puts them into the layers.

        Raises:
            RecipeError: the file does not exist, or contains no gated layers.
        """
        path = self.config.path
        if path is not None:
            self._weights = _gated_weights(read_state(locate(path)), path)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Put the gated layers before layers of the LLM.

        Raises:
            RecipeError: the LLM has fewer layers than `layer_interval`, `path` contains other layers, or the adapter
                is shared.
        """
        del encoder
        config, patching = self.config, llm.patching
        if self.layers:
            raise RecipeError(
                f"gated_cross_attention: input {slot!r} cannot share this adapter, because its layers already attend "
                f"to the media of another input. Give input {slot!r} an adapter of its own; encoders can be shared."
            )
        chosen = [layer for layer in patching.layers if (layer.index + 1) % config.layer_interval == 0]
        if not chosen:
            raise RecipeError(
                f"gated_cross_attention: `layer_interval: {config.layer_interval}` leaves no place for a gated layer, "
                f"because the LLM has only {len(patching.layers)} layers. Set it to at most {len(patching.layers)}."
            )
        for layer in chosen:
            gated = GatedLayer(config, self._memory_width, llm.width)
            self.layers[str(layer.index)] = gated
            patching.around(layer.block, functools.partial(_through, gated, slot))
        if self._weights is not None:
            load_strictly(self.layers, self._weights, f"gated_cross_attention.path {config.path!r}")
            self._weights = None

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, R, D'] -> Features [M, 1, D], or [M, 0, D] without `marker`, with those given as `memory`.

        Raises:
            RecipeError: an adapter before it in a chain already keeps tokens for the LLM's layers.
        """
        del instruction
        if features.memory is not None:
            raise RecipeError(
                "gated_cross_attention: an adapter before it in the chain already keeps tokens for the LLM's layers, "
                "and they would be lost. Remove one of the two adapters, or make them separate branches of the input."
            )
        # padding may contain infinities, and 0 attention times infinity is not 0
        kept = features.with_values(features.values.masked_fill(~features.mask.unsqueeze(-1), 0.0))
        marker = features.values.new_empty(0, self.width) if self.marker is None else self.marker.unsqueeze(0)
        rows = marker.expand(len(features.values), -1, -1)
        return Features(rows, features.mask.new_ones(rows.shape[:2]), memory=kept)


class GatedLayer(nn.Module):
    """Cross-attention and an MLP, each added to the hidden states by the tanh of its gate. Named as in OpenFlamingo."""

    def __init__(self, config: GatedCrossAttentionConfig, memory_width: int, width: int) -> None:
        super().__init__()
        self.attn = MediaAttention(config, memory_width, width)
        self.attn_gate = nn.Parameter(torch.zeros(1))
        hidden = config.mlp_ratio * width
        up, down = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)
        self.ff = nn.Sequential(nn.LayerNorm(width), up, nn.GELU(), down)
        self.ff_gate = nn.Parameter(torch.zeros(1))

    def forward(self, hidden: Tensor, media: SlotContext | None) -> Tensor:
        """Hidden states [B, T, D] -> [B, T, D], in their dtype; `media` is None if the batch has none.

        The MLP changes text without media too, so that a text gives the same alone and in a batch with media.
        """
        dtype = self.attn_gate.dtype
        if media is not None:
            change: Tensor = self.attn_gate.tanh() * self.attn(hidden.to(dtype), media)
            hidden = hidden + change.to(hidden.dtype)
        change = self.ff_gate.tanh() * self.ff(hidden.to(dtype))
        return hidden + change.to(hidden.dtype)


class MediaAttention(nn.Module):
    """Attention of tokens to the tokens of media before them, in their own sample."""

    def __init__(self, config: GatedCrossAttentionConfig, memory_width: int, width: int) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_width
        self.only_immediate = config.only_immediate
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(memory_width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, media: SlotContext) -> Tensor:
        """Hidden states [B, T, D] -> [B, T, D]: zero for tokens that see no medium."""
        memory, table, visible = _view(media, self.only_immediate)
        keys, values = self.to_kv(memory.values.to(hidden.dtype))[table].flatten(1, 2).chunk(2, dim=-1)
        mask = (visible.unsqueeze(-1) & memory.mask[table].unsqueeze(1)).flatten(2)
        sighted = mask.any(dim=-1, keepdim=True)
        # some kernels do not return zero where everything is masked: let such tokens attend to all, then drop the
        # result
        rows = (self.to_q(self.norm(hidden)), keys, values)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in rows)
        mixed = scaled_dot_product_attention(query, key, value, (mask | ~sighted).unsqueeze(1))
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2).masked_fill(~sighted, 0.0))
        return out


def _view(media: SlotContext, only_immediate: bool) -> tuple[Features, Tensor, Tensor]:
    """What the tokens may look at.

    Returns:
        memory: tokens of media; of a single token, as generation has them, only those of the medium that it sees.
        table: [B, N] which of these media belong to each sample, in order; any where it has fewer.
        visible: [B, T, N] bool, which of its sample's media a token sees.
    """
    memory = media.features.memory
    assert memory is not None, "the adapter of this slot keeps its tokens there"
    table, seen = media.table, media.seen.unsqueeze(-1)
    if only_immediate and seen.shape[1] == 1:  # a decoding step: keys and values of other media are not needed
        last = table.gather(1, (media.seen - 1).clamp(min=0))
        chosen = last.squeeze(1).clamp(min=0)
        number = torch.arange(len(last), device=last.device).unsqueeze(1)
        return Features(memory.values[chosen], memory.mask[chosen]), number, seen > 0
    order = torch.arange(1, table.shape[1] + 1, device=table.device)
    visible = order == seen if only_immediate else order <= seen
    if media.unseen is not None:
        visible &= order > media.unseen.unsqueeze(-1)
    return memory, table.clamp(min=0), visible


def _through(
    gated: nn.Module, slot: str, plain: Callable[..., Any], context: Context | None, hidden: Tensor, *args: Any,
    **kwargs: Any,
) -> Any:  # fmt: skip
    """A layer of the LLM with a gated one before it."""
    media = None if context is None else context.media.get(slot)
    return plain(gated(hidden, media), *args, **kwargs)


def _gated_weights(state: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The gated layers' part of a checkpoint, as `layers` names it."""
    weights = {}
    for key, value in state.items():
        if match := _KEY.fullmatch(key):
            name = match[3].replace("feed_forward.", "ff.")  # Otter's name of it
            weights[f"{match[1] or match[2]}.{name}"] = value
    if not weights:
        raise RecipeError(
            f"gated_cross_attention.path {path!r}: the file contains no gated layers. Their weights are named "
            f"`...gated_cross_attn_layers.3.attn.to_q.weight` or `...3.gated_cross_attn_layer.attn.to_q.weight`; the "
            f"keys of this file begin with {', '.join(list(state)[:3]) or 'nothing'}."
        )
    return weights
