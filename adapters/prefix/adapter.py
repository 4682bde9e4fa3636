"""`prefix`: learned prompts, to which every token of the upper layers attends through a gate that starts at zero.

LLaMA-Adapter (Zhang et al., arXiv 2303.16199, section 3), with media as LLaMA-Adapter V2 (Gao et al., arXiv 2304.15010)
and ImageBind-LLM (Han et al., arXiv 2309.03905) add them: the tokens of media are not part of the LLM's sequence and
are added to the prompts. The layer's own projections compute keys and values of the prompts; the result of attention to
the prompts, with a softmax of its own, is multiplied by the tanh of a gate for each head and added to the result of the
layer's attention. Gates start at zero, so that the LLM's outputs do not change at first.

Shapes: B samples, T tokens, D LLM width, M media of the slot, R their tokens, N prompts, H heads, E width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omnivit_adapters.prefix.attention import Prefixed, check_attention, keys_and_values, prefixed
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from omnivit.plugin import (
    Adapter,
    AdapterExample,
    Card,
    Context,
    Encoder,
    Features,
    Instruction,
    LanguageModel,
    Layer,
    Layout,
    Patching,
    RecipeError,
)


@dataclass
class PrefixConfig:
    """Options of `prefix`."""

    prompts: int = 10
    """N, number of learned prompts in each layer. LLaMA-Adapter: 10; ImageBind-LLM: 1."""
    layers: int | None = None
    """Number of upper layers with prompts; default: all but the lowest two, as LLaMA-Adapter (30 of 32)."""
    bias_scale: bool = False
    """Learn a bias and a scale for every linear layer of the LLM's layers too: scale * (linear(x) + bias)."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"prompts ({self.prompts}) must be at least 1.")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers ({self.layers}) must be at least 1.")


@dataclass(frozen=True)
class PrefixLength:
    """No tokens in the LLM's sequence, from one token or as many tokens as prompts."""

    prompts: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for another number of tokens."""
        if layout.tokens not in (1, self.prompts):
            expected = "1 token" if self.prompts == 1 else f"1 token, or {self.prompts} (one for each prompt)"
            raise RecipeError(
                f"prefix: a medium has {layout.tokens} tokens, which cannot be added to {self.prompts} prompts. It "
                f"must have {expected}. Put `resampler` or `qformer` with that number of queries before `prefix` in a "
                f"`chain`, or set `prompts: {layout.tokens}`."
            )
        return Layout(0)


class PrefixAdapter(Adapter):
    """Tokens [M, R, D], R being 1 or N -> no tokens in the sequence [M, 0, D]; N tokens for each medium are kept as
    `memory`.

    Parameters are `layers.INDEX.prompts` [N, D] and `layers.INDEX.gate` [H], INDEX being that of the LLM's layer (from
    0), and with `bias_scale` `maps.INDEX.NAME.bias` and `.scale`. Prompts are initialised as an embedding of torch
    (normal, 1) and gates at zero, as in the authors' code; biases at zero, scales at one.

    The mean of all media of a sample is added to its prompts; without media the prompts do not change. If inputs share
    the adapter, the mean is over the media of all of them.
    """

    Config = PrefixConfig
    contract = 1
    card = Card(
        paper="Zhang et al., LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention, arXiv "
        "2303.16199; Gao et al., LLaMA-Adapter V2: Parameter-Efficient Visual Instruction Model, arXiv 2304.15010",
        tokens="0: a medium is added to the prompts, which are not part of the sequence",
    )

    def __init__(self, config: PrefixConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError if the width of the tokens is not the LLM's."""
        super().__init__(config, width, llm_width)
        if width != llm_width:
            raise RecipeError(
                f"prefix: the tokens must have the LLM's width ({llm_width}), but their width is {width}. Put `linear` "
                f"or `mlp` before `prefix`: `chain: steps: [..., {{name: linear}}, {{name: prefix}}]`."
            )
        self.config = config
        self.length = PrefixLength(config.prompts)
        self.layers = nn.ModuleDict()
        """Filled by `install`, which knows the layers; `maps` too."""
        self.maps = nn.ModuleDict()
        self._slots: list[str] = []

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Seven prompts in two layers, at the width of the LLM."""
        del folder
        return AdapterExample({"prompts": 7, "layers": 2, "bias_scale": True}, width=32, text_unchanged=True)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Add prompts to the upper layers of the LLM.

        Raises:
            RecipeError: the LLM has fewer layers than `layers`, or its attention is not supported.
        """
        del encoder
        self._slots.append(slot)
        if len(self._slots) > 1:
            return
        patching = llm.patching
        for layer in _topmost(patching.layers, self.config.layers):
            check_attention(layer.attention)
            part = Prefix(self.config.prompts, llm.width, layer.attention)
            self.layers[str(layer.index)] = part
            patching.around(
                layer.attention, functools.partial(self._through, part, prefixed(layer.attention), patching)
            )
        if self.config.bias_scale:
            for layer in patching.layers:
                self.maps[str(layer.index)] = _scaled(layer, patching)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, R, D] -> Features [M, 0, D], with N tokens for each medium as `memory`.

        Raises:
            RecipeError: an adapter before it in a chain already keeps tokens for the LLM's layers.
        """
        del instruction
        if features.memory is not None:
            raise RecipeError(
                "prefix: an adapter before it in the chain already keeps tokens for the LLM's layers, and they would "
                "be lost. Remove one of the two adapters, or use them in separate inputs."
            )
        rows = _spread(features, self.config.prompts)
        kept = Features(rows, features.mask.new_ones(rows.shape[:2]))
        return Features(rows[:, :0], features.mask[:, :0], memory=kept)

    def _through(
        self, part: Prefix, state: Prefixed, patching: Patching, plain: Callable[..., Any], context: Context | None,
        *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """An attention of the LLM, extended by the prompts."""

        def add(attention: nn.Module, query: Tensor, scaling: float) -> Tensor:
            prompts = self._with_media(part.prompts, context, len(query))
            with patching.apart():
                keys, values = keys_and_values(attention, prompts)
            gated: Tensor = part(query, keys, values, scaling)
            return gated

        with state.calling(add):
            return plain(*args, **kwargs)

    def _with_media(self, prompts: Tensor, context: Context | None, size: int) -> Tensor:
        """Prompts [N, D] -> [B, N, D] with each sample's media added, or [1, N, D] if there are none."""
        inputs = [context.media[slot] for slot in self._slots if context is not None and slot in context.media]
        if not inputs:
            return prompts.unsqueeze(0)
        total, count = prompts.new_zeros(size, *prompts.shape), prompts.new_zeros(size)
        for media in inputs:
            rows = _memory(media.features, len(prompts))
            total = total.index_add(0, media.samples, rows.to(total.dtype))
            count = count.index_add(0, media.samples, count.new_ones(len(rows)))
        return prompts + total / count.clamp(min=1).view(-1, 1, 1)


