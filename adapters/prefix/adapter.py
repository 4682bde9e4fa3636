"""`prefix`: learned prompts beside the text, to which every token of the upper layers attends through a gate of zero.

LLaMA-Adapter (Zhang et al., arXiv 2303.16199, section 3), with media as LLaMA-Adapter V2 (Gao et al., arXiv 2304.15010)
and ImageBind-LLM (Han et al., arXiv 2309.03905) add them: the rows of media stay out of the LLM's sequence and are
added to the prompts. The layer's own maps make keys and values of the prompts; what a token finds there, softmax by
itself, is added to what its attention found, times the tanh of a gate for each head. Gates start at zero, so that the
LLM gives at first what it gives without.

Shapes: B samples, T tokens, D LLM width, M media of the slot, R their rows, N prompts, H heads, E width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omnivit_adapters.prefix.attention import Beside, beside, check_attention, keys_and_values
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
    """What a recipe may say to `prefix`."""

    prompts: int = 10
    """N, learned rows for each layer; 1: the vector of ImageBind-LLM."""
    layers: int | None = None
    """How many of the topmost layers have prompts. Default: all but the lowest two, as LLaMA-Adapter (30 of 32)."""
    bias_scale: bool = False
    """Learn an offset and a factor of every linear map of the LLM's layers too: factor * (map(x) + offset)."""

    def __post_init__(self) -> None:
        if self.prompts < 1:
            raise ValueError(f"prompts ({self.prompts}) must be at least 1.")
        if self.layers is not None and self.layers < 1:
            raise ValueError(f"layers ({self.layers}) must be at least 1.")


@dataclass(frozen=True)
class PrefixLength:
    """No rows in the LLM's sequence; one row or as many as prompts are taken."""

    prompts: int

    def __call__(self, layout: Layout) -> Layout:
        """Raises RecipeError for another number of rows."""
        if layout.rows not in (1, self.prompts):
            wanted = "1 row" if self.prompts == 1 else f"1 row or {self.prompts} (one for each of `prompts`)"
            raise RecipeError(
                f"prefix: a medium has {layout.rows} rows, which cannot be added to {self.prompts} prompts: it must "
                f"have {wanted}. Put an adapter that gives so many before it (`chain`: `resampler` or `qformer` with "
                f"that number of queries), or say `prompts: {layout.rows}`."
            )
        return Layout(0)


class PrefixAdapter(Adapter):
    """Rows [M, R, D], R being 1 or N -> no rows in the sequence [M, 0, D]; N rows a medium are kept as `memory`.

    Parameters are `layers.INDEX.prompts` [N, D] and `layers.INDEX.gate` [H], INDEX being that of the LLM's layer (from
    0), and with `bias_scale` `maps.INDEX.NAME.bias` and `.scale`. Prompts start as a new embedding of torch does
    (normal, 1) and gates at zero, as the authors leave them; offsets at zero, factors at one.

    A sample with several media has their mean added to its prompts, one without has the prompts as they are. Inputs may
    share the adapter: their media are then averaged together.
    """

    Config = PrefixConfig
    contract = 1
    card = Card(
        paper="Zhang et al., LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention, arXiv "
        "2303.16199; Gao et al., LLaMA-Adapter V2: Parameter-Efficient Visual Instruction Model, arXiv 2304.15010",
        tokens="0: a medium is added to prompts beside the sequence",
    )

    def __init__(self, config: PrefixConfig, width: int, llm_width: int) -> None:
        """Raises RecipeError where the rows have not the LLM's width."""
        super().__init__(config, width, llm_width)
        if width != llm_width:
            raise RecipeError(
                f"prefix: the rows that it adds to prompts must have the LLM's width ({llm_width}), but have {width}. "
                f"Put `linear` or `mlp` before it: `chain: steps: [..., {{name: linear}}, {{name: prefix}}]`."
            )
        self.config = config
        self.length = PrefixLength(config.prompts)
        self.layers = nn.ModuleDict()
        """Filled by `install`, which knows the layers; so is the next."""
        self.maps = nn.ModuleDict()
        self._slots: list[str] = []

    @classmethod
    def example(cls, folder: Path) -> AdapterExample:
        """Seven prompts in two layers; it stands after what maps to the LLM."""
        del folder
        return AdapterExample({"prompts": 7, "layers": 2, "bias_scale": True}, width=32, text_unchanged=True)

    def install(self, llm: LanguageModel, encoder: Encoder, slot: str) -> None:
        """Give the topmost layers of the LLM their prompts.

        Raises:
            RecipeError: the LLM has fewer layers than `layers`, or its attention cannot be extended.
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
            patching.around(layer.attention, functools.partial(self._through, part, beside(layer.attention), patching))
        if self.config.bias_scale:
            for layer in patching.layers:
                self.maps[str(layer.index)] = _scaled(layer, patching)

    def forward(self, features: Features, instruction: Instruction | None = None) -> Features:
        """Features [M, R, D] -> Features [M, 0, D], with N rows a medium as `memory`.

        Raises:
            RecipeError: an adapter before it in a chain has kept rows for the LLM's layers already.
        """
        del instruction
        if features.memory is not None:
            raise RecipeError(
                "prefix: an adapter before it in the chain keeps rows for the LLM's layers already, which would be "
                "lost. Leave one of them out, or give them inputs of their own."
            )
        rows = _spread(features, self.config.prompts)
        kept = Features(rows, features.mask.new_ones(rows.shape[:2]))
        return Features(rows[:, :0], features.mask[:, :0], memory=kept)

    def _through(
        self, part: Prefix, state: Beside, patching: Patching, plain: Callable[..., Any], context: Context | None,
        *args: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """An attention of the LLM with the prompts beside it."""

        def add(attention: nn.Module, query: Tensor, scaling: float) -> Tensor:
            prompts = self._with_media(part.prompts, context, len(query))
            with patching.apart():
                keys, values = keys_and_values(attention, prompts)
            found: Tensor = part(query, keys, values, scaling)
            return found

        with state.calling(add):
            return plain(*args, **kwargs)

    def _with_media(self, prompts: Tensor, context: Context | None, size: int) -> Tensor:
        """Prompts [N, D] -> [B, N, D], each sample's media added, or [1, N, D] where there are none."""
        found = [context.media[slot] for slot in self._slots if context is not None and slot in context.media]
        if not found:
            return prompts.unsqueeze(0)
        total, count = prompts.new_zeros(size, *prompts.shape), prompts.new_zeros(size)
        for media in found:
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
        """What the tokens find in the prompts, gated.

        Args:
            query: [B, H, T, E] as the attention compares them with its keys.
            keys: [B or 1, H, N, E] of the prompts; values alike.
            scaling: of the products.

        Returns:
            [B, T, H, E].
        """
        keys, values = (rows.to(query.dtype).expand(len(query), -1, -1, -1) for rows in (keys, values))
        mixed = scaled_dot_product_attention(query, keys, values, scale=scaling)
        gated: Tensor = self.gate.tanh().view(1, 1, -1, 1) * mixed.transpose(1, 2)
        return gated


class BiasScale(nn.Module):
    """factor * (rows + offset), for what a linear map gives."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [..., D] -> [..., D], in their dtype."""
        changed: Tensor = self.scale * (rows + self.bias)
        return changed.to(rows.dtype)


def _scaled(layer: Layer, patching: Patching) -> nn.ModuleDict:
    """An offset and a factor for each linear map of a layer's attention and MLP, put around it."""
    children = [*layer.attention.named_children(), *layer.mlp.named_children()]
    parts = nn.ModuleDict()
    for name, child in children:
        if isinstance(child, nn.Linear):
            parts[name] = BiasScale(child.out_features)
            patching.around(child, functools.partial(_after, parts[name]))
    return parts


def _after(part: nn.Module, plain: Callable[..., Tensor], context: Context | None, *args: Any, **kwargs: Any) -> Tensor:
    del context
    found: Tensor = part(plain(*args, **kwargs))
    return found


def _topmost(layers: tuple[Layer, ...], count: int | None) -> tuple[Layer, ...]:
    if count is None:
        count = max(1, len(layers) - 2)
    if count > len(layers):
        raise RecipeError(f"prefix: `layers: {count}`, but the LLM has {len(layers)}. Say at most {len(layers)}.")
    return layers[len(layers) - count :]


def _spread(features: Features, prompts: int) -> Tensor:
    """[M, R, D] -> [M, N, D]: the real rows of media that have N, the one row of others N times."""
    first = features.mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    index = first[:, torch.arange(prompts, device=first.device).clamp(max=first.shape[1] - 1)]
    index = torch.where(features.lengths().unsqueeze(1) == 1, first[:, :1], index)
    return features.values.gather(1, index.unsqueeze(-1).expand(-1, -1, features.values.shape[2]))


def _memory(features: Features, prompts: int) -> Tensor:
    """[M, N, D] what `forward` kept. Raises RecipeError where another branch of the input has kept rows too."""
    assert features.memory is not None, "the adapter of this slot keeps its rows there"
    rows = features.memory.values
    if rows.shape[1] != prompts:
        raise RecipeError(
            f"prefix: another branch of its input keeps {rows.shape[1] - prompts} rows for the LLM's layers too, which "
            f"cannot be told from those of {prompts} prompts. Give the two adapters inputs of their own."
        )
    return rows