class Prefix(nn.Module):
    """The prompts of one layer, and the gates of its heads."""

    def __init__(self, prompts: int, width: int, attention: nn.Module) -> None:
        super().__init__()
        heads: int = attention.config.num_attention_heads  # type: ignore[union-attr, assignment]
        self.prompts = nn.Parameter(torch.randn(prompts, width))
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """The result of attention to the prompts, gated.

        Args:
            query: [B, H, T, E] as the attention multiplies them with its keys.
            keys: [B or 1, H, N, E] of the prompts, as the values.
            scaling: of the products.

        Returns:
            [B, T, H, E].
        """
        keys, values = (rows.to(query.dtype).expand(len(query), -1, -1, -1) for rows in (keys, values))
        mixed = scaled_dot_product_attention(query, keys, values, scale=scaling)
        gated: Tensor = self.gate.tanh().view(1, 1, -1, 1) * mixed.transpose(1, 2)
        return gated


class BiasScale(nn.Module):
    """scale * (tokens + bias), for the output of a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Tokens [..., D] -> [..., D], in their dtype."""
        changed: Tensor = self.scale * (rows + self.bias)
        return changed.to(rows.dtype)


def _scaled(layer: Layer, patching: Patching) -> nn.ModuleDict:
    """Add a bias and a scale to each linear layer of a layer's attention and MLP."""
    children = [*layer.attention.named_children(), *layer.mlp.named_children()]
    parts = nn.ModuleDict()
    for name, child in children:
        if isinstance(child, nn.Linear):
            parts[name] = BiasScale(child.out_features)
            patching.around(child, functools.partial(_after, parts[name]))
    return parts


def _after(part: nn.Module, plain: Callable[..., Tensor], context: Context | None, *args: Any, **kwargs: Any) -> Tensor:
    del context
    scaled: Tensor = part(plain(*args, **kwargs))
    return scaled


def _topmost(layers: tuple[Layer, ...], count: int | None) -> tuple[Layer, ...]:
    if count is None:
        count = max(1, len(layers) - 2)
    if count > len(layers):
        raise RecipeError(
            f"prefix: `layers` is {count}, but the LLM has only {len(layers)} layers. Set it to at most {len(layers)}."
        )
    return layers[len(layers) - count :]


def _spread(features: Features, prompts: int) -> Tensor:
    """[M, R, D] -> [M, N, D]: the N tokens of a medium, or its one token N times."""
    # indices of the tokens without padding first
    first = features.mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    index = first[:, torch.arange(prompts, device=first.device).clamp(max=first.shape[1] - 1)]
    index = torch.where(features.lengths().unsqueeze(1) == 1, first[:, :1], index)
    return features.values.gather(1, index.unsqueeze(-1).expand(-1, -1, features.values.shape[2]))


def _memory(features: Features, prompts: int) -> Tensor:
    """[M, N, D] the memory of `forward`. Raises RecipeError if another branch of the input keeps tokens too."""
    assert features.memory is not None, "the adapter of this slot keeps tokens in memory"
    rows = features.memory.values
    if rows.shape[1] != prompts:
        raise RecipeError(
            f"prefix: another branch of the input keeps {rows.shape[1] - prompts} tokens for the LLM's layers too, and "
            f"they cannot be distinguished from the {prompts} tokens for the prompts. Use the two adapters in separate "
            f"inputs."
        )
    return rows
